"""`cfgen-dist train`."""

import argparse

from cfgen_dist.cli.settings import add_settings, given_settings
from cfgen_dist.config import load_config, presets


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; every key of the config is one, `--flow.batch_size 512`."""
    parser.add_argument("atlas", metavar="ATLAS", help="atlas store, as ingest writes it")
    parser.add_argument("--out", required=True, metavar="RUN", help="run directory; RUN/bundle will be the model")
    parser.add_argument("--config", metavar="FILE|PRESET", help=f"YAML file, or one of {', '.join(presets())}")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    ray = parser.add_argument_group("on a Ray cluster", "the workers share the batches; the result is the same")
    ray.add_argument(
        "--ray", metavar="auto|local|ADDRESS",
        help="the cluster that RAY_ADDRESS names or else a local one, a local one, or the one at an address",
    )  # fmt: skip
    ray.add_argument(
        "--workers", metavar="N|MIN:MAX",
        help="processes; default 1; MIN:MAX: as many as there is room for, more or fewer as machines come and go",
    )  # fmt: skip
    ray.add_argument(
        "--gpus-per-worker", type=int, metavar="N", help="GPUs of each worker; default 1 where the cluster has some"
    )
    ray.add_argument("--cpus-per-worker", type=int, metavar="N", help="CPUs of each worker; default 1")
    ray.add_argument(
        "--label-selector", metavar="KEY=VALUE", action="append",
        help="only machines with this label of Ray, such as ray.io/market-type=spot; may be given several times",
    )  # fmt: skip
    add_settings(parser)
    parser.usage = (
        "cfgen-dist train ATLAS --out RUN [--config FILE|PRESET] [--resume]\n"
        "         [--ray auto|local|ADDRESS --workers N|MIN:MAX [--gpus-per-worker N] [--label-selector KEY=VALUE]]\n"
        "         [--KEY VALUE ...]"
    )


def run(args: argparse.Namespace) -> None:
    """Train."""
    from cfgen_dist.training.run import train

    overrides = given_settings(args)
    config = load_config(args.config, overrides) if args.config or overrides or not args.resume else None
    names = ("resume", "ray", "workers", "cpus_per_worker", "gpus_per_worker", "label_selector")
    train(args.atlas, args.out, config, **{name: getattr(args, name) for name in names})
    print(f"{args.out}/bundle")
