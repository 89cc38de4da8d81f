"""Cells of a combination that was never seen: what each way of making them is worth.

    python benchmarks/unseen.py kang_ifnb_pbmc.h5ad --change condition=stim --genes hvg:2000
        [--within cell_type] [--categories "B cells" ...] [--seeds 0 1 2] [--json FILE]

For each category (cell type) in turn, all its cells with the changed label (stim) are held out by `ingest --holdout`,
before genes are chosen; a model of joint labels is trained on the rest; and the cells held out are made without them.
One half of the held-out cells is the reference, the other half the floor. A result is kept in --work for each category
and seed, so a run that was cut off goes on.

W2, squared distance of means and energy distance are in 30 components of all real cells; slope and r are of the change
of mean log expression from the category's other cells, over all genes, against the real change; type is the share of
the 10 nearest real cells that are of the category, over that of real cells; counts is the ratio of geometric means of
counts per cell. "thinned or topped up" is the baseline that needs no model: counts of the category's other cells,
thinned where the other categories' mean ratio of the change is below 1, and with Poisson counts added where above.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from cfgen_dist import CFGen, load_config, train
from cfgen_dist.evaluation.metrics.distances import squared_length, wasserstein
from cfgen_dist.evaluation.spaces.log_normalised import Space
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.unseen import Lender
from cfgen_dist.model.transfer import FEW
from cfgen_dist.translation.shard import plan_translation, source_and_target, translate_latents
from data_loaders import ingest, open_atlas
from data_loaders.statistics.normalisation import log_normalise

FITTED_CELLS, MOST_CELLS = 5000, 500  # of the components; of each method
WAYS = {  # unseen, guidance
    "guidance alone": ("compose", 1.0),
    "guidance alone, weight 2": ("compose", 2.0),
    "transfer": ("transfer", 1.0),
}


def trained(args, work, target, seed):
    """The atlas without the combination, and the joint model of it, made if they are not there."""
    if not (work / "atlas.zarr").exists():
        work.mkdir(parents=True, exist_ok=True)
        ingest([args.source], work / "atlas.zarr", labels=list(target), genes=args.genes, holdout=target)
    settings = {"seed": seed, "labels": list(target), "flow.conditioning": "joint", "refit": False}
    settings |= dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        settings |= {"autoencoder.max_epochs": 3, "flow.max_steps": 200}
    run = work / f"run-{seed}"
    train(work / "atlas.zarr", run, None if run.exists() else load_config(overrides=settings), resume=True)
    return open_atlas(work / "atlas.zarr"), CFGen.load(run)


def thinned(counts, ratio, profile, rng):
    """Counts (n, G) with each gene multiplied by its ratio: thinned below 1, Poisson counts added above."""
    dense = counts.toarray().astype(np.int64)
    fewer = rng.binomial(dense, np.minimum(ratio, 1.0))
    return sparse.csr_matrix(fewer + rng.poisson(dense.sum(1, keepdims=True) * profile * np.maximum(ratio - 1, 0)))


def profile(atlas, rows):
    """Gene proportions of the pooled counts of cells, (G,)."""
    total = np.asarray(atlas.read(rows).to_scipy().sum(axis=0), dtype=np.float64).ravel()
    return total / total.sum()


@torch.inference_mode()
def from_latents(model, z, sizes, seed):
    """Counts of latents (n, D)."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 2**64, len(z), dtype=np.uint64)
    data, indices, indptr = model.autoencoder.draw(z, sizes, np.zeros(len(z), np.int64), seeds, rng)
    return sparse.csr_matrix((data, indices, indptr), shape=(len(z), len(model.genes)))


@torch.inference_mode()
def latents_of(model, atlas, rows):
    """Latents (n, D) and size factors (n,) of cells."""
    counts = atlas.read(rows)
    total = counts.row_sums()
    z = model.autoencoder.encode(model.autoencoder.dense({"rna": counts}), torch.from_numpy(total.astype(np.float32)))
    return z, total


@torch.inference_mode()
def carried(model, atlas, rows, to, seed):
    """Counts of real cells translated to the combination."""
    plan = plan_translation(model, atlas, to, where={}, split="train", sampling=Sampling(seed=seed))
    counts = atlas.read(rows)
    before, after = source_and_target(model, atlas, plan, rows)
    lent = Lender(model).borrow(after, np.random.default_rng(seed).random(len(rows)), before)
    total = counts.row_sums()
    z = translate_latents(model, plan, model.autoencoder.dense({"rna": counts}), total, before, after, lent)
    return from_latents(model, z, total * np.exp(lent.log_change), seed)


def scored(args, category, seed):
    """Method → scores for one category held out."""
    (name, value), within = args.change.split("="), args.within
    target = {within: category, name: value}
    work = args.work / f"{Path(args.source).stem}-{category.replace(' ', '_')}"
    kept = work / f"scores-{seed}{'-quick' if args.quick else ''}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    atlas, model = trained(args, work, target, seed)
    rng = np.random.default_rng(seed)
    reference, floor = np.array_split(rng.permutation(atlas.rows(split="test")), 2)
    seen = np.setdiff1d(np.arange(atlas.n_cells), atlas.rows(split="test"))
    code = {key: np.asarray(atlas.codes(key)) for key in target}
    is_category = code[within] == atlas.categories(within).index(category)
    is_changed = code[name] == atlas.categories(name).index(value)
    control = rng.permutation(seen[is_category[seen] & ~is_changed[seen]])
    others = []
    for k in range(len(atlas.categories(within))):
        here, there = (seen[(code[within][seen] == k) & (is_changed[seen] == side)] for side in (False, True))
        if min(len(here), len(there)) >= FEW:
            others.append((here, there))
    logs = [np.log((1e4 * profile(atlas, there) + 0.1) / (1e4 * profile(atlas, here) + 0.1)) for here, there in others]
    n = min(MOST_CELLS, len(floor), len(control))
    some = control[:n]
    z, sizes = latents_of(model, atlas, some)
    shift = np.mean(
        [float_mean(model, atlas, there) - float_mean(model, atlas, here) for here, there in others], axis=0
    )
    counts = atlas.read(some).to_scipy()
    methods = {
        "real cells, the other half (floor)": atlas.read(floor[:n]).to_scipy(),
        "nothing done: the category's other cells": counts,
        "thinned or topped up": thinned(counts, np.exp(np.mean(logs, axis=0)), profile(atlas, control), rng),
        "shifted in the latent (scGen)": from_latents(model, z + torch.from_numpy(shift).float(), sizes, seed),
    }
    for method, (unseen, weight) in WAYS.items():
        guidance = dict.fromkeys(target, weight)
        methods[method] = model.generate(n, labels=target, guidance=guidance, unseen=unseen, seed=seed).X
    methods["transfer, real cells translated"] = carried(model, atlas, some, {name: value}, seed)

    shown = np.sort(rng.permutation(np.r_[seen, reference])[:FITTED_CELLS])
    space = Space.fit(atlas.read(shown).to_scipy())
    pool = np.r_[rng.permutation(seen)[: FITTED_CELLS - len(reference[:n])], reference[:n]]
    neighbours = NearestNeighbors(n_neighbors=10).fit(space.project(atlas.read(np.sort(pool)).to_scipy()))
    pool, real = np.sort(pool), space.project(atlas.read(reference[:n]).to_scipy())
    start, own_size = mean_log(atlas.read(control).to_scipy()), log_size(atlas.read(reference).to_scipy())
    change = mean_log(atlas.read(reference).to_scipy()) - start
    scores = {}
    for method, matrix in methods.items():
        cells = space.project(matrix)
        moved = mean_log(matrix) - start
        near = pool[neighbours.kneighbors(cells, return_distance=False)]
        scores[method] = {
            "W2": wasserstein(real, cells, np.random.default_rng(0))["w2"],
            "means": squared_length(real.mean(0) - cells.mean(0)),
            "energy": float(2 * cdist(real, cells).mean() - cdist(real, real).mean() - cdist(cells, cells).mean()),
            "slope": float(moved @ change / (change @ change)),
            "r": float(np.corrcoef(moved, change)[0, 1]),
            "type": float(is_category[near].mean()),
            "counts": float(np.exp(log_size(matrix) - own_size)),
        }
    as_real = scores["real cells, the other half (floor)"]["type"]
    for own in scores.values():
        own["type"] /= as_real
    lesson = model.transfer.get(args.change) or model.transfer.get(name)
    found = {"scores": scores, "weight": lesson and lesson.weight, "way": lesson and lesson.way, "cells": n}
    kept.write_text(json.dumps(found))
    return found


def float_mean(model, atlas, rows):
    """Mean latent of at most 1,000 cells, (D,)."""
    return latents_of(model, atlas, rows[:1000])[0].numpy().mean(axis=0)


def mean_log(counts):
    """Mean log-normalised expression (G,)."""
    return np.asarray(log_normalise(counts).mean(axis=0), dtype=np.float64).ravel()


def log_size(counts):
    """Mean log of counts per cell."""
    return float(np.log(np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)).mean())


def main():
    """Print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--change", default="condition=stim", metavar="NAME=VALUE", help="the label that is changed")
    parser.add_argument("--within", default="cell_type", help="the other label (default cell_type)")
    parser.add_argument("--categories", nargs="+", help="of the other label; all with --most cells by default")
    parser.add_argument("--most", type=int, default=300, help="cells that a combination needs (default 300)")
    parser.add_argument("--genes", help="as `cfgen-dist ingest --genes`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/unseen"), help="runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    categories = args.categories
    if not categories:
        import anndata as ad

        name, value = args.change.split("=")
        obs = ad.read_h5ad(args.source, backed="r").obs
        numbers = obs.loc[obs[name] == value, args.within].value_counts()
        categories = list(numbers[numbers >= args.most].index)
    rows = []
    for category in categories:
        for seed in args.seeds:
            found = scored(args, category, seed)
            about = {"category": category, "seed": seed}
            rows += [about | {"method": method} | own for method, own in found["scores"].items()]
            print(
                f"{category}, seed {seed}: weight {found['weight']}, {found['cells']} cells of each method", flush=True
            )
    table = pd.DataFrame(rows)
    mean = table.drop(columns=["category", "seed"]).groupby("method", sort=False).mean()
    print(f"\nmean over {len(categories)} categories and {len(args.seeds)} seeds\n\n{mean.round(2).to_string()}")
    for category, own in table.groupby("category", sort=False):
        by_method = own.drop(columns=["category", "seed"]).groupby("method", sort=False).mean()
        print(f"\n{category}\n\n{by_method.round(2).to_string()}")
    report(args, {"rows": rows})


if __name__ == "__main__":
    main()
