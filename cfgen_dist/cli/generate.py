"""`cfgen-dist generate`."""

from cfgen_dist.cli.values import pairs
from cfgen_dist.model.solvers import SOLVERS


def configure(parser):
    """Add the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="model bundle, or a run that holds one")
    parser.add_argument("out", metavar="OUT", help="atlas store to write")
    parser.add_argument("--cells", type=int, metavar="N", help="number of cells")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE[,...]|FILE",
        help="fix some attributes, or a CSV with a column per attribute and n",
    )
    parser.add_argument("--guidance", metavar="NAME=WEIGHT[,...]", help="weight of each attribute; left out means 0")
    parser.add_argument("--solver", help=f"one of {', '.join(SOLVERS)}; the bundle's default otherwise")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a fixed-step solver")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--shard-size", type=int, default=None, metavar="N", help="cells per shard")
    parser.add_argument("--resume", action="store_true", help="finish an interrupted generation")


def run(args):
    """Generate."""
    from pathlib import Path

    from cfgen_dist.generate import generate
    from cfgen_dist.plan import SHARD_SIZE, read_label_table

    if args.labels and Path(args.labels).suffix in (".csv", ".parquet"):
        labels = read_label_table(args.labels)
    else:
        labels = pairs(args.labels, "--labels")
    guidance = pairs(args.guidance, "--guidance", float) if args.guidance else None
    summary = generate(
        args.bundle, args.out, args.cells, labels=labels, guidance=guidance, solver=args.solver, steps=args.steps,
        seed=args.seed, shard_size=SHARD_SIZE if args.shard_size is None else args.shard_size, resume=args.resume,
    )  # fmt: skip
    print(f"{summary['path']}: {summary['cells']:,} cells, {summary['cells_per_second']:,.0f} cells/s")
