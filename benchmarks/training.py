"""Training on Ray, in figures: two workers against one, waiting for cells, and memory against the size of the atlas.

    python benchmarks/training.py [--quick] [--json FILE] [--work FOLDER]

1. Autoencoder at 20,000 genes, batches of 4,096 cells: one worker bound to one core, two workers to one core each,
   these with gradients exchanged as float32 and as bfloat16, in turns. Cells a second and the share of waiting for
   cells are medians over rounds of the medians over the rows of metrics.csv, the first left out.
2. Whole trainings by one worker on 100,000 cells of 5,000 genes, a quarter of them counted, and on ten times as many
   (the same ones, ten times in other orders): peak memory of the worker. 100,000 are enough to fill the loader's two
   windows; the network is small, so that an epoch takes minutes.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import base_parser, report

import cfgen_dist.train.on_ray as on_ray
from cfgen_dist.config import load_config
from cfgen_dist.ray_pool import connect
from cfgen_dist.train.run import train
from data_loaders import AtlasWriter, open_atlas, simulate

COMMON = {"refit": False, "autoencoder.max_epochs": 1, "flow.max_steps": 20, "autoencoder.batch_size": 1024,
          "flow.batch_size": 1024}  # fmt: skip
ROUNDS, TIMES = 2, 10


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--work", metavar="FOLDER", help="keep atlases and runs here; a temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-", dir="/tmp") as temporary:
        work = Path(args.work or temporary)
        work.mkdir(exist_ok=True)
        figures = {"scaling": scaling(work, args.quick), "memory": memory(work, args.quick)}
    print(f"{'workers':>8}{'exchange':>10}{'cells/s':>10}{'waiting for cells':>20}{'against one':>13}")
    one = figures["scaling"][0]["cells_per_second"]
    for row in figures["scaling"]:
        speed = row["cells_per_second"]
        print(f"{row['workers']:>8}{row['exchange']:>10}{speed:>10,.0f}{row['loader_wait']:>20.1%}{speed / one:>13.2f}")
    for row in figures["memory"]:
        print(f"{row['cells']:>10,} cells: a worker needs {row['peak'] / 2**20:,.0f} MiB at most")
    report(args, figures)


def scaling(work, quick):
    """One dict for each number of workers and type that gradients are exchanged in."""
    atlas = make(work / "genes.zarr", cells=6000 if quick else 20000, genes=20_000, density=0.08)
    contests = [(1, "float32"), (2, "float32"), (2, "bfloat16")]
    rounds = {contest: [] for contest in contests}
    for _ in range(1 if quick else ROUNDS):
        for workers, exchange in contests:
            run = Path(tempfile.mkdtemp(dir=work)) / "run"
            settings = COMMON | {"autoencoder.batch_size": 4096, "autoencoder.max_epochs": 5, "all_reduce": exchange}
            train_measured(atlas, run, settings, workers, run.parent, bound=True)
            metrics = pd.read_csv(run / "autoencoder" / "metrics.csv")[["cells_per_second", "loader_wait"]].dropna()
            rounds[workers, exchange].append(metrics.iloc[1:].median())
            print(f"{workers} {exchange}: {rounds[workers, exchange][-1].round(4).to_dict()}", flush=True)
    return [
        {"workers": workers, "exchange": exchange, **pd.DataFrame(own).median().to_dict()}
        for (workers, exchange), own in rounds.items()
    ]


def memory(work, quick):
    """One dict for each size of atlas."""
    cells = 20_000 if quick else 100_000
    small = make(work / f"cells-{cells}.zarr", cells=cells, genes=5000, density=0.25)
    rows = []
    for atlas in (small, repeated(small, work / f"cells-{TIMES * cells}.zarr")):
        run = Path(tempfile.mkdtemp(dir=work)) / "run"
        train_measured(atlas, run, COMMON | {"autoencoder.hidden": [32, 32]}, 1, run.parent, bound=False)
        rows.append({"cells": open_atlas(atlas).n_cells, "peak": int((run.parent / "peak-0").read_text())})
    return rows


def make(path, **shape):
    if not path.exists():
        simulate(path, types=10, donors=4, seed=0, **shape)
    return path


def repeated(source, path):
    """A store of the cells of `source`, `TIMES` times, each time with its slices in another order."""
    if path.exists():
        return path
    atlas = open_atlas(source)
    slices = np.array_split(np.arange(atlas.n_cells), -(-atlas.n_cells // 8192))
    obs = pd.DataFrame({name: atlas.obs(name) for name in [*atlas.labels, "split"]})
    with AtlasWriter(path, atlas.var[[]], labels=atlas.labels) as writer:
        for copy in range(TIMES):
            for i in np.random.default_rng(copy).permutation(len(slices)):
                rows = slices[i]
                writer.append(atlas.read(rows), obs.iloc[rows].set_axis([f"{copy}-{row}" for row in rows]))
        writer.close(provenance={"sources": [atlas.name], "options": {"times": TIMES}})
    return path


def train_measured(atlas, run, settings, workers, folder, bound):
    """Train on a local cluster; each worker leaves its peak memory in `folder`."""

    def work(settings):
        from cfgen_dist.train import on_ray, ranks

        if bound:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[ranks.rank()]})
        on_ray.work_as_rank(settings)
        status = Path("/proc/self/status").read_text().split()
        peak = int(status[status.index("VmHWM:") + 1]) * 1024
        (folder / f"peak-{ranks.rank()}").write_text(str(peak))

    original, on_ray.work_as_rank = on_ray.work_as_rank, work
    try:
        with connect("local", workers):
            train(atlas, run, load_config(overrides=settings), ray="local", workers=workers)
    finally:
        on_ray.work_as_rank = original


if __name__ == "__main__":
    main()
