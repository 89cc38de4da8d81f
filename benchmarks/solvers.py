"""Which solver, how many steps, what guidance weight? Distances to the floor, on validation cells.

    python benchmarks/solvers.py pbmc3k.h5ad --min-cells 30 [--json FILE] [--quick]

Trains a model that has never seen the validation cells (`refit` off), generates three sets per setting and scores them
against those cells as `tune` does; test cells are not touched. In brackets the distance to the floor in its unit
(docs/tuning.md); `worst` and `mean` are over all measures, with their standard errors over the sets.
"""

from pathlib import Path

import torch
from common import base_parser, report

from cfgen_dist import CFGen, load_config, train
from cfgen_dist.tuning.objective import AVERAGE, WORST, ValidationCells
from data_loaders import ingest, open_atlas

SOLVERS = [("euler", 10), ("euler", 20), ("midpoint", 5), ("midpoint", 10), ("midpoint", 30), ("rk4", 5), ("dopri5", 0)]
GUIDANCE = [1.25, 1.5, 2.0]
SHOWN = {
    "w2": "W2", "mmd_all": "linear MMD over all cells", "auc_genes": "AUC genes", "fold_slope": "fold-change slope",
    "correlation_error": "correlation error", "coverage": "coverage",
}  # fmt: skip


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
    cells = ValidationCells(atlas, model.config)

    print(f"\n{name}: three sets against {cells.n} validation cells\n")
    print("| solver | steps | guidance | " + " | ".join(SHOWN.values()) + " | worst | mean |")
    print("|" + " --- |" * 3 + " --- |" * (len(SHOWN) + 2))
    print("| real cells | | | " + " | ".join(f"{cells.floor.mean[key]:.3g}" for key in SHOWN) + " | | |")
    rows = []
    for solver, steps, weight in [(*each, 1.0) for each in SOLVERS] + [("midpoint", 10, each) for each in GUIDANCE]:
        model.config.sampling.solver = solver
        found = cells.score(model, guidance=weight, steps=steps or None, structure=True)
        rows.append({"solver": solver, "steps": steps, "guidance": weight, "mean": found.mean, "error": found.error})
        rows[-1]["distances"] = found.standing.distances
        values = [f"{found.mean[key]:.3g} ({found.standing.distances[key]:.1f})" for key in SHOWN]
        values += [f"{found.mean[key]:.2f} ± {found.error[key]:.2f}" for key in (WORST, AVERAGE)]
        print(f"| {solver} | {steps or ''} | {weight:g} | " + " | ".join(values) + " |", flush=True)
    report(args, {"source": name, "floor": cells.floor.mean, "settings": rows})


if __name__ == "__main__":
    main()
