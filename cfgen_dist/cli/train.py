"""`cfgen-dist train`."""

from cfgen_dist.config import all_keys, load_config, presets


def configure(parser):
    """Add the arguments; every key of the config is one, `--flow.batch_size 512`."""
    parser.add_argument("atlas", metavar="ATLAS", help="atlas store, as ingest writes it")
    parser.add_argument("--out", required=True, metavar="RUN", help="run directory; RUN/bundle will be the model")
    parser.add_argument("--config", metavar="FILE|PRESET", help=f"YAML file, or one of {', '.join(presets())}")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    settings = parser.add_argument_group("settings", "override one key of the config; lists as 512,256")
    for key, _, default in all_keys():
        settings.add_argument(f"--{key}", dest=f"config:{key}", metavar="VALUE", help=f"default {default}")
    parser.usage = "cfgen-dist train ATLAS --out RUN [--config FILE|PRESET] [--resume] [--KEY VALUE ...]"


def run(args):
    """Train."""
    from cfgen_dist.train.run import train

    given = {key.removeprefix("config:"): value for key, value in vars(args).items() if key.startswith("config:")}
    overrides = {key: value for key, value in given.items() if value is not None}
    config = load_config(args.config, overrides) if args.config or overrides or not args.resume else None
    train(args.atlas, args.out, config, resume=args.resume)
    print(f"{args.out}/bundle")
