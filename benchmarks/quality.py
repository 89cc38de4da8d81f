"""How good are generated cells? One table over data sets, splits and methods.

    python benchmarks/quality.py FOLDER --scvi-python PATH     # the whole table; goes on where it was interrupted
    python benchmarks/quality.py FOLDER --data PBMC3K --seeds 0 --methods ours control
    python benchmarks/quality.py --tables                      # what is finished, as the tables of docs/quality.md
    python benchmarks/quality.py cells.h5ad --label cell_type --min-cells 20 [--config FILE]   # another data set

FOLDER has the files of `SUITE`, raw counts with a column `cell_type`. For each split seed: an 80/20 split stratified by
type, a training on the training cells, generated sets with as many cells of each type as there are test cells, three
for each method (five for the floor), scored against the test cells. The methods:

    floor      training cells in the place of generated ones
    ours       the defaults, or the preset of that data set
    faithful   the same model with guidance 1, where the preset has another; stronger, strongest: with 1.5 and 2
    public     the settings of CFGen's public code (public_cfgen.yaml), trained by this package, which takes long: only
               of PBMC3K, split 0, unless --methods names it
    scvi       scVI: NB likelihood, the label as batch, 400 epochs, prior samples with the library sizes of training
               cells, trained by --scvi-python, a Python that has scvi-tools; left out without it
    control    every gene drawn independently inside each type

Each data set, split and method is one JSON in --work/DATA-SEED: it is not made again. To make one again, remove it (and
`run`, the model, beside it).
"""

import json
import subprocess
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from common import about, base_parser, report
from scipy import sparse

from cfgen_dist import CFGen, load_config, train
from cfgen_dist.evaluation import Reference, independent_genes, matched_rows
from data_loaders import CellStream, ingest, open_atlas

SETS, FLOOR_SETS = 3, 5


class Data(NamedTuple):
    """A data set of the table: its genes, its preset, its split seeds."""

    file: str
    min_cells: int
    config: str | None
    seeds: tuple[int, ...]
    label: str = "cell_type"


SUITE = {
    "PBMC3K": Data("pbmc3k.h5ad", 30, "pbmc3k", (0, 1, 2)),
    "worm embryo": Data("worm_embryo_packer.h5ad", 20, None, (0,)),
    "Baron pancreas": Data("baron_pancreas_h1.h5ad", 20, None, (0,)),
    "OneK1K subset": Data("onek1k_subset.h5ad", 20, None, (0,)),
}
METHODS = {
    "floor": "real training cells (the floor)",
    "ours": "**cfgen-dist**",
    "faithful": "cfgen-dist, guidance 1",
    "stronger": "cfgen-dist, guidance 1.5",
    "strongest": "cfgen-dist, guidance 2",
    "public": "CFGen with the settings of its public code",
    "scvi": "scVI",
    "control": "genes drawn independently inside types",
}
GUIDANCE = {"faithful": 1.0, "stronger": 1.5, "strongest": 2.0}  # of the same model, where a preset has another
PUBLIC = ("PBMC3K", 0)  # the data set and split of the public settings, which train long
COLUMNS = {
    "w2": ("W2", ".2f"), "mmd": ("linear MMD", ".1f"), "knn_f1": ("10-NN F1", ".3f"), "zeros_gap": ("zeros", "+.3f"),
    "auc_genes": ("AUC genes", ".2f"), "auc_linear": ("AUC linear", ".2f"), "auc_pcs": ("AUC components", ".2f"),
    "fold_slope": ("fold-change slope", ".2f"), "rare_genes": ("rare genes", ".3f"),
    "correlation_error": ("correlation error", ".2f"), "coverage": ("coverage", ".2f"),
    "nll": ("nats per cell", ",.1f"),
}  # fmt: skip


class Split:
    """One split of a data set: its atlas, its models, and the sets that each method gives."""

    def __init__(self, source, data, seed, work, args):
        self.data, self.seed, self.work, self.args = data, seed, work, args
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "atlas.zarr").exists():
            ingest([source], work / "atlas.zarr", labels=[data.label], min_cells=data.min_cells, seed=seed)
        self.atlas = open_atlas(work / "atlas.zarr")
        labels = np.asarray(self.atlas.categories(data.label))[self.atlas.codes(data.label)]
        test = self.atlas.rows(split="test")
        fit = np.sort(np.concatenate([self.atlas.rows(split="train"), self.atlas.rows(split="val")]))
        self.test, self.test_labels = self.atlas.read(test).to_scipy(), labels[test]
        self.fit, self.fit_labels = self.atlas.read(fit).to_scipy(), labels[fit]
        self.wanted = pd.Series(self.test_labels).value_counts().to_dict()

    @cached_property
    def reference(self):
        return Reference.fit(self.test, self.test_labels, seed=self.seed)

    def model(self, name, config):
        overrides = {"seed": self.seed, "labels": [self.data.label]} | dict(p.split("=", 1) for p in self.args.set)
        if self.args.quick:
            overrides |= {"autoencoder.max_epochs": 5, "flow.max_steps": 300}
        run = self.work / name
        train(self.work / "atlas.zarr", run, load_config(config, overrides), resume=run.exists())
        return CFGen.load(run)

    def generated(self, model, guidance=None):
        table = pd.DataFrame({self.data.label: list(self.wanted), "n": list(self.wanted.values())})
        weights = {self.data.label: guidance} if guidance else None
        sets = [model.generate(labels=table, seed=draw, guidance=weights) for draw in range(SETS)]
        return [(cells.X, cells.obs[self.data.label].to_numpy(str)) for cells in sets]

    def sets(self, method):
        """Count matrices and labels of a method, and its nats per test cell."""
        if method == "floor":
            draws = [
                matched_rows(self.fit_labels, self.wanted, 1, np.random.default_rng(k))[0] for k in range(FLOOR_SETS)
            ]
            return [(self.fit[rows], self.fit_labels[rows]) for rows in draws], np.nan
        if method == "control":
            rngs = [np.random.default_rng(k) for k in range(SETS)]
            return [independent_genes(self.fit, self.fit_labels, self.wanted, rng) for rng in rngs], np.nan
        if method == "scvi":
            return self.scvi(), np.nan
        public = method == "public"
        model = self.model(
            "public" if public else "run", Path(__file__).with_name("public_cfgen.yaml") if public else self.data.config
        )
        return self.generated(model, GUIDANCE.get(method)), held_out_nll(model, self.atlas)

    def scvi(self):
        work = self.work / "scvi"
        if not (work / "generated.csv").exists():
            work.mkdir(exist_ok=True)
            sparse.save_npz(work / "train.npz", self.fit)
            pd.DataFrame({"label": self.fit_labels}).to_csv(work / "train.csv", index=False)
            pd.Series(self.wanted, name="n").rename_axis("label").to_csv(work / "wanted.csv")
            script, epochs = Path(__file__).with_name("scvi_baseline.py"), "20" if self.args.quick else "400"
            subprocess.run([self.args.scvi_python, script, work, "--sets", str(SETS), "--epochs", epochs], check=True)
        drawn = pd.read_csv(work / "generated.csv")["label"].to_numpy(str)
        return [(sparse.load_npz(work / f"generated-{k}.npz"), drawn) for k in range(SETS)]

    def figures(self, method):
        """What the JSON of a method has: the measures of each set, and where they were taken."""
        sets, nll = self.sets(method)
        zeros = 1 - self.test.nnz / np.prod(self.test.shape)
        scores = [self.reference.score(*cells, draw=k) for k, cells in enumerate(sets)]
        sizes = {"cells": self.atlas.n_cells, "genes": self.atlas.n_genes, "types": len(self.wanted)}
        scores = [each | {"zeros_gap": each["zeros"] - zeros, "nll": nll} for each in scores]
        return about() | {"quick": self.args.quick, "seed": self.seed, "method": method} | sizes | {"sets": scores}


@torch.inference_mode()
def held_out_nll(model, atlas):
    """Nats per test cell under the calibrated autoencoder, with each cell's own size factor."""
    total = cells = 0
    for batch in CellStream(atlas, 512, split="test", labels=list(model.labels), shuffle=False):
        total, cells = total + model.nll(batch).item() * len(batch), cells + len(batch)
    return total / cells


def wanted_methods(args, name, data, seed):
    """The methods of a split, in the order of `METHODS`."""
    if args.methods:
        return [method for method in METHODS if method in args.methods]
    left_out = set() if args.scvi_python else {"scvi"}
    left_out |= set() if (name, seed) == PUBLIC else {"public"}
    left_out |= set(GUIDANCE) if load_config(data.config).sampling.guidance in (None, 1.0) else set()
    return [method for method in METHODS if method not in left_out]


def measure(args, suite, folder):
    """Make what is missing of all JSON files."""
    for name, data in suite.items():
        for seed in args.seeds or data.seeds:
            work, split = args.work / f"{name.replace(' ', '-')}-{seed}", None
            for method in wanted_methods(args, name, data, seed):
                place = work / f"{method}.json"
                if place.exists():
                    continue
                split = split or Split(folder / data.file, data, seed, work, args)
                figures = split.figures(method) | {"data": name}
                written = place.with_suffix(".part")
                written.write_text(json.dumps(figures, indent=1, default=float))
                written.replace(place)
                print(f"{name}, split {seed}, {method}: done", flush=True)


def collected(work):
    """One row for each finished data set, split and method: means over its sets."""
    rows = []
    for place in sorted(work.glob("*/*.json")):
        found = json.loads(place.read_text())
        keys = ("data", "seed", "method", "date", "machine", "cells", "genes", "types", "quick")
        rows.append({k: found[k] for k in keys} | pd.DataFrame(found["sets"]).mean().to_dict())
    return pd.DataFrame(rows)


def tables(rows):
    """Markdown: a row for each data set and method, means over splits; where a method has fewer of these, all again."""
    lines = ["| data | cells | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---|---|" + "---|" * len(COLUMNS))
    for name in sorted(rows["data"].unique(), key=lambda name: [*SUITE, name].index(name)):
        own = rows[rows["data"] == name]
        splits = {method: frozenset(each["seed"]) for method, each in own.groupby("method")}
        for seeds in sorted(set(splits.values()), key=lambda each: (-len(each), sorted(each))):
            some = own[own["seed"].isin(seeds) & own["method"].isin([m for m, of in splits.items() if of >= seeds])]
            what = name if len(set(splits.values())) == 1 else f"{name}, split {', '.join(map(str, sorted(seeds)))}"
            means = some.groupby("method")[list(COLUMNS)].mean()
            for method in [key for key in METHODS if key in means.index]:
                row = means.loc[method]
                cells = [format(row[key], form) if pd.notna(row[key]) else "" for key, (_, form) in COLUMNS.items()]
                lines.append(f"| {what} | {METHODS[method]} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, own in rows.groupby("data", sort=False):
        first, genes = own.iloc[0], sorted(own["genes"].unique())
        days = sorted(own["date"].unique())
        lines.append(
            f"{name}: {first['cells']:,} cells, {' to '.join(f'{n:,}' for n in {genes[0]: 0, genes[-1]: 0})} genes, "
            f"{own['types'].max()} types; {' to '.join({days[0]: 0, days[-1]: 0})}, {first['machine']['processor']}"
        )
    return "\n".join(lines)


def main():
    """Measure what is missing, and print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("source", nargs="?", type=Path, help="folder with the data sets, or one h5ad with raw counts")
    parser.add_argument("--data", nargs="+", choices=list(SUITE), default=list(SUITE), help="some of them")
    parser.add_argument("--seeds", type=int, nargs="+", help="split seeds; those of the suite by default")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="some of them")
    parser.add_argument("--scvi-python", help="the python of an environment with scvi-tools")
    parser.add_argument("--label", default="cell_type", help="of one h5ad")
    parser.add_argument("--min-cells", type=int, default=20, help="of one h5ad")
    parser.add_argument("--config", help="of one h5ad: preset or YAML file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of our model")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what is in --work")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/quality"), help="folder for all, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.tables and args.source is None:
        parser.error("a folder or an h5ad is wanted, or --tables")
    if not args.scvi_python and "scvi" in (args.methods or []):
        parser.error("--methods scvi wants --scvi-python")
    if not args.tables and args.source.is_file():
        one = Data(args.source.name, args.min_cells, args.config, (0, 1, 2), args.label)
        measure(args, {args.source.stem: one}, args.source.parent)
    elif not args.tables:
        measure(args, {name: SUITE[name] for name in args.data}, args.source)
    rows = collected(args.work)
    if rows.empty:
        raise SystemExit(f"{args.work}: no figures there")
    print(tables(rows))
    report(args, {"rows": rows.to_dict("records")})


if __name__ == "__main__":
    main()
