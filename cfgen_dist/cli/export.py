"""`cfgen-dist export`: write an atlas, real or generated, as h5ad, h5mu or SOMA."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("store", metavar="STORE", help="an atlas store, real or generated")
    parser.add_argument("out", metavar="OUT", help="the file or folder to write; must not exist")
    parser.add_argument("--to", default="h5ad", metavar="FORMAT", help="h5ad (default), h5mu or soma")


def run(args: argparse.Namespace) -> None:
    """Write the file."""
    import data_loaders

    data_loaders.export(args.store, args.out, to=args.to)
    print(args.out)
