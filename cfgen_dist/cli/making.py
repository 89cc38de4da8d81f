"""The arguments of the commands that make cells: how they are drawn, where the work is done, what came out."""

import argparse
from typing import Any

from cfgen_dist.cli.values import weights
from cfgen_dist.config import SOLVERS

SAMPLING = ("guidance", "size_factor", "solver", "steps", "seed", "shard_size", "device", "unseen")
WORKERS = ("ray", "workers", "gpus_per_worker", "resume")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how cells are drawn."""
    parser.add_argument("--size-factor", metavar="LAW", help="lognormal or resample; the bundle's default otherwise")
    add_flow(parser)


def add_flow(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how the flow is integrated, and in what shards."""
    parser.add_argument("--guidance", metavar="NAME=WEIGHT[,...]", help="weight of each attribute; left out means 0")
    add_solver(parser)
    parser.add_argument("--seed", type=int, metavar="S", help="start of all random numbers (default 0)")
    parser.add_argument("--device", help="where the networks run: cpu (default) or cuda; part of the plan")
    parser.add_argument(
        "--unseen",
        metavar="transfer|compose|refuse",
        help="label combinations without a training cell: by what a label changes in other cells (default where the "
        "model can), by guidance alone, or not at all",
    )
    parser.add_argument("--shard-size", type=int, metavar="N", help="cells per shard")


def add_solver(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose the solver."""
    parser.add_argument("--solver", help=f"one of {', '.join(SOLVERS)}; the bundle's default otherwise")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a fixed-step solver")


def add_workers(parser: argparse.ArgumentParser, gpus: bool = False) -> None:
    """Add the arguments that say where the work is done; `gpus`: it may be done on GPUs."""
    parser.add_argument(
        "--ray",
        metavar="auto|local|ADDRESS",
        help="work in Ray actors: of the cluster that RAY_ADDRESS names or else a local one, of a local one, or of the "
        "cluster at an address; threads of this process otherwise",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads or actors; one a core by default")
    if gpus:
        parser.add_argument(
            "--gpus-per-worker",
            metavar="SHARE|auto",
            help="share of a GPU that an actor takes with --device cuda; default 1; auto: by the memory that it needs",
        )
    parser.add_argument("--resume", action="store_true", help="finish an interrupted run")


def making_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_sampling` and `add_workers` that were given, as keywords of the Python functions."""
    given = {name: getattr(args, name, None) for name in (*SAMPLING, *WORKERS)}
    given["guidance"] = weights(args.guidance, "--guidance") if args.guidance else None
    return {name: value for name, value in given.items() if value is not None}


def print_summary(summary: dict[str, Any]) -> None:
    """Print what came out."""
    print(f"{summary['path']}: {summary['cells']:,} cells, {summary['cells_per_second']:,.0f} cells/s")
    if "sha256" in summary:
        print(f"  {summary['mean_counts']:,.0f} counts a cell, {summary['zeros']:.1%} zeros")
        print(f"  SHA-256 of counts and labels {summary['sha256']}")
