"""One GPU, no Ray: training with each precision, generation, a comparison with the CPU's numbers, the planner's guess.

    python benchmarks/gpu.py [--cells 100000] [--genes 28000] [--json FILE] [--quick] [--work FOLDER]

1. Trainings with the preset `hlca` (latents of 100 dimensions, batches of 1,024 and 2,048) on simulated cells with as
   many counted genes as those of a lung atlas: float32, bfloat16, bfloat16 with torch.compile. Cells a second and
   the share of waiting for cells are medians over the rows of metrics.csv, the first ones left out.
2. How fast the loader alone gives batches to the device, dense there.
3. Held-out likelihood of the same bundle on GPU and CPU, and the latents that `encode` wrote against the CPU's.
4. `generate` on the CPU's cores and on the GPU, its bytes with other numbers of threads, and what the cells look like.
5. `cfgen-dist plan` of this atlas: a step measured here beside the estimate for the same card.

Where there is no GPU it runs on the CPU, with --quick in minutes, to see that it runs.
"""

import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report

from cfgen_dist import CFGen, generate, load_config, train
from data_loaders import CellStream, open_atlas, simulate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = {
    "float32": {},
    "bfloat16": {"precision": "bf16-mixed"},
    "bfloat16, compiled": {"precision": "bf16-mixed", "compile": True},
}
FIRST = 3  # rows of metrics.csv, ten steps each, that starting up takes


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=28_000)
    parser.add_argument("--work", metavar="FOLDER", help="keep the atlas and the runs here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    print(f"{card}, torch {torch.__version__}, {args.threads} cores")
    with tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        work = Path(args.work or temporary)
        work.mkdir(exist_ok=True)
        path = work / "atlas.zarr"
        cells, genes = (4000, 2000) if args.quick else (args.cells, args.genes)
        if not path.exists():
            simulate(path, cells=cells, genes=genes, types=50, donors=20, density=0.07, seed=0)
        atlas = open_atlas(path)
        print(f"{atlas.n_cells:,} cells x {atlas.n_genes:,} genes, {atlas.card['nnz'] / atlas.n_cells:,.0f} counted")
        figures = {"device": card, "reading": [reading(atlas, n) for n in ((128,) if args.quick else (1024, 4096))]}
        figures["training"] = [training(path, work, way, args.quick) for way in WAYS]
        figures["agreement"] = agreement(atlas, work / "float32")
        print(figures["agreement"])
        figures["generation"] = generation(work, args)
        plan = [sys.executable, "-m", "cfgen_dist", "plan", str(path), "--config", "hlca"]
        plan = subprocess.run(plan, capture_output=True, text=True, check=True)
        print(plan.stdout)
    report(args, figures)


def reading(atlas, batch_size):
    """Cells a second of the stream alone, each batch dense on the device."""
    batches = iter(CellStream(atlas, batch_size, rows=atlas.rows(split="train"), seed=0))
    next(batches).to(DEVICE).counts["rna"].to_dense()
    synchronise()
    started, cells = time.perf_counter(), 0
    for batch in batches:
        batch.to(DEVICE).counts["rna"].to_dense()
        cells += len(batch)
    synchronise()
    found = {"batch_size": batch_size, "cells_per_second": cells / (time.perf_counter() - started)}
    print(found, flush=True)
    return found


def training(path, work, way, quick):
    """Figures of both stages of one training."""
    settings = WAYS[way] | {"autoencoder.max_epochs": 3, "flow.max_steps": 600}
    if quick:
        settings |= {"autoencoder.batch_size": 128, "flow.batch_size": 128, "flow.max_steps": 60}
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = work / way
    started = time.perf_counter()
    train(path, run, load_config("hlca", overrides=settings))
    found = {"way": way, "seconds": time.perf_counter() - started}
    for stage in ("autoencoder", "flow"):
        metrics = pd.read_csv(run / stage / "metrics.csv")
        rows = metrics[["cells_per_second", "loader_wait"]].dropna().iloc[FIRST:]
        held_out = metrics.filter(regex="^val_(nll|loss)$").dropna().min()
        found |= {f"{stage}.{name}": value for name, value in [*rows.median().items(), *held_out.items()]}
    found["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else None
    print(found, flush=True)
    return found


@torch.inference_mode()
def agreement(atlas, run, n=2048):
    """Held-out nats a cell of a bundle on device and CPU, and how far latents on the device are from the CPU's."""
    autoencoder = CFGen.load(run).autoencoder
    rows = atlas.rows(split="val")[:n]
    (batch,) = CellStream(atlas, n, rows=rows, shuffle=False)
    nll, latents = [], []
    for device in ("cpu", DEVICE):
        network, here = autoencoder.to(device), batch.to(device)
        counts = network.dense(here.counts, device)
        nll.append(float(network(counts, here.size_factor)))
        latents.append(network.encode(counts, here.size_factor).cpu().numpy())
    stored = open_atlas(run / "latents.zarr").read(rows, modality="latent").values
    scale = latents[0].std()
    return {
        "nll on cpu": nll[0],
        f"nll on {DEVICE}": nll[1],
        "largest difference of latents, in standard deviations": float(np.abs(latents[1] - latents[0]).max() / scale),
        "the same of the store of latents": float(np.abs(stored - latents[0]).max() / scale),
    }


def generation(work, args):
    """One dict for each way to generate the same number of cells."""
    rows = []
    cells = 2000 if args.quick else 65_536
    generate(work / "float32", work / "warm-up.zarr", 500)  # compiles the draw
    for device, workers in (("cpu", args.threads), (DEVICE, args.threads), (DEVICE, 3)):
        out = work / f"{device}-{workers}-{len(rows)}.zarr"
        summary = generate(work / "float32", out, cells, device=device, workers=workers)
        rows.append({"device": device, "workers": workers} | summary)
        del rows[-1]["path"]
        print(rows[-1], flush=True)
    if rows[1]["sha256"] != rows[2]["sha256"]:
        raise SystemExit("the number of threads changed the cells")
    return rows


def synchronise():
    """Wait for what the device has been told to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
