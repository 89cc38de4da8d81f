"""Training on Ray, in figures: two workers against one, waiting for cells, and memory against the size of the atlas.

    python benchmarks/training.py [--batch 4096] [--quick] [--json FILE] [--work FOLDER]

1. Autoencoder at 20,000 genes: one worker bound to one core, two workers to one core each, these with gradients
   exchanged as float32 and as bfloat16, and one worker that gives back what a step frees (as others do), in turns.
   Cells a second and the share of waiting for cells are medians over rounds of the medians over the rows of
   metrics.csv, the first left out; peak memory is that of rank 0.
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

import cfgen_dist.training.on_ray as on_ray
from cfgen_dist import load_config, train
from cfgen_dist.training.memory import ENVIRONMENT
from cfgen_dist.workers.cluster import connect
from data_loaders import AtlasWriter, open_atlas, simulate

COMMON = {"refit": False, "autoencoder.max_epochs": 1, "flow.max_steps": 20, "autoencoder.batch_size": 1024,
          "flow.batch_size": 1024}  # fmt: skip
ROUNDS, TIMES = 2, 10


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--batch", type=int, default=4096, help="cells of a step of the first part (default 4096)")
    parser.add_argument("--no-memory", action="store_true", help="the first part only")
    parser.add_argument("--work", metavar="FOLDER", help="keep atlases and runs here; a temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-", dir="/tmp") as temporary:
        work = Path(args.work or temporary)
        work.mkdir(exist_ok=True)
        figures = {"batch": args.batch, "scaling": scaling(work, args.batch, args.quick)}
        figures["memory"] = [] if args.no_memory else memory(work, args.quick)
    print(f"{'':>36}{'cells/s':>10}{'waiting for cells':>20}{'against one':>13}{'peak MiB':>10}")
    one = figures["scaling"][0]["cells_per_second"]
    for row in figures["scaling"]:
        speed, peak = row["cells_per_second"], row["peak"] / 2**20
        print(f"{row['way']:>36}{speed:>10,.0f}{row['loader_wait']:>20.1%}{speed / one:>13.2f}{peak:>10,.0f}")
    for row in figures["memory"]:
        print(f"{row['cells']:>10,} cells: a worker needs {row['peak'] / 2**20:,.0f} MiB at most")
    report(args, figures)


def scaling(work, batch, quick):
    """One dict for each way to train."""
    atlas = make(work / "genes.zarr", cells=6000 if quick else 20000, genes=20_000, density=0.08)
    ways = {
        "1 worker": (1, "float32", ENVIRONMENT),
        "2 workers": (2, "float32", ENVIRONMENT),
        "2 workers, bfloat16 gradients": (2, "bfloat16", ENVIRONMENT),
        "1 worker, memory given back": (1, "float32", {}),
    }
    epochs = -(-30 * batch // 16_000)  # some thirty steps
    rounds = {way: [] for way in ways}
    for _ in range(1 if quick else ROUNDS):
        for way, (workers, exchange, environment) in ways.items():
            run = Path(tempfile.mkdtemp(dir=work)) / "run"
            settings = COMMON | {
                "autoencoder.batch_size": batch, "autoencoder.max_epochs": epochs, "all_reduce": exchange
            }  # fmt: skip
            train_measured(atlas, run, settings, workers, run.parent, bound=True, environment=environment)
            metrics = pd.read_csv(run / "autoencoder" / "metrics.csv")[["cells_per_second", "loader_wait"]].dropna()
            peak = int((run.parent / "peak-0").read_text())
            rounds[way].append(metrics.iloc[1:].median().to_dict() | {"peak": peak})
            print(f"{way}: {rounds[way][-1]}", flush=True)
    return [{"way": way, **pd.DataFrame(own).median().to_dict()} for way, own in rounds.items()]


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


def train_measured(atlas, run, settings, workers, folder, bound, environment=ENVIRONMENT):
    """Train on a local cluster; each worker leaves its peak memory in `folder`."""

    def work(settings):
        from cfgen_dist.training import on_ray, ranks

        if bound:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[ranks.rank()]})
        on_ray.work_as_rank(settings)
        status = Path("/proc/self/status").read_text().split()
        peak = int(status[status.index("VmHWM:") + 1]) * 1024
        (folder / f"peak-{ranks.rank()}").write_text(str(peak))

    original, on_ray.work_as_rank = on_ray.work_as_rank, work
    on_ray.ENVIRONMENT = environment
    try:
        with connect("local", workers):
            train(atlas, run, load_config(overrides=settings), ray="local", workers=workers)
    finally:
        on_ray.work_as_rank, on_ray.ENVIRONMENT = original, ENVIRONMENT


if __name__ == "__main__":
    main()
