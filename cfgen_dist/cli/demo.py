"""`cfgen-dist demo`."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for everything it makes (default: demo)")


def run(args: argparse.Namespace) -> None:
    """Run the demo."""
    from cfgen_dist.demo import demo

    report = demo(args.out)
    print(f"report: {report.resolve()}")
