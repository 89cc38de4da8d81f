"""`cfgen-dist ingest`: turn h5ad, 10x or Zarr counts into an atlas."""

import argparse

from cfgen_dist.cli.values import pairs
from data_loaders.errors import BadInput

SHOWN = 20  # sources and notes that are printed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SRC",
        help=".h5ad, AnnData-Zarr, 10x .h5, folder with matrix.mtx, SOMA, table, Parquet; a pattern, a "
        "folder, a list of paths",
    )
    parser.add_argument("out", metavar="OUT", help="the store to write; must not exist")
    parser.add_argument(
        "--modality",
        action="append",
        metavar="NAME=PATH",
        help="in place of SRC: a source of rna, atac, ...; again for each, the same PATH where it has several types of "
        "features; FILE.h5mu:NAME is one modality of a file",
    )
    parser.add_argument(
        "--cells",
        default="same",
        choices=["same", "shared", "rna"],
        help="cells that modalities must share (same), cells to keep when they differ: shared ones, or all of rna",
    )
    parser.add_argument("--labels", default="", metavar="A,B", help="obs columns to condition on; the first stratifies")
    parser.add_argument(
        "--min-cells",
        type=int,
        default=20,
        metavar="N",
        help="drop genes seen in fewer training or validation cells (default 20)",
    )
    parser.add_argument(
        "--genes",
        metavar="hvg:N|FILE",
        help="the N genes that vary most among training and validation cells, or a list, one name a line",
    )
    parser.add_argument(
        "--test-fraction", type=float, default=0.2, metavar="F", help="share of test cells (default 0.2)"
    )
    parser.add_argument(
        "--holdout",
        metavar="COLUMN=F|NAME=VALUE[,...]",
        help="test on whole donors: a column and the share held out; or on one combination of labels",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="share of the other cells to validate on (default 0.1)",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="take the counts from this layer (SOMA: X layer; Parquet: list)"
    )
    parser.add_argument("--raw", action="store_true", help="take the counts from raw")
    parser.add_argument("--genes-in", choices=["rows", "columns"], help="of text tables whose names do not tell")
    parser.add_argument(
        "--genes-table",
        metavar="TABLE",
        help="of Parquet of cells: the genes of its tokens (default: beside the files)",
    )
    parser.add_argument("--organism", metavar="NAME", help="of a CELLxGENE Census, such as homo_sapiens")
    parser.add_argument("--measurement", metavar="NAME", help="of a SOMA experiment (default: the only one, or RNA)")
    parser.add_argument(
        "--obs-filter", metavar="EXPR", help="take only these cells, such as 'tissue == \"lung\" and n_genes > 500'"
    )
    parser.add_argument("--join", choices=["inner", "outer"], help="keep shared genes, or all, when sources differ")
    parser.add_argument(
        "--min-shared",
        type=float,
        default=0.1,
        metavar="F",
        help="share of the shorter gene list that sources must have in common to be joined (default 0.1)",
    )
    parser.add_argument(
        "--var-names",
        action="append",
        metavar="COLUMN",
        help="var column with the gene names ('index': the index of var); once, or once for each source",
    )
    parser.add_argument(
        "--obs",
        dest="obs_files",
        action="append",
        metavar="TABLE",
        help="table of obs columns (CSV, TSV, Parquet); once, or once for each source",
    )
    parser.add_argument(
        "--unlabelled",
        default="refuse",
        choices=["refuse", "drop", "keep"],
        help="cells without a label: leave them out, or train on them without it",
    )
    parser.add_argument("--missing-values", default="", metavar="A,B", help="texts that are no label: nan,unknown")
    parser.add_argument("--drop-copies", action="store_true", help="leave out cells that are copies of others")
    parser.add_argument(
        "--round", dest="round_counts", action="store_true", help="round fractional counts (SoupX, DecontX)"
    )
    parser.add_argument("--drop-empty", action="store_true", help="leave cells without counts out")
    parser.add_argument("--keep-order", action="store_true", help="keep the order of the cells; shuffled by default")
    parser.add_argument("--skip-refused", action="store_true", help="go on without sources that cannot be used")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="start of all random numbers (default 0)")


def run(args: argparse.Namespace) -> None:
    """Write the atlas and say what was done."""
    import data_loaders
    from cfgen_dist.cli.words import in_options

    card = data_loaders.ingest(
        _sources(args.sources, args.modality),
        args.out,
        labels=[name.strip() for name in args.labels.split(",") if name.strip()],
        min_cells=args.min_cells,
        genes=args.genes,
        test_fraction=args.test_fraction,
        holdout=_parse_holdout(args.holdout) if args.holdout else None,
        val_fraction=args.val_fraction,
        layer=args.layer,
        raw=args.raw,
        genes_in=args.genes_in,
        genes_table=args.genes_table,
        join=args.join,
        cells=args.cells,
        obs_files=args.obs_files,
        drop_empty=args.drop_empty,
        keep_order=args.keep_order,
        organism=args.organism,
        measurement=args.measurement,
        obs_filter=args.obs_filter,
        var_names=args.var_names,
        min_shared=args.min_shared,
        missing_values=args.missing_values,
        unlabelled=args.unlabelled,
        drop_copies=args.drop_copies,
        round_counts=args.round_counts,
        skip_refused=args.skip_refused,
        seed=args.seed,
    )
    for source in card["sources"][:SHOWN]:
        size = f"{source['n_cells']:,} cells x {source['n_genes']:,} genes"
        print(f"{source['path']}: {size}, counts from {source['counts']}")
    parser = argparse.ArgumentParser()
    configure(parser)
    if len(card["sources"]) > SHOWN:
        print(f"and {len(card['sources']) - SHOWN:,} more sources")
    notes = [note for note in card["notes"] if not note.startswith("refused: ")]
    for note in notes[:SHOWN]:
        print(f"note: {in_options(note, parser, ())}")
    if len(notes) > SHOWN:
        print(f"and {len(notes) - SHOWN:,} more notes, in the card of {args.out}")
    for what, number in card["dropped"].items():
        if number:
            print(f"dropped: {number:,} {what.replace('_', ' ')}")
    for note in card["notes"]:
        if note.startswith("refused: "):
            print(note)
    splits = ", ".join(f"{n:,} {name}" for name, n in card["splits"].items())
    print(f"{args.out}: {card['n_cells']:,} cells x {card['n_genes']:,} genes ({splits})")


def _sources(paths: list[str], modalities: list[str] | None) -> list[str] | dict[str, list[str]]:
    """The sources as `data_loaders.ingest` takes them, of positional paths or --modality NAME=PATH options."""
    if not modalities:
        if not paths:
            raise BadInput("no sources; expected SRC... OUT, or --modality NAME=PATH for each modality and OUT")
        return paths
    if paths:
        raise BadInput(f"{paths[0]}: a source beside --modality; expected --modality NAME=PATH for every source")
    named: dict[str, list[str]] = {}
    for text in modalities:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise BadInput(f"--modality {text}: expected NAME=PATH, such as atac=peaks.h5ad")
        named.setdefault(name, []).append(path)
    return named


def _parse_holdout(text: str) -> tuple[str, float] | dict[str, str]:
    """COLUMN=SHARE as a pair, NAME=VALUE,... as a dict."""
    column, _, share = text.partition("=")
    try:
        return column, float(share)
    except ValueError:
        pass
    try:
        return pairs(text, "--holdout")
    except BadInput:
        raise BadInput(
            f"--holdout {text}: expected COLUMN=SHARE, such as donor=0.2, or a combination of labels, such as "
            "cell_type=B cells,condition=stim"
        ) from None
