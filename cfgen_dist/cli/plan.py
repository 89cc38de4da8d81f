"""`cfgen-dist plan`."""

import argparse
import dataclasses
import json

from cfgen_dist.cli.settings import add_settings, given_settings
from cfgen_dist.cli.values import whole

GPU_NAMES = ("l4", "l40s", "a100", "h100")  # as in cfgen_dist.forecasting.costs, which loads torch


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("atlas", metavar="ATLAS", help="atlas store, or a small one of the same genes with --cells")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="workers, a GPU each; default 1")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="of the commands on this machine; default 1"
    )
    parser.add_argument("--ray", action="store_true", help="generate and evaluate start Ray for them")
    parser.add_argument("--generate", type=whole, metavar="N", help="cells to make; default: as the atlas")
    parser.add_argument("--price", type=float, metavar="PER_HOUR", help="of a worker: prices of HLCA and 100 M cells")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--config", metavar="FILE|PRESET", help="as for train")
    parser.add_argument("--cells", type=whole, metavar="N", help="as if the atlas had so many cells")
    parser.add_argument("--kind", metavar="NAME", help=f"only this kind of GPU: {', '.join(GPU_NAMES)}")
    parser.add_argument(
        "--link", type=float, default=10.0, metavar="GB/S", help="between workers, gigabytes a second; default 10"
    )
    add_settings(parser)
    parser.usage = (
        "cfgen-dist plan ATLAS [--cells N] [--generate N] [--workers N] [--ray] [--price PER_HOUR] [--json]\n"
        "         [--gpus N] [--kind NAME] [--link GB/S] [--config FILE|PRESET] [--KEY VALUE ...]"
    )


def run(args: argparse.Namespace) -> None:
    """Measure a few steps here, estimate the GPUs, print the table and what it takes for granted."""
    from cfgen_dist.config import load_config, to_dict
    from cfgen_dist.forecasting.costs import EFFICIENCY
    from cfgen_dist.forecasting.run import HLCA_CELLS, plan

    found = plan(
        args.atlas, load_config(args.config, given_settings(args)), gpus=args.gpus, cells=args.cells,
        kind=args.kind, link=args.link, workers=args.workers, ray=args.ray, generate=args.generate, price=args.price,
    )  # fmt: skip
    if args.json:
        print(json.dumps(dataclasses.asdict(found) | {"config": to_dict(found.config)}, indent=1))
        return
    stage, flow, here = found.config.autoencoder, found.config.flow, found.devices[0]
    print(f"{found.cells:,} cells x {found.features:,} features on {found.workers} workers")
    print(f"{'':34}{'autoencoder':>22}{'encode':>10}{'flow':>22}{'in all':>10}")
    for row in found.devices:
        title = f"{row.device}, {'measured' if row.measured else 'estimated'}"
        fit, match = (f"{cost.seconds * 1e3:,.0f} ms {cost.hours:,.1f} h" for cost in (row.autoencoder, row.flow))
        print(f"{title:34}{fit:>22}{row.encode.hours:>8,.1f} h{match:>22}{row.hours:>8,.1f} h")
    again = ", and again with the held-out cells" if found.config.refit else ""
    print(
        f"steps: {here.autoencoder.steps:,} of {stage.batch_size} cells at most ({stage.max_epochs} epochs{again}; "
        f"early stopping ends sooner), {here.flow.steps:,} of {flow.batch_size}"
    )
    print(
        f"memory of a worker: {found.host_bytes / 1e9:,.1f} GB of the machine, "
        f"{found.gpu_bytes / 1e9:,.1f} GB of the GPU"
    )
    print(
        f"disk: {found.latents_bytes / 1e9:,.1f} GB for latents while they are put together, "
        f"{found.checkpoint_bytes / 1e9:,.1f} GB for checkpoints, beside the atlas"
    )
    print(
        f"reading: {found.cells_read:,.0f} cells/s here, {found.cells_needed:,.0f} are needed by a worker as fast as "
        "this machine"
    )
    print(
        f"estimates: data sheet at {EFFICIENCY:.0%}, float32, {args.link:g} GB/s between workers, "
        "checked on one H100 only: see cfgen_dist/forecasting/costs.py"
    )
    for price in found.prices:
        what = {HLCA_CELLS: "HLCA"}.get(price.cells, "an atlas")
        print(f"price of {what} ({price.cells:,} cells): {price.device} {price.price:,.2f} ({price.hours:,.1f} h)")
    workers = f"{found.commands[1].workers} workers" if args.workers > 1 else "1 worker"
    print(f"on this machine, {workers}, from start to end:")
    for each in found.commands:
        print(f"  {each.command:9}{each.cells:>14,} cells  {in_words(each.seconds)}")


def in_words(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
