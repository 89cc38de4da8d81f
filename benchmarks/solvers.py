"""Which solver, how many steps, what guidance weight? Quality against speed, on validation cells.

    python benchmarks/solvers.py pbmc3k.h5ad --min-cells 30 [--json FILE] [--quick]

Trains a model that has never seen the validation cells (`refit` off), generates three sets per setting and scores them
against those cells; test cells are not touched.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report

from cfgen_dist import CFGen, load_config, train
from cfgen_dist.evaluation import Reference
from data_loaders import ingest, open_atlas

SOLVERS = [("euler", 10), ("euler", 20), ("midpoint", 5), ("midpoint", 10), ("midpoint", 30), ("rk4", 5), ("dopri5", 0)]
GUIDANCE = [1.0, 1.25, 1.5, 2.0]
SETS = 3
SHOWN = ["w2", "mmd", "knn_f1", "zeros", "auc_genes", "correlation_error", "coverage"]


def main():
    """Print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--min-cells", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/solvers"), help="folder for the run, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = Path(args.source).stem
    atlas_path, run = args.work / f"{name}.zarr", args.work / f"{name}-run"
    args.work.mkdir(parents=True, exist_ok=True)
    if not atlas_path.exists():
        ingest([args.source], atlas_path, labels=[args.label], min_cells=args.min_cells)
    overrides = {"refit": False} | ({"autoencoder.max_epochs": 5, "flow.max_steps": 300} if args.quick else {})
    train(atlas_path, run, load_config(overrides=overrides), resume=run.exists())
    model, atlas = CFGen.load(run), open_atlas(atlas_path)

    val = atlas.rows(split="val")
    labels = np.asarray(atlas.categories(args.label))[atlas.codes(args.label)][val]
    reference = Reference.fit(atlas.read(val).to_scipy(), labels)
    wanted = pd.Series(labels).value_counts()
    table = pd.DataFrame({args.label: wanted.index, "n": wanted.to_numpy()})

    rows = []
    settings = [(*solver, 1.0) for solver in SOLVERS] + [("midpoint", 10, weight) for weight in GUIDANCE[1:]]
    for solver, steps, weight in settings:
        started, sets = time.perf_counter(), []
        for k in range(SETS):
            options = {"solver": solver, "steps": steps or None, "guidance": {args.label: weight}}
            sets.append(model.generate(labels=table, seed=k, **options))
        seconds = time.perf_counter() - started
        scores = [reference.score(s.X, s.obs[args.label].to_numpy(str), draw=k) for k, s in enumerate(sets)]
        rows.append(
            {"solver": solver, "steps": steps, "guidance": weight}
            | {"cells_per_s": SETS * len(val) / seconds}
            | pd.DataFrame(scores)[SHOWN].mean().to_dict()
        )
    print(f"\n{name}: {SETS} sets against {len(val)} validation cells\n")
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    report(args, {"source": name, "settings": rows})


if __name__ == "__main__":
    main()
