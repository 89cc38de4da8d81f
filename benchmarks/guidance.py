"""Can a combination of two attributes that was never seen be generated from the two?

    python benchmarks/guidance.py kang_ifnb_pbmc.h5ad --genes hvg:2000 [--seeds 0 1 2] [--joint] [--json FILE] [--quick]

For each seed another combination of donor and condition is held out of training. A model is trained on the rest, and
the combination is generated from its two attributes. All methods are compared with one half of its real cells; the
other half is the floor. Baselines are real cells of the same donor in the other condition, real cells of other donors
in the same condition, and generation from one attribute alone. `translated` are the cells of the same donor in the
other condition, carried to the wanted one; `joint` (with --joint) is a second model, trained on both attributes at
once. Components are those of all real cells. Finished steps in --work are kept.

w2, mmd: to the held-out cells. delta_r: Pearson correlation over genes between the change of mean log expression from
the donor's other condition to the method's cells and to the real ones. on_NAME: share of the 10 nearest real cells, of
all combinations, that have the wanted category.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report
from sklearn.neighbors import NearestNeighbors

from cfgen_dist import CFGen, load_config, train
from cfgen_dist.evaluation.metrics.distances import mmd_linear, wasserstein
from cfgen_dist.evaluation.spaces.log_normalised import Space
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.shard import stacked
from cfgen_dist.generation.weights import acting_codes
from cfgen_dist.model.multimodal import branches
from cfgen_dist.translation.shard import plan_translation, source_and_target, translate_latents
from data_loaders import ingest, open_atlas
from data_loaders.statistics.normalisation import log_normalise

FITTED_CELLS = 5000
MOST_CELLS = 500  # of each method


def trained(args, work, seed, conditioning):
    """The model of a split, trained if it is not there."""
    run = work / ("run" if conditioning == "single" else conditioning)
    overrides = {"seed": seed, "labels": args.attributes, "flow.conditioning": conditioning}
    overrides |= dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        overrides |= {"autoencoder.max_epochs": 5, "flow.max_steps": 300, "refit": False}
    train(
        work / "atlas.zarr",
        run,
        None if (run / "config.yaml").exists() else load_config(overrides=overrides),
        resume=True,
    )
    return CFGen.load(run)


@torch.inference_mode()
def translated(model, atlas, rows, to, seed):
    """Counts of real cells under another label."""
    plan = plan_translation(model, atlas, to, split="train", sampling=Sampling(seed=seed))
    counts = atlas.read(rows)
    total = counts.row_sums()
    before, after = source_and_target(model, atlas, plan, rows)
    z = translate_latents(model, plan, model.autoencoder.dense({"rna": counts}), total, before, after)
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 2**64, len(rows), dtype=np.uint64)
    network = branches(model.autoencoder)["rna"]
    shift = model.shifts(acting_codes(model, plan.weights, after)).get("rna")
    drawn = network.draw(z, total, np.zeros(len(rows), np.int64), seeds, rng, shift)
    return stacked([drawn], model.autoencoder.n_genes)


def score_combination(args, seed):
    """One row per method for one combination held out."""
    work = args.work / f"{Path(args.source).stem}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "atlas.zarr").exists():
        labels = [args.label, *args.attributes]
        ingest(
            [args.source], work / "atlas.zarr", labels=labels, genes=args.genes, seed=seed, holdout=(args.held, 1e-9)
        )
    atlas = open_atlas(work / "atlas.zarr")
    model = trained(args, work, seed, "single")
    rng = np.random.default_rng(seed)
    donor, condition = args.attributes
    test = rng.permutation(atlas.rows(split="test"))
    target = {name: atlas.categories(name)[atlas.codes(name)[test[0]]] for name in args.attributes}
    seen = np.sort(np.concatenate([atlas.rows(split=split) for split in ("train", "val")]))
    has = {name: atlas.codes(name) == atlas.categories(name).index(value) for name, value in target.items()}
    reference, floor = (half[:MOST_CELLS] for half in np.array_split(test, 2))
    n = len(floor)
    own_donor, own_condition = (rng.permutation(seen[has[name][seen]]) for name in args.attributes)

    def made(weights, own=model):
        asked = {name: value for name, value in target.items() if weights.get(name)}
        return own.generate(n, labels=asked, guidance=weights, seed=seed).X

    methods = {"real cells of the combination (floor)": atlas.read(floor).to_scipy()}
    for strength in args.weights:
        methods[f"generated, weights 1 and {strength:g}"] = made({donor: 1.0, condition: strength})
    if args.joint:
        methods["generated, joint"] = made(dict.fromkeys(args.attributes, 1.0), trained(args, work, seed, "joint"))
    methods |= {
        "translated from the other condition": translated(
            model, atlas, own_donor[:n], {condition: target[condition]}, seed
        ),
        f"generated from {condition} alone": made({condition: 1.0}),
        f"generated from {donor} alone": made({donor: 1.0}),
        f"real cells, same {donor}": atlas.read(own_donor[:n]).to_scipy(),
        f"real cells, same {condition}": atlas.read(own_condition[:n]).to_scipy(),
    }
    shown = np.sort(rng.permutation(np.r_[seen, reference])[:FITTED_CELLS])
    counts = atlas.read(shown).to_scipy()
    space = Space.fit(counts)
    neighbours = NearestNeighbors(n_neighbors=10).fit(space.project(counts))
    real = space.project(atlas.read(reference).to_scipy())
    start = mean_log(atlas.read(own_donor).to_scipy())
    change = mean_log(atlas.read(reference).to_scipy()) - start
    rows = []
    for method, counts in methods.items():
        cells = space.project(counts)
        scores = {"w2": wasserstein(real, cells, np.random.default_rng(0))["w2"], "mmd": mmd_linear(real, cells)}
        moved = mean_log(counts) - start
        scores["delta_r"] = np.corrcoef(moved, change)[0, 1] if moved.std() > 0 else np.nan
        near = shown[neighbours.kneighbors(cells, return_distance=False)]
        scores |= {f"on_{name}": own[near].mean() for name, own in has.items()}
        rows.append({"seed": seed, "held_out": " ".join(target.values()), "cells": n, "method": method} | scores)
    return rows


def mean_log(counts):
    """Mean log-normalised expression (G,)."""
    return np.asarray(log_normalise(counts).mean(axis=0)).ravel()


def main():
    """Print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--attributes", nargs=2, default=["donor", "condition"], metavar=("DONOR", "CONDITION"))
    parser.add_argument("--held", default="batch", help="column of their combinations (default batch)")
    parser.add_argument("--label", default="cell_type", help="stratifies the validation cells (default cell_type)")
    parser.add_argument("--genes", help="as `cfgen-dist ingest --genes`")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 1.5, 2.0], help="of the condition")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--joint", action="store_true", help="train a model of joint labels as well")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/guidance"), help="runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = pd.DataFrame([row for seed in args.seeds for row in score_combination(args, seed)])
    for held_out, own in scores.groupby("held_out", sort=False):
        print(f"\n{held_out}, {own['cells'].iloc[0]} cells of each method\n")
        print(own.drop(columns=["seed", "held_out", "cells"]).round(3).to_string(index=False))
    print("\nmean over combinations\n")
    mean = scores.drop(columns=["seed", "held_out", "cells"]).groupby("method", sort=False).mean()
    print(mean.round(3).to_string())
    report(args, {"source": args.source, "scores": scores.to_dict("records")})


if __name__ == "__main__":
    main()
