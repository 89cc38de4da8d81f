"""`cfgen-dist generate`."""

import argparse
from pathlib import Path

from cfgen_dist.cli.making import WORKERS, add_sampling, add_workers, making_options, print_summary
from cfgen_dist.cli.values import pairs, whole
from data_loaders.errors import BadInput


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="model bundle, or a run that holds one")
    parser.add_argument("out", metavar="OUT", help="atlas store to write")
    parser.add_argument("--cells", type=whole, metavar="N", help="number of cells")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE[,...]|FILE",
        help="fix some attributes; or a CSV or Parquet table with a column per attribute and n",
    )
    add_sampling(parser)
    parser.add_argument("--plan", metavar="FILE", help="repeat the generation whose plan this is (OUT.plan.json)")
    add_workers(parser, gpus=True)


def run(args: argparse.Namespace) -> None:
    """Generate."""
    from cfgen_dist.generation.request import read_label_table
    from cfgen_dist.generation.run import generate

    options = making_options(args)
    if args.plan:
        also = [name for name in options if name not in WORKERS]
        also += [name for name in ("cells", "labels") if getattr(args, name) is not None]
        if also:
            raise BadInput(f"--plan says what to make: --{also[0].replace('_', '-')} cannot be given beside it")
        options["plan"] = args.plan
    elif args.labels and Path(args.labels).suffix in (".csv", ".parquet"):
        options["labels"] = read_label_table(args.labels)
    else:
        options["labels"] = pairs(args.labels, "--labels")
    print_summary(generate(args.bundle, args.out, args.cells, **options))
