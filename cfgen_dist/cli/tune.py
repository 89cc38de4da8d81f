"""`cfgen-dist tune`."""

import argparse

from cfgen_dist.cli.settings import add_settings, given_settings
from cfgen_dist.config import load_config, presets
from cfgen_dist.tuning.space import OBJECTIVES, SCHEDULERS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; every key of the base config is one, as for train."""
    parser.add_argument("atlas", metavar="ATLAS", help="atlas store, as ingest writes it")
    parser.add_argument("--out", required=True, metavar="RUN", help="directory of the search; RUN/best.yaml is its end")
    parser.add_argument("--trials", type=int, default=50, metavar="N", help="trainings, half autoencoders; default 50")
    parser.add_argument(
        "--config", metavar="FILE|PRESET", help=f"the base: a YAML file, or one of {', '.join(presets())}"
    )
    parser.add_argument("--space", metavar="FILE", help="YAML file with what to search; default: a packaged one")
    parser.add_argument("--scheduler", default="asha", metavar="NAME", help=f"{' or '.join(SCHEDULERS)}; default asha")
    parser.add_argument(
        "--objective", default="w2", metavar="NAME", help=f"of the flows: {', '.join(OBJECTIVES)}; default w2"
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted search")
    ray = parser.add_argument_group("on a Ray cluster")
    ray.add_argument(
        "--ray", default="auto", metavar="auto|local|ADDRESS",
        help="the cluster that RAY_ADDRESS names or else a local one, a local one, or the one at an address",
    )  # fmt: skip
    ray.add_argument(
        "--concurrent", type=int, metavar="N", help="trials at once; default: as many as there is room for"
    )
    ray.add_argument("--workers-per-trial", type=int, default=1, metavar="N", help="processes of a trial; default 1")
    ray.add_argument("--cpus-per-worker", type=int, default=1, metavar="N", help="default 1")
    ray.add_argument(
        "--gpus-per-worker", type=float, metavar="X", help="fractions share one; default 1 where the cluster has GPUs"
    )
    add_settings(parser)
    parser.usage = (
        "cfgen-dist tune ATLAS --out RUN [--trials N] [--ray auto|local|ADDRESS] [--concurrent N]\n"
        "         [--resume] [--space FILE] [--config FILE|PRESET] [--scheduler asha|pbt]\n"
        "         [--objective NAME] [--KEY VALUE ...]"
    )


def run(args: argparse.Namespace) -> None:
    """Search."""
    from cfgen_dist.tuning.run import tune

    config = load_config(args.config, given_settings(args))
    names = (
        "trials", "space", "scheduler", "objective", "ray", "concurrent", "cpus_per_worker", "gpus_per_worker",
        "resume",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names}
    tune(args.atlas, args.out, config=config, workers=args.workers_per_trial, **options)
    print(f"{args.out}/best.yaml")
