"""`cfgen-dist audit`: ask what generated cells betray of training cells and donors; write audit.json and audit.html."""

import argparse

from cfgen_dist.cli.making import add_workers
from data_loaders.storage import place


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("real", metavar="ATLAS", help="the atlas that the model was trained on, with test cells")
    parser.add_argument(
        "generated", metavar="GENERATED", help="generated cells; of an augmented atlas only the generated ones"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the report; replaces an earlier one only"
    )
    parser.add_argument(
        "--by", metavar="NAME", help="obs column of donors, or of what else was held out whole: they are attacked too"
    )
    parser.add_argument("--label", metavar="NAME", help="obs column of the types (default: cell_type, or the only one)")
    parser.add_argument(
        "--cells", type=int, metavar="N",
        help="training cells, and as many held-out ones, that are asked about, at most (default 5000); all generated "
        "cells are compared with them",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="start of all random numbers (default 0)")
    parser.add_argument("--shard-size", type=int, metavar="N", help="cells that a worker reads and commits at a time")
    add_workers(parser)


def run(args: argparse.Namespace) -> None:
    """Audit, write the report and print the verdict."""
    from cfgen_dist.privacy.run import audit

    given = {"cells": args.cells, "shard_size": args.shard_size}
    options = {name: value for name, value in given.items() if value is not None}
    result = audit(
        args.real, args.generated, args.out, by=args.by, label=args.label, seed=args.seed, resume=args.resume,
        ray=args.ray, workers=args.workers, **options,
    )  # fmt: skip
    for sentence in (*result["warnings"], *result["verdict"]):
        print(sentence)
    print(f"Report: {(place(args.out) / 'audit.html').shown}")
