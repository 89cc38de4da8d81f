"""`cfgen-dist generate`."""

from pathlib import Path

from cfgen_dist.cli.values import pairs
from cfgen_dist.model.solvers import SOLVERS
from data_loaders.errors import BadInput


def configure(parser):
    """Add the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="model bundle, or a run that holds one")
    parser.add_argument("out", metavar="OUT", help="atlas store to write")
    parser.add_argument("--cells", type=int, metavar="N", help="number of cells")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE[,...]|FILE",
        help="fix some attributes; or a CSV or Parquet table with a column per attribute and n",
    )
    add_sampling(parser)
    parser.add_argument("--plan", metavar="FILE", help="repeat the generation whose plan this is (OUT.plan.json)")
    add_workers(parser)


def add_sampling(parser):
    """Add the arguments that say how cells are drawn."""
    parser.add_argument("--size-factor", metavar="LAW", help="lognormal or resample; the bundle's default otherwise")
    add_flow(parser)


def add_flow(parser):
    """Add the arguments that say how the flow is integrated, and in what shards."""
    parser.add_argument("--guidance", metavar="NAME=WEIGHT[,...]", help="weight of each attribute; left out means 0")
    parser.add_argument("--solver", help=f"one of {', '.join(SOLVERS)}; the bundle's default otherwise")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a fixed-step solver")
    parser.add_argument("--seed", type=int, metavar="S", help="default 0")
    parser.add_argument("--device", help="where the networks run: cpu (default) or cuda; part of the plan")
    parser.add_argument("--shard-size", type=int, metavar="N", help="cells per shard")


def add_workers(parser):
    """Add the arguments that say where the work is done."""
    parser.add_argument(
        "--ray", metavar="auto|local|ADDRESS",
        help="work in Ray actors: of the cluster that RAY_ADDRESS names or else a local one, of a local one, or of the "
        "cluster at an address; threads of this process otherwise",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="threads or actors; one a core by default")
    parser.add_argument("--resume", action="store_true", help="finish an interrupted run")


def sampling_options(args):
    """The arguments of `add_sampling` and `add_workers` that were given, as keywords of what they are for."""
    names = ("size_factor", "solver", "steps", "seed", "shard_size", "device", "ray", "workers", "resume")
    options = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return options | ({"guidance": pairs(args.guidance, "--guidance", float)} if args.guidance else {})


def run(args):
    """Generate."""
    from cfgen_dist.generation.request import read_label_table
    from cfgen_dist.generation.run import generate

    options = sampling_options(args)
    if args.plan:
        also = [name for name in options if name not in ("ray", "workers", "resume")]
        also += [name for name in ("cells", "labels") if getattr(args, name) is not None]
        if also:
            raise BadInput(f"--plan says what to make: --{also[0].replace('_', '-')} cannot be given beside it")
        options["plan"] = args.plan
    elif args.labels and Path(args.labels).suffix in (".csv", ".parquet"):
        options["labels"] = read_label_table(args.labels)
    else:
        options["labels"] = pairs(args.labels, "--labels")
    print_summary(generate(args.bundle, args.out, args.cells, **options))


def print_summary(summary):
    """Print what came out."""
    print(f"{summary['path']}: {summary['cells']:,} cells, {summary['cells_per_second']:,.0f} cells/s")
    if "sha256" in summary:
        print(f"  {summary['mean_counts']:,.0f} counts a cell, {summary['zeros']:.1%} zeros")
        print(f"  SHA-256 of counts and labels {summary['sha256']}")
