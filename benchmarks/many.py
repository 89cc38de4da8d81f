"""Training on up to a thousand machines, simulated with the real plan of an epoch; the law is in forecasting/many.py.

    python benchmarks/many.py [--cells 100_000_000] [--batch 1024] [--genes hlca] [--json FILE] [--quick]

Each worker has batches of --batch cells (the batch of all grows with their number). Steps are those that `plan`
estimates for an H100 at 28,000 genes (29 million parameters), links and the bucket those of class `Site`. Seconds to
re-deal are measured here: `plan_epoch` and the rows of the first window, as each worker does it when others come or go.
"""

import dataclasses

from common import base_parser, report

from cfgen_dist.cli.values import whole
from cfgen_dist.forecasting.costs import CELL_PASSES, EFFICIENCY, GPUS, LAUNCH, PARAMETER_BYTES
from cfgen_dist.forecasting.many import Site, Store, simulate_epoch

GENES, PARAMETERS = 28_000, 29_000_000


def main():
    """Print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("--cells", type=whole, default=100_000_000)
    parser.add_argument("--batch", type=int, default=1024, help="cells of a worker's step")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 256, 1000])
    parser.add_argument("--block-rows", type=int, nargs="+", default=[16, 256])
    args = parser.parse_args()
    cells, workers = (1_000_000, [1, 8, 64]) if args.quick else (args.cells, args.workers)
    gpu = GPUS["h100"]
    traffic = PARAMETER_BYTES * PARAMETERS + 4 * CELL_PASSES * GENES * args.batch
    step = (6 * PARAMETERS * args.batch / gpu.flops + traffic / gpu.bandwidth) / EFFICIENCY + LAUNCH
    site, rows = Site(step=step), []
    print(f"{cells:,} cells, {args.batch} a worker and step, {step * 1e3:.1f} ms a step without exchange")
    print("| workers | rows of a block | steps | minutes | cells/s | idle | exchange | requests/s | GB/s | late "
          "| re-deal, s | checkpoint, s |")  # fmt: skip
    print("|" + " --- |" * 12)
    for block_rows in args.block_rows:
        for n in workers:
            found = simulate_epoch(site, Store(cells=cells, block_rows=block_rows), PARAMETERS, n, args.batch)
            rows.append({"block_rows": block_rows} | dataclasses.asdict(found))
            print(
                f"| {n:,} | {block_rows} | {found.steps:,} | {found.seconds / 60:.1f} | "
                f"{found.cells_per_second:,.0f} | {found.idle:.1%} | {found.exchange:.1%} | {found.requests:,.0f} | "
                f"{found.bytes / 1e9:.1f} | {found.waits_for_cells:.0%} | {found.redeal:.2f} | "
                f"{found.checkpoint:.1f} |",
                flush=True,
            )
    report(args, {"cells": cells, "site": dataclasses.asdict(site), "rows": rows})


if __name__ == "__main__":
    main()
