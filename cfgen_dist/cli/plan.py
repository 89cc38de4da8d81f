"""`cfgen-dist plan`."""

import copy

from data_loaders.errors import BadInput, nearest

GPU_NAMES = ("l4", "l40s", "a100", "h100")


def configure(parser):
    """Add the arguments."""
    parser.add_argument("atlas", metavar="ATLAS", help="atlas store, or a small one of the same genes with --cells")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="workers, a GPU each; default 1")
    parser.add_argument("--config", metavar="FILE|PRESET", help="as for train")
    parser.add_argument("--cells", type=int, metavar="N", help="as if the atlas had so many cells")
    parser.add_argument("--kind", metavar="NAME", help=f"only this kind of GPU: {', '.join(GPU_NAMES)}")
    parser.add_argument(
        "--link", type=float, default=10.0, metavar="GB/S", help="between workers, gigabytes a second; default 10"
    )


def run(args):
    """Measure a few steps here, estimate the GPUs, print the table and what it takes for granted."""
    import torch

    from cfgen_dist.config import load_config
    from cfgen_dist.training.costs import EFFICIENCY, GPUS, estimated, measured, memory, networks
    from cfgen_dist.training.ranks import check_workers
    from cfgen_dist.training.settle import check_atlas, settle
    from data_loaders import open_atlas

    kinds = [args.kind.lower()] if args.kind else list(GPUS)
    for name in kinds:
        if name not in GPUS:
            raise BadInput(f"--kind: unknown GPU {args.kind!r}, {nearest(args.kind, GPUS)}")
    for name, value in (("gpus", args.gpus), ("cells", args.cells), ("link", args.link)):
        if value is not None and not value > 0:
            raise BadInput(f"--{name} is {value}, expected more than 0")
    atlas = open_atlas(args.atlas)
    check_atlas(atlas)
    config = copy.deepcopy(load_config(args.config))
    n_cells = args.cells or atlas.n_cells
    settle(config, atlas, here=False, n_cells=n_cells)
    check_workers(
        args.gpus, {f"{name}.batch_size": getattr(config, name).batch_size for name in ("autoencoder", "flow")}
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    here = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    costs, reading = measured(atlas, config, args.gpus, n_cells, device)
    rows = [(f"{here}, measured", costs)]
    rows += [(f"{name}, estimated", estimated(atlas, config, args.gpus, n_cells, GPUS[name], args.link * 1e9))
             for name in kinds]  # fmt: skip
    autoencoder, _, n_features = networks(atlas, config)
    parameters = sum(p.numel() for p in autoencoder.parameters())
    host, on_gpu = memory(config, args.gpus, n_cells, n_features, parameters)
    stage, flow = config.autoencoder, config.flow
    print(f"{n_cells:,} cells x {n_features:,} features on {args.gpus} workers")
    print(f"{'':34}{'autoencoder':>22}{'encode':>10}{'flow':>22}{'in all':>10}")
    for name, (fit, encode, match) in rows:
        steps = [f"{cost.seconds * 1e3:,.0f} ms {cost.hours:,.1f} h" for cost in (fit, match)]
        total = fit.hours + encode.hours + match.hours
        print(f"{name:34}{steps[0]:>22}{encode.hours:>8,.1f} h{steps[1]:>22}{total:>8,.1f} h")
    print(f"steps: {costs[0].steps:,} of {stage.batch_size} cells at most ({stage.max_epochs} epochs"
          f"{', and again with the held-out cells' if config.refit else ''}; early stopping ends sooner), "
          f"{costs[2].steps:,} of {flow.batch_size}")  # fmt: skip
    print(f"memory of a worker: {host / 1e9:,.1f} GB of the machine, {on_gpu / 1e9:,.1f} GB of the GPU")
    print(f"disk: {n_cells * stage.latent_dim * 8 / 1e9:,.1f} GB for latents while they are put together, "
          f"{3 * 16 * parameters / 1e9:,.1f} GB for checkpoints, beside the atlas")  # fmt: skip
    needed = stage.batch_size / args.gpus / costs[0].seconds
    print(f"reading: {1 / reading:,.0f} cells/s here, {needed:,.0f} are needed by a worker as fast as this machine")
    print(f"estimates: data sheet at {EFFICIENCY:.0%}, float32, {args.link:g} GB/s between workers, "
          "checked on one H100 only: see cfgen_dist/training/costs.py")  # fmt: skip
