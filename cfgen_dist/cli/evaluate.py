"""`cfgen-dist evaluate`: compare generated cells with real ones, write metrics.json, report.html and figures."""

import argparse

from cfgen_dist.cli.making import add_workers
from data_loaders.storage import place


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("real", metavar="REAL", help="the atlas with real train and test cells")
    parser.add_argument(
        "generated", metavar="GENERATED", nargs="+",
        help="a generated atlas, split into sets as far as its cells reach; or several, each one set",
    )  # fmt: skip
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the report; replaces an earlier report only"
    )
    parser.add_argument("--label", metavar="NAME", help="obs column of the types (default: cell_type, or the only one)")
    parser.add_argument(
        "--protocol", choices=("centred", "paper"), default="centred",
        help="paper: as the tables of the CFGen paper were made, whose figures are other measures of the same names: "
        "uncentred, linear-time MMD, F1 inside single types (default centred)",
    )  # fmt: skip
    parser.add_argument(
        "--sets", type=int, default=3, metavar="N", help="generated sets to split one store into (default 3)"
    )
    parser.add_argument("--floor-sets", type=int, default=5, metavar="N", help="sets of training cells (default 5)")
    parser.add_argument(
        "--control", action="store_true", help="also score cells whose genes were drawn independently inside each type"
    )
    parser.add_argument(
        "--no-ceiling", dest="ceiling", action="store_false",
        help="do not score what a perfect model that knows as many training cells would make",
    )  # fmt: skip
    parser.add_argument(
        "--embedding", choices=("umap", "pca"), default="umap", help="figure of the cells (default umap)"
    )
    parser.add_argument("--run", metavar="RUN", help="a training run, to show its training curves")
    parser.add_argument(
        "--audit", metavar="DIR", help="what `cfgen-dist audit` wrote of the same cells, for a section of the report"
    )
    parser.add_argument(
        "--markers", metavar="TABLE", help="CSV with columns type and feature; of several modalities found by default"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="start of all random numbers (default 0)")
    parser.add_argument("--shard-size", type=int, metavar="N", help="cells that a worker reads and commits at a time")
    add_workers(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, write the report and print the verdict."""
    from cfgen_dist.evaluation.run import evaluate

    options = {"shard_size": args.shard_size} if args.shard_size is not None else {}
    result = evaluate(
        args.real, args.generated, args.out, label=args.label, protocol=args.protocol, sets=args.sets,
        floor_sets=args.floor_sets, control=args.control, ceiling=args.ceiling, embedding=args.embedding, run=args.run,
        audit=args.audit, seed=args.seed,
        markers=args.markers, resume=args.resume, ray=args.ray, workers=args.workers, **options,
    )  # fmt: skip
    for key in ("protocol_says", "warnings", "verdict", "ceiling_says"):
        for sentence in result.get(key, ()):
            print(sentence)
    print(f"Report: {(place(args.out) / 'report.html').shown}")
