"""How good are the cells of a model trained with the defaults? The table of any h5ad, over several splits.

    python benchmarks/quality.py pbmc3k.h5ad --min-cells 30 --seeds 0 1 2 [--scvi] [--json FILE] [--quick]

For each seed: an 80/20 split stratified by type, a model trained on the training cells (a tenth of which only decides
when to stop), three generated sets with as many cells of each type as there are test cells, scored against the test
cells. Beside it, on the same split and by the same code: the floor (training cells), the control (every gene drawn
independently inside each type) and, with --scvi, scVI (NB likelihood, the label as batch, 400 epochs, prior samples
with the library sizes of training cells), trained in an environment of its own that is made on first use.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report
from scipy import sparse

from cfgen_dist import CFGen, load_config, train
from cfgen_dist.evaluation import Reference, independent_genes, matched_rows
from data_loaders import CellStream, ingest, open_atlas

SETS, FLOOR_SETS = 3, 5
COLUMNS = [
    "w2", "mmd", "knn_f1", "zeros_gap", "auc_genes", "auc_linear", "fold_slope", "correlation_error", "nll",
]  # fmt: skip
SCVI = ["torch==2.13.0", "scvi-tools"]  # a torch without torchvision beside it: a CPU wheel will do


@torch.inference_mode()
def held_out_nll(model, atlas):
    """Nats per test cell under the calibrated autoencoder, with each cell's own size factor."""
    total = cells = 0
    for batch in CellStream(atlas, 512, split="test", labels=list(model.labels), shuffle=False):
        total, cells = total + model.nll(batch).item() * len(batch), cells + len(batch)
    return total / cells


def scvi_sets(counts, labels, wanted, work, epochs):
    """Generated sets of scVI, trained in its own environment."""
    python = Path("benchmarks/.envs/scvi/bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *SCVI], check=True)
    if not (work / "generated.csv").exists():  # the slow part of the table: kept like the runs
        sparse.save_npz(work / "train.npz", counts)
        pd.DataFrame({"label": labels}).to_csv(work / "train.csv", index=False)
        pd.Series(wanted, name="n").rename_axis("label").to_csv(work / "wanted.csv")
        script = Path(__file__).with_name("scvi_baseline.py")
        subprocess.run([python, script, work, "--sets", str(SETS), "--epochs", str(epochs)], check=True)
    drawn = pd.read_csv(work / "generated.csv")["label"].to_numpy(str)
    return [(sparse.load_npz(work / f"generated-{k}.npz"), drawn) for k in range(SETS)]


def score_split(source, args, seed, work):
    """One row per method for one split."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "atlas.zarr").exists():
        ingest([source], work / "atlas.zarr", labels=[args.label], min_cells=args.min_cells, seed=seed)
    atlas = open_atlas(work / "atlas.zarr")
    overrides = {"seed": seed, "labels": [args.label]} | dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        overrides |= {"autoencoder.max_epochs": 5, "flow.max_steps": 300}
    train(work / "atlas.zarr", work / "run", load_config(args.config, overrides), resume=(work / "run").exists())
    model = CFGen.load(work / "run")

    test = atlas.rows(split="test")
    fit = np.sort(np.concatenate([atlas.rows(split="train"), atlas.rows(split="val")]))
    labels = np.asarray(atlas.categories(args.label))[atlas.codes(args.label)]
    test_counts, fit_counts = atlas.read(test).to_scipy(), atlas.read(fit).to_scipy()
    reference = Reference.fit(test_counts, labels[test], seed=seed)
    wanted = pd.Series(labels[test]).value_counts().to_dict()
    table = pd.DataFrame({args.label: list(wanted), "n": list(wanted.values())})

    def generated(draw):
        cells = model.generate(labels=table, seed=draw, guidance={args.label: args.guidance} if args.guidance else None)
        return cells.X, cells.obs[args.label].to_numpy(str)

    methods = {
        "floor": [
            (fit_counts[rows], labels[fit][rows])
            for k in range(FLOOR_SETS)
            for rows in matched_rows(labels[fit], wanted, 1, np.random.default_rng(k))
        ],
        "cfgen-dist": [generated(k) for k in range(SETS)],
        "independent genes": [
            independent_genes(fit_counts, labels[fit], wanted, np.random.default_rng(k)) for k in range(SETS)
        ],
    }
    if args.scvi:
        methods["scVI"] = scvi_sets(fit_counts, labels[fit], wanted, work, 20 if args.quick else 400)
    real_zeros = 1 - test_counts.nnz / np.prod(test_counts.shape)
    rows = []
    for method, sets in methods.items():
        scores = pd.DataFrame([reference.score(*cells, draw=k) for k, cells in enumerate(sets)])
        nll = held_out_nll(model, atlas) if method == "cfgen-dist" else np.nan
        gap = scores["zeros"].mean() - real_zeros
        rows.append({"seed": seed, "method": method} | scores.mean().to_dict() | {"zeros_gap": gap, "nll": nll})
    return rows


def main():
    """Print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--min-cells", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--guidance", type=float, help="weight of the label; the default otherwise")
    parser.add_argument("--config", help="preset or YAML file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the config")
    parser.add_argument("--scvi", action="store_true", help="train scVI on the same splits")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/quality"), help="folder for runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = Path(args.source).stem
    rows = [row for seed in args.seeds for row in score_split(args.source, args, seed, args.work / f"{name}-{seed}")]
    scores = pd.DataFrame(rows)
    mean = scores.groupby("method", sort=False).mean(numeric_only=True).drop(columns="seed")
    shown = mean[[column for column in COLUMNS if column in mean]]
    print(f"\n{name}: mean over split seeds {args.seeds}, {SETS} generated sets each\n")
    print(shown.round(3).to_string())
    print("\nas a distance to the floor\n")
    print((shown - shown.loc["floor"]).drop(index="floor").drop(columns="nll").round(3).to_string())
    report(args, {"source": name, "seeds": args.seeds, "splits": rows})


if __name__ == "__main__":
    main()
