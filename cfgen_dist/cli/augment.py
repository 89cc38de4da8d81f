"""`cfgen-dist augment`."""

import argparse

from cfgen_dist.cli.making import add_sampling, add_workers, making_options, print_summary
from cfgen_dist.cli.values import whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="model bundle, or a run that holds one")
    parser.add_argument("atlas", metavar="ATLAS", help="the atlas it was trained on")
    parser.add_argument("out", metavar="OUT", help="atlas store to write: all real cells and the generated ones")
    parser.add_argument(
        "--total", type=whole, required=True, metavar="N", help="training cells wanted, real and generated together"
    )
    parser.add_argument(
        "--balance", default="cell_type", metavar="NAME",
        help="label whose rare categories get most generated cells (default cell_type)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T",
        help="share of type k is proportional to (1/n_k)^(1/T); larger is nearer to equal shares (default 1)",
    )  # fmt: skip
    add_sampling(parser)
    add_workers(parser, gpus=True)


def run(args: argparse.Namespace) -> None:
    """Augment and show what each type got."""
    from rich.console import Console
    from rich.table import Table

    from cfgen_dist.generation.augment import augment

    summary = augment(
        args.bundle, args.atlas, args.out, args.total, balance=args.balance, temperature=args.temperature,
        **making_options(args),
    )  # fmt: skip
    table = Table("type", "real", "generated")
    for name, cells in summary["types"].items():
        table.add_row(name, f"{cells['real']:,}", f"{cells['generated']:,}")
    Console().print(table)
    print_summary(summary)
