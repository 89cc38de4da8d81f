"""`cfgen-dist tune`."""

import argparse

from cfgen_dist.cli.settings import add_settings, given_settings
from cfgen_dist.config import load_config, presets
from cfgen_dist.tuning.distributions import Distribution
from cfgen_dist.tuning.space import OBJECTIVES, SCHEDULERS, spaces


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; every key of the base config is one, as for train."""
    parser.add_argument("atlas", metavar="ATLAS", help="atlas store, as ingest writes it")
    parser.add_argument("--out", required=True, metavar="RUN", help="directory of the search; RUN/best.yaml is its end")
    parser.add_argument("--trials", type=int, default=50, metavar="N", help="trainings, half autoencoders; default 50")
    parser.add_argument(
        "--config", metavar="FILE|PRESET", help=f"the base: a YAML file, or one of {', '.join(presets())}"
    )
    parser.add_argument("--scheduler", default="asha", metavar="NAME", help=f"{' or '.join(SCHEDULERS)}; default asha")
    parser.add_argument(
        "--objective", default="worst", metavar="NAME",
        help=f"of the flows: {', '.join(OBJECTIVES)}; default worst, the measure that is farthest from its floor",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue an interrupted search")
    names = "; ".join(f"{name}: {field.description}" for name, field in Distribution.model_fields.items())
    space = parser.add_argument_group("search space", f"It gives each key that is searched one distribution. {names}.")
    space.add_argument("--space", metavar="FILE|NAME", help=f"YAML file, or one of {', '.join(spaces())}")
    ray = parser.add_argument_group("on a Ray cluster")
    ray.add_argument(
        "--ray", default="auto", metavar="auto|local|ADDRESS",
        help="the cluster that RAY_ADDRESS names or else a local one, a local one, or the one at an address",
    )  # fmt: skip
    ray.add_argument(
        "--concurrent", type=int, metavar="N", help="trials at once; default: as many as there is room for"
    )
    ray.add_argument(
        "--workers-per-trial", dest="workers", type=int, default=1, metavar="N", help="processes of a trial; default 1"
    )
    ray.add_argument("--cpus-per-worker", type=int, default=1, metavar="N", help="CPUs of each process; default 1")
    ray.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="X",
        help="GPUs of each process, 0.5 for two on one; default 1 where the cluster has some",
    )
    add_settings(parser)
    parser.usage = (
        "cfgen-dist tune ATLAS --out RUN [--trials N] [--ray auto|local|ADDRESS]\n"
        "         [--concurrent N] [--resume] [--space FILE] [--config FILE|PRESET]\n"
        "         [--scheduler asha|pbt] [--objective NAME] [--KEY VALUE ...]"
    )


def run(args: argparse.Namespace) -> None:
    """Search."""
    from pathlib import Path

    from rich.console import Console

    from cfgen_dist.evaluation.trade_off import as_table
    from cfgen_dist.tuning.records import read_sampling
    from cfgen_dist.tuning.run import tune

    config = load_config(args.config, given_settings(args))
    names = (
        "trials", "space", "scheduler", "objective", "ray", "concurrent", "workers", "cpus_per_worker",
        "gpus_per_worker", "resume",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names}
    tune(args.atlas, args.out, config=config, **options)
    rows, chosen = read_sampling(Path(args.out))
    shown = [row | {"measures": row} for row in rows if row["steps"] == chosen["steps"]]
    headings = [f"{row['guidance']:g}" + (" chosen" if row["guidance"] == chosen["guidance"] else "") for row in shown]
    Console().print(as_table(f"The trade-off by guidance, {chosen['steps']} steps", headings, shown))
    print(f"{args.out}/best.yaml")
