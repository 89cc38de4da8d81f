"""Do generated cells help classifiers on donors never seen, more than copies of real cells do?

    python benchmarks/augmentation.py kang_ifnb_pbmc.h5ad --genes hvg:1000 --rare "NK cells=20" [--json FILE] [--quick]

The donors are dealt into --splits groups, and each group is held out once: no donor is tested on twice, so the splits
are independent observations. (Without donors, --by none deals the cells themselves, type by type.) For each split a
model is trained on the other donors, and for each of --settings generated cells are added to the training cells, types
in shares of 1 / n_k. kNN and CellTypist's regression are fitted to the original cells, with copies of real cells, and
with generated ones, and scored on the held-out donors. Printed are means over the splits with 95 % intervals (Student's
t): per type, over all types, over the rare ones (at most --rare-below training cells).

A setting is words such as `guidance=1.5 factor=3 donor=none`; what it leaves out is `guidance=1 factor=1.5
donor=mixed`. factor: training cells after over before. donor: `mixed` gives generated cells donors as they occur in
their type, `constant` the one donor with most cells, `none` no donor at all (guidance 0). Finished steps in --work are
kept, so an interrupted benchmark goes on.
"""

import itertools
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from common import base_parser, report

from cfgen_dist import augment, classify, generate, load_config, train
from cfgen_dist.classification.run import correlation, interval, training_rows
from cfgen_dist.generation.augment import type_proportions
from data_loaders import AtlasWriter, ingest, open_atlas
from data_loaders.ingestion.splits import holdout_split

SETTINGS = [
    "guidance=1", "guidance=1.5", "guidance=2", "factor=1.1", "factor=3", "donor=constant", "donor=none",
]  # fmt: skip
USUAL = {"guidance": "1", "factor": "1.5", "donor": "mixed"}
SCORES = ("f1_original", "f1_copies", "f1_generated", "gain", "gain_over_copies")


def split_cells(cells, args, fold):
    """The cells of one split, with a column `held_out`; training cells thinned out as asked."""
    rng = np.random.default_rng(0)
    if args.by == "none":
        order = np.lexsort((rng.random(cells.n_obs), cells.obs[args.label].cat.codes))
        groups = np.empty(cells.n_obs, int)
        groups[order] = np.arange(cells.n_obs) % args.splits
    else:
        donors = rng.permutation(np.unique(cells.obs[args.by].astype(str)))
        fold_of = {name: i for i, part in enumerate(np.array_split(donors, args.splits)) for name in part}
        groups = cells.obs[args.by].astype(str).map(fold_of).to_numpy()
    held = groups == fold
    keep = np.ones(cells.n_obs, bool)
    rng = np.random.default_rng([1, fold])
    if args.train_donors:
        mine = rng.permutation(np.unique(cells.obs[args.by].astype(str)[~held]))[: args.train_donors]
        keep &= held | cells.obs[args.by].astype(str).isin(mine).to_numpy()
    for pair in args.rare:
        name, n = pair.rsplit("=", 1)
        rows = np.flatnonzero(keep & ~held & (cells.obs[args.label] == name).to_numpy())
        keep[rng.permutation(rows)[int(n) :]] = False
    cells = cells[keep].copy()
    cells.obs["held_out"] = pd.Categorical(np.where(held[keep], "yes", "no"), categories=["no", "yes"])
    return cells


def seed_that_holds_out(fold):
    """A seed with which `ingest(holdout=("held_out", 0.5))` holds out "yes"; another for each split."""
    for seed in itertools.count(100 * fold):
        groups = pd.Categorical(["no", "yes"])
        if holdout_split(groups, 0.5, np.zeros(2, int), val_fraction=0.0, seed=seed)[1] == ["yes"]:
            return seed
    raise AssertionError


def trained(args, fold, work):
    """The atlas and the run of one split."""
    atlas, run = work / "atlas.zarr", work / "run"
    labels = [args.label] if args.by == "none" else [args.label, args.by]
    seed = seed_that_holds_out(fold)
    if not atlas.exists():
        split_cells(ad.read_h5ad(args.source), args, fold).write_h5ad(work / "cells.h5ad")
        ingest(work / "cells.h5ad", atlas, labels=labels, genes=args.genes, holdout=("held_out", 0.5), seed=seed)
        (work / "cells.h5ad").unlink()
    overrides = {"seed": seed, "labels": labels} | dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        overrides |= {"autoencoder.max_epochs": 5, "flow.max_steps": 300, "refit": False}
    train(atlas, run, None if (run / "config.yaml").exists() else load_config(overrides=overrides), resume=True)
    return atlas, run


def enlarge(args, atlas, run, out, setting, seed):
    """Write the atlas with generated cells of one setting."""
    total = round(float(setting["factor"]) * len(training_rows(open_atlas(atlas), args.label)))
    guidance = {args.label: float(setting["guidance"])}
    if args.by != "none" and setting["donor"] != "none":
        guidance[args.by] = 1.0
    options = {"guidance": guidance, "seed": seed, "workers": args.threads}
    if setting["donor"] != "constant":
        augment(run, atlas, out, total, balance=args.label, resume=True, **options)
        return
    cells = ad.read_zarr(atlas)
    training = cells.obs[cells.obs["split"] != "test"]
    types, donor = training[args.label].value_counts(), training[args.by].value_counts().index[0]
    names, types = list(types.index.astype(str)), types[types > 0]
    n = np.random.default_rng(seed).multinomial(total - len(training), type_proportions(types))
    table = pd.DataFrame({args.label: types.index.astype(str), args.by: donor, "n": n})
    generate(run, out.with_suffix(".made"), labels=table[table["n"] > 0], resume=True, **options)
    made = ad.read_zarr(out.with_suffix(".made"))
    with AtlasWriter(out, pd.DataFrame(index=cells.var_names), labels=[args.label]) as writer:
        for part, generated in ((cells, False), (made, True)):
            obs = pd.DataFrame({"is_generated": generated}, index=part.obs_names)
            obs[args.label] = pd.Categorical(part.obs[args.label].astype(str), categories=names)
            obs["split"] = pd.Categorical(["train"] * len(obs) if generated else part.obs["split"].astype(str))
            writer.append(part.X, obs)
        writer.close()
    shutil.rmtree(out.with_suffix(".made"))


def experiment(args, fold, words):
    """The table of one split and setting."""
    work = args.work / f"{Path(args.source).stem}-{args.name}" / str(fold)
    work.mkdir(parents=True, exist_ok=True)
    name = words.replace("=", "").replace(" ", "-")
    if not (work / name / "classify.csv").exists():
        setting = USUAL | dict(pair.split("=") for pair in words.split())
        atlas, run = trained(args, fold, work)
        paths = [work / f"{name}-{draw}.zarr" for draw in range(args.draws)]
        for draw, path in enumerate(paths):
            if not path.exists():
                enlarge(args, atlas, run, path, setting, draw)
        classify(atlas, paths, work / name, label=args.label, seeds=args.repeats)
        for path in paths:
            shutil.rmtree(path)
    return pd.read_csv(work / name / "classify.csv").assign(split=fold, setting=words)


def summarise(scores, rare_below):
    """Means over the splits with intervals: per setting, classifier and type; over all types and the rare ones."""
    rows = []
    for (words, kind), own in scores.groupby(["setting", "classifier"], sort=False):
        rare = own.groupby("type")["train_cells"].mean() <= rare_below
        groups = {name: [name] for name in rare.sort_index().index}
        groups |= {"rare types": list(rare[rare].index), "all types": list(rare.index)}
        for name, types in groups.items():
            cells = own[own["type"].isin(types)]
            if cells.empty:
                continue
            by_split = cells.groupby("split")[list(SCORES)].mean()
            row = {"setting": words, "classifier": kind, "type": name, "n": len(by_split)}
            row |= {key: cells.groupby("split")[key].mean().mean() for key in ("train_cells", "generated_cells")}
            row |= {key: by_split[key].mean() for key in SCORES[:3]}
            for gain in SCORES[3:]:
                row[gain], row[f"{gain}_low"], row[f"{gain}_high"] = interval(by_split[gain])
            if name == "all types":
                r = [correlation(np.log10(part["frequency"]), part["gain"]) for _, part in own.groupby("split")]
                row["pearson_r"], row["pearson_r_low"], row["pearson_r_high"] = interval(r)
            rows.append(row)
    return pd.DataFrame(rows)


def show(table):
    """Print, as Markdown, generated cells against copies for each setting, then each setting by type."""
    groups = [(kind, name) for kind in ("logistic", "knn") for name in ("rare types", "all types")]
    print("\n| setting | " + " | ".join(f"{kind}, {name}" for kind, name in groups) + " |")
    print("|---|" + "---|" * len(groups))
    for words, own in table.groupby("setting", sort=False):
        rows = own.set_index(["classifier", "type"])
        cells = [compared(rows.loc[group]) if group in rows.index else "" for group in groups]
        print(f"| `{words}` | " + " | ".join(cells) + " |")
    for words, own in table.groupby("setting", sort=False):
        print(f"\n{words}\n")
        print("| classifier | type | train | generated | original | copies | generated | gain | over copies |")
        print("|---|---|---|---|---|---|---|---|---|")
        for row in own.to_dict("records"):
            numbers = " | ".join(f"{row[key]:,.0f}" for key in ("train_cells", "generated_cells"))
            f1 = " | ".join(f"{row[key]:.3f}" for key in SCORES[:3])
            gains = " | ".join(f"{row[g]:+.3f} ({row[g + '_low']:+.3f} to {row[g + '_high']:+.3f})" for g in SCORES[3:])
            print(f"| {row['classifier']} | {row['type']} | {numbers} | {f1} | {gains} |")


def compared(row):
    """F1 with copies, with generated cells, and the difference with its interval."""
    g = "gain_over_copies"
    interval = f"({row[f'{g}_low']:+.3f} to {row[f'{g}_high']:+.3f})"
    return f"{row['f1_copies']:.3f}, {row['f1_generated']:.3f}: {row[g]:+.3f} {interval}"


def main():
    """Print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument(
        "--by", default="donor", help="column whose categories are held out; none: cells (default donor)"
    )
    parser.add_argument("--splits", type=int, default=4, help="disjoint groups, each held out once (default 4)")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N of the splits; all by default")
    parser.add_argument("--rare", nargs="*", default=[], metavar="TYPE=N", help="keep N training cells of a type")
    parser.add_argument("--train-donors", type=int, metavar="N", help="train on N of the donors not held out")
    parser.add_argument(
        "--rare-below", type=float, default=100, help="most training cells of a rare type (default 100)"
    )
    parser.add_argument("--genes", help="as `cfgen-dist ingest --genes`")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="see above")
    parser.add_argument("--draws", type=int, default=1, help="augmented sets of each setting and split (default 1)")
    parser.add_argument("--repeats", type=int, default=1, help="orders of cells for the regression (default 1)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--name", default="whole", help="of the folder in --work: one for each choice of cells")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/augmentation"), help="runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = args.settings[:1] if args.quick else args.settings
    if args.by == "none":
        settings = [words for words in settings if "donor=" not in words]
    folds = range(args.splits if args.first is None else args.first)
    scores = pd.concat([experiment(args, fold, words) for fold in folds for words in settings])
    table = summarise(scores, args.rare_below)
    print(f"\n{Path(args.source).stem}: means over {len(folds)} of {args.splits} disjoint splits")
    show(table)
    report(args, {"source": args.source, "scores": scores.to_dict("records"), "summary": table.to_dict("records")})


if __name__ == "__main__":
    main()
