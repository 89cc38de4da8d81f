"""`cfgen-dist translate`."""

import argparse

from cfgen_dist.cli.making import add_flow, add_workers, making_options, print_summary
from cfgen_dist.cli.values import pairs

SCORES = {
    "batch_asw": "mixing: silhouette by batch", "ilisi": "mixing: iLISI", "kbet": "mixing: kBET acceptance",
    "label_asw": "labels: silhouette", "label_purity": "labels: purity of neighbours", "label_ari": "labels: ARI",
    "label_nmi": "labels: NMI", "target_w2": "W2 to the target's cells (lower is better)",
    "target_mmd": "MMD to the target's cells (lower is better)",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="model bundle, or a run that holds one")
    parser.add_argument("atlas", metavar="ATLAS", help="real cells with the genes of the model")
    parser.add_argument("out", metavar="OUT", help="atlas store to write; the scores go to OUT.scores.json")
    parser.add_argument("--to", required=True, metavar="NAME=VALUE[,...]", help="label that the cells shall have")
    parser.add_argument(
        "--label", metavar="NAME", help="label that must be kept, for the scores (default: cell_type, or another one)"
    )
    parser.add_argument("--split", default="all", metavar="NAME", help="train, val, test or all (the default)")
    parser.add_argument(
        "--where", metavar="NAME=VALUE[,...]", help="which cells: those with these labels, such as condition=ctrl"
    )
    add_flow(parser)
    add_workers(parser, gpus=True)


def run(args: argparse.Namespace) -> None:
    """Translate and show the scores before and after."""
    from rich.console import Console
    from rich.table import Table

    from cfgen_dist.translation.run import translate

    split = None if args.split == "all" else args.split
    options = making_options(args)
    summary = translate(
        args.bundle,
        args.atlas,
        args.out,
        pairs(args.to, "--to"),
        label=args.label,
        split=split,
        where=pairs(args.where, "--where"),
        **options,
    )
    scores = summary["scores"]
    title = f"{scores['batch']}, keeping {scores['label'] or 'no label'}"
    table = Table(f"{scores['cells']:,} cells", "before", "after", title=title)
    for key, words in SCORES.items():
        table.add_row(words, *("" if (v := scores[when][key]) is None else f"{v:.3f}" for when in ("before", "after")))
    Console().print(table)
    print_summary(summary)
