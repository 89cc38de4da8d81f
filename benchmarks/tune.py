"""Does a search find better settings than the defaults? The search, the training of both and their test scores, timed.

    python benchmarks/tune.py pbmc3k.h5ad --min-cells 30 --trials 14 --concurrent 2 [--json FILE] [--quick]

Splits as `ingest` does (a fifth of the cells for testing, a tenth of the rest for validation), searches on training and
validation cells, trains the defaults and `best.yaml` alike (validation cells join the training cells at the end), and
scores both against the test cells, three generated sets each, beside the floor (real training cells). The busy share is
that of all cores while the search ran, from /proc/stat. A search that was interrupted is resumed.
"""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report

from cfgen_dist import load_config, train, tune
from cfgen_dist.evaluation import Reference, matched_rows
from data_loaders import CellStream, ingest, open_atlas

SETS = 3
SHOWN = ["w2", "mmd", "knn_f1", "zeros", "auc_genes", "auc_linear", "fold_slope", "correlation_error", "coverage"]


def main():
    """Print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--min-cells", type=int, default=20)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--concurrent", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/tune"), help="folder for the runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = Path(args.source).stem
    atlas_path, search = args.work / f"{name}.zarr", args.work / f"{name}-search"
    args.work.mkdir(parents=True, exist_ok=True)
    if not atlas_path.exists():
        ingest([args.source], atlas_path, labels=[args.label], min_cells=args.min_cells)
    quick = {"autoencoder.max_epochs": 4, "flow.max_steps": 100} if args.quick else {}
    base, trials = load_config(overrides=quick), 4 if args.quick else args.trials

    started, before = time.monotonic(), _cpu()
    best = tune(
        atlas_path, search, trials, config=base, ray="local", concurrent=args.concurrent, resume=search.exists()
    )
    minutes, after = (time.monotonic() - started) / 60, _cpu()
    busy = 1 - (after[1] - before[1]) / (after[0] - before[0])

    atlas = open_atlas(atlas_path)
    rows = atlas.rows(split="test")
    labels = np.asarray(atlas.categories(args.label))[atlas.codes(args.label)]
    reference = Reference.fit(atlas.read(rows).to_scipy(), labels[rows])
    wanted = pd.Series(labels[rows]).value_counts()
    table = {"floor": _floor(atlas, reference, labels, wanted.to_dict())}
    for title, config in (("preset", base), ("tuned", best)):
        run = args.work / f"{name}-{title}"
        model = train(atlas_path, run, config, resume=run.exists())
        table[title] = _scores(model, reference, wanted, args.label) | {"nats": _held_out_nll(model, atlas)}
    print(f"\n{name}: {trials} trials in {minutes:.1f} min, {args.concurrent} at once, cores {busy:.0%} busy\n")
    print(pd.DataFrame(table).T.round(3).to_string())
    report(args, {"source": name, "trials": trials, "minutes": minutes, "busy": busy, "table": table})


def _scores(model, reference, wanted, label):
    """Mean metrics of generated sets with as many cells of each type as there are test cells."""
    cells = pd.DataFrame({label: wanted.index, "n": wanted.to_numpy()})
    sets = [model.generate(labels=cells, seed=draw) for draw in range(SETS)]
    scores = [reference.score(s.X, s.obs[label].to_numpy(str), draw=draw) for draw, s in enumerate(sets)]
    return pd.DataFrame(scores)[SHOWN].mean().to_dict()


def _floor(atlas, reference, labels, wanted):
    """The same metrics of real training cells."""
    train_rows, scores = atlas.rows(split="train"), []
    for draw in range(SETS):
        rng = np.random.default_rng(draw)
        rows = train_rows[matched_rows(labels[train_rows], wanted, 1, rng)[0]]
        scores.append(reference.score(atlas.read(rows).to_scipy(), labels[rows], draw=draw))
    return pd.DataFrame(scores)[SHOWN].mean().to_dict()


@torch.inference_mode()
def _held_out_nll(model, atlas):
    """Nats per test cell under the calibrated autoencoder, with each cell's own size factor."""
    total = cells = 0
    for batch in CellStream(atlas, 512, split="test", labels=list(model.labels), shuffle=False):
        total, cells = total + model.nll(batch).item() * len(batch), cells + len(batch)
    return total / cells


def _cpu():
    """Ticks of all cores since the start, and the idle ones of them."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


if __name__ == "__main__":
    main()
