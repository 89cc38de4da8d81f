"""Training on Ray, in figures: two workers against one, waiting for cells, and memory against the size of the atlas.

    python benchmarks/training.py [--quick] [--json FILE] [--work FOLDER]

1. Autoencoder at 20,000 genes, batches of 1,024 cells: one worker bound to one core, two workers to one core each.
   Cells a second and the share of waiting for cells are medians over the rows of metrics.csv, the first left out.
2. Whole trainings on 100,000 and on 1,000,000 cells of 500 genes: peak memory of a worker.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import tempfile
from pathlib import Path

import pandas as pd
from common import base_parser, report

import cfgen_dist.train.on_ray as on_ray
from cfgen_dist.config import load_config
from cfgen_dist.ray_pool import connect
from cfgen_dist.train.run import train
from data_loaders import simulate

COMMON = {"refit": False, "autoencoder.max_epochs": 1, "flow.max_steps": 20, "autoencoder.batch_size": 1024,
          "flow.batch_size": 1024}  # fmt: skip


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--work", metavar="FOLDER", help="keep atlases and runs here; a temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-", dir="/tmp") as temporary:
        work = Path(args.work or temporary)
        work.mkdir(exist_ok=True)
        figures = {"scaling": scaling(work, args.quick), "memory": memory(work, args.quick)}
    one, two = figures["scaling"]
    print(f"{'workers':>8}{'cells/s':>10}{'waiting for cells':>20}")
    for row in (one, two):
        print(f"{row['workers']:>8}{row['cells_per_second']:>10,.0f}{row['loader_wait']:>20.1%}")
    print(f"two workers on two cores: {two['cells_per_second'] / one['cells_per_second']:.2f} times one on one")
    for row in figures["memory"]:
        print(f"{row['cells']:>10,} cells: a worker needs {row['peak'] / 2**20:,.0f} MiB at most")
    report(args, figures)


def scaling(work, quick):
    """One dict for each number of workers."""
    atlas = make(work / "genes.zarr", cells=6000 if quick else 20000, genes=20_000, density=0.08)
    settings = {**COMMON, "autoencoder.max_epochs": 3}
    rows = []
    for workers in (1, 2):
        run = Path(tempfile.mkdtemp(dir=work)) / "run"
        train_measured(atlas, run, settings, workers, run.parent, bound=True)
        metrics = pd.read_csv(run / "autoencoder" / "metrics.csv")[["cells_per_second", "loader_wait"]].dropna()
        rows.append({"workers": workers, **metrics.iloc[1:].median().to_dict()})
    return rows


def memory(work, quick):
    """One dict for each size of atlas."""
    rows = []
    for cells in (20_000, 100_000) if quick else (100_000, 1_000_000):
        atlas = make(work / f"cells-{cells}.zarr", cells=cells, genes=500, density=0.1)
        run = Path(tempfile.mkdtemp(dir=work)) / "run"
        train_measured(atlas, run, COMMON, 2, run.parent, bound=False)
        peaks = [int(path.read_text()) for path in run.parent.glob("peak-*")]
        rows.append({"cells": cells, "peak": max(peaks)})
    return rows


def make(path, **shape):
    if not path.exists():
        simulate(path, types=10, donors=4, seed=0, **shape)
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
