"""How good are cells with RNA and accessibility? Both modalities beside the floor and MultiVI.

    python benchmarks/multimodal.py rna.h5ad atac.h5ad [--seeds 0] [--multivi] [--json FILE] [--quick]

For each seed: an 80/20 split stratified by type, one model of both modalities trained on the training cells, three
generated sets with as many cells of each type as there are test cells, scored against the test cells: RNA in the
components of log-normalised counts, accessibility in those of TF-IDF of open or closed. Beside it, on the same split
and by the same code: the floor (training cells) and, with --multivi, MultiVI (NB likelihood, the label as batch, prior
samples), trained in an environment of its own that is made on first use. W2 and MMD are means over types; markers are
found in the training cells, and their r is the mean over types.
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
from cfgen_dist.evaluation import ChromatinReference, Reference, matched_rows
from cfgen_dist.evaluation.metrics.markers import find_markers, marker_correlation
from data_loaders import ingest, open_atlas

SETS, FLOOR_SETS = 3, 5
SHOWN = ["rna_w2", "rna_mmd", "atac_w2", "atac_mmd", "rna_knn_f1", "atac_knn_f1", "atac_open", "rna_r", "atac_r"]
MARKS = SHOWN[:4]
MULTIVI = ["torch==2.13.0", "scvi-tools==1.4.2", "mudata==0.3.10"]


def multivi_sets(counts, labels, wanted, work, epochs):
    """Generated sets of MultiVI, trained in its own environment; kept, as training takes most of the time."""
    python = Path("benchmarks/.envs/multivi/bin/python")
    if not (work / "generated.csv").exists():
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *MULTIVI], check=True)
        work.mkdir(exist_ok=True)
        for name, matrix in counts.items():
            sparse.save_npz(work / f"{name}.npz", matrix)
        pd.DataFrame({"label": labels}).to_csv(work / "train.csv", index=False)
        pd.Series(wanted, name="n").rename_axis("label").to_csv(work / "wanted.csv")
        script = Path(__file__).with_name("multivi_baseline.py")
        subprocess.run([python, script, work, "--sets", str(SETS), "--epochs", str(epochs)], check=True)
    drawn = pd.read_csv(work / "generated.csv")["label"].to_numpy(str)
    return [({name: sparse.load_npz(work / f"{name}-{k}.npz") for name in counts}, drawn) for k in range(SETS)]


def score_split(args, seed, work):
    """One row a method, for one split; and the marker correlations of each type."""
    work.mkdir(parents=True, exist_ok=True)
    store = work / "atlas.zarr"
    if not store.exists():
        ingest({"rna": args.rna, "atac": args.atac}, store, labels=[args.label], min_cells=args.min_cells, seed=seed)
    atlas = open_atlas(store)
    overrides = {"seed": seed, "labels": [args.label]} | dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        overrides |= {"autoencoder.max_epochs": 3, "flow.max_steps": 300}
    run = work / args.name
    train(store, run, load_config(args.config, overrides), resume=run.exists())
    model = CFGen.load(run)

    test = atlas.rows(split="test")
    fit = np.sort(np.concatenate([atlas.rows(split="train"), atlas.rows(split="val")]))
    labels = np.asarray(atlas.categories(args.label))[atlas.codes(args.label)]
    real = {name: atlas.read(test, name).to_scipy() for name in ("rna", "atac")}
    seen = {name: atlas.read(fit, name).to_scipy() for name in ("rna", "atac")}
    features = {name: atlas.features(name).index for name in real}
    markers = {name: find_markers(seen[name], labels[fit], features[name], binary=name == "atac") for name in real}
    references = {
        "rna": Reference.fit(real["rna"], labels[test], seed=seed),
        "atac": ChromatinReference.fit(real["atac"], labels[test], seed=seed),
    }
    wanted = pd.Series(labels[test]).value_counts().to_dict()
    table = pd.DataFrame({args.label: list(wanted), "n": list(wanted.values())})

    def generated(draw):
        cells = model.generate(labels=table, seed=draw)
        return {"rna": cells.X, "atac": cells.obsm["atac"]}, cells.obs[args.label].to_numpy(str)

    def floor(draw):
        rows = next(iter(matched_rows(labels[fit], wanted, 1, np.random.default_rng(draw))))
        return {name: counts[rows] for name, counts in seen.items()}, labels[fit][rows]

    methods = {
        "floor": [floor(k) for k in range(FLOOR_SETS)],
        "cfgen-dist": [generated(k) for k in range(SETS)],
    }
    if args.multivi:
        methods["MultiVI"] = multivi_sets(seen, labels[fit], wanted, work / "multivi", 5 if args.quick else args.epochs)
    rows, by_type = [], []
    for method, sets in methods.items():
        for draw, (counts, kinds) in enumerate(sets):
            row = {"seed": seed, "method": method, "set": draw}
            for name in real:
                scores = references[name].score(
                    counts[name], kinds, draw=draw, **({"structure": False} if name == "rna" else {})
                )
                r = marker_correlation(
                    real[name], labels[test], counts[name], kinds, features[name], markers[name], binary=name == "atac"
                )
                row |= {f"{name}_{key}": value for key, value in scores.items()} | {f"{name}_r": r["r"].mean()}
                by_type.append(r.assign(method=method, modality=name).rename_axis("type").reset_index())
            rows.append(row)
    return rows, pd.concat(by_type)


def main():
    """Print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("rna", help="h5ad with raw counts of genes")
    parser.add_argument("atac", help="h5ad with raw counts of peaks, the same cells")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--min-cells", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--config", help="preset or YAML file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the config")
    parser.add_argument("--multivi", action="store_true", help="train MultiVI on the same splits")
    parser.add_argument("--epochs", type=int, default=200, help="of MultiVI, which stops earlier by itself if it can")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/multimodal"), help="folder for runs, kept")
    parser.add_argument("--name", default="run", help="of the run in that folder: settings apart, runs apart")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    name = Path(args.rna).stem
    parts = [score_split(args, seed, args.work / f"{name}-{seed}") for seed in args.seeds]
    rows, by_type = [row for part, _ in parts for row in part], pd.concat([types for _, types in parts])
    mean = pd.DataFrame(rows).groupby("method", sort=False).mean(numeric_only=True)
    print(f"\n{name}: mean over split seeds {args.seeds}\n")
    print(mean[SHOWN].round(3).to_string())
    if args.multivi:
        better = mean.loc["cfgen-dist", MARKS] < mean.loc["MultiVI", MARKS]
        print(f"\nbetter than MultiVI: {', '.join(better.index[better]) or 'in none'} of {', '.join(MARKS)}")
    print("\nmarker correlation by type\n")
    r = by_type.pivot_table(index="type", columns=["modality", "method"], values="r", sort=False)
    print(r.round(3).to_string())
    report(args, {"source": name, "seeds": args.seeds, "sets": rows, "markers": by_type.to_dict("records")})


if __name__ == "__main__":
    main()
