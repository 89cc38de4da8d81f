"""Does augmentation help classifiers on donors never seen? One whole experiment per seed.

    python benchmarks/augmentation.py kang_ifnb_pbmc.h5ad --genes hvg:2000 [--seeds 0 1 2 3 4] [--json FILE] [--quick]

For each seed another 20 % of the donors are held out and a model is trained on the others. Generated cells, with types
in shares of 1 / n_k, enlarge the training set to --factor times its size. kNN and CellTypist's regression are fitted
with and without them and scored on the held-out donors. Printed are means over seeds with 95 % intervals (Student's t),
per type and for Pearson's r between F1 gain and log10 frequency. Finished steps in --work are kept, so an interrupted
benchmark goes on.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report

from cfgen_dist import augment, classify, load_config, train
from cfgen_dist.classification.run import correlation, interval, training_rows
from data_loaders import ingest, open_atlas


def experiment(args, seed):
    """The table of one seed."""
    work = args.work / f"{Path(args.source).stem}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    atlas, run = work / "atlas.zarr", work / "run"
    done = work / f"classify-{args.factor:g}-{args.temperature:g}" / "classify.csv"
    if done.exists():
        return pd.read_csv(done).assign(seed=seed)
    if not atlas.exists():
        column, share = args.holdout.split("=")
        ingest([args.source], atlas, labels=[args.label], genes=args.genes, holdout=(column, float(share)), seed=seed)
    overrides = {"seed": seed, "labels": [args.label]} | dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        overrides |= {"autoencoder.max_epochs": 5, "flow.max_steps": 300, "refit": False}
    train(atlas, run, None if (run / "config.yaml").exists() else load_config(overrides=overrides), resume=True)
    total = int(args.factor * len(training_rows(open_atlas(atlas))))
    paths = []
    for draw in range(2 if args.quick else args.draws):
        paths.append(work / f"augmented-{args.factor:g}-{args.temperature:g}-{draw}.zarr")
        augment(
            run, atlas, paths[-1], total, balance=args.label, temperature=args.temperature, seed=draw, resume=True,
            workers=args.threads,
        )  # fmt: skip
    return classify(atlas, paths, done.parent, label=args.label, seeds=len(paths))[0].assign(seed=seed)


def summarise(scores):
    """Per classifier and type, and per classifier, means over seeds with intervals."""
    types, overall = [], {}
    for kind, own in scores.groupby("classifier", sort=False):
        for name, cells in own.groupby("type"):
            gain, low, high = interval(cells["gain"])
            mean = cells[["train_cells", "generated_cells", "test_cells", "f1_original", "f1_augmented"]].mean()
            types.append({"classifier": kind, "type": name, **mean, "gain": gain, "low": low, "high": high})
        by_seed = own.groupby("seed")
        r = [correlation(np.log10(cells["frequency"]), cells["gain"]) for _, cells in by_seed]
        overall[kind] = {"pearson_r": interval(r)}
        for name in ("f1_original", "f1_augmented", "gain"):
            overall[kind][f"macro {name}"] = interval(by_seed[name].mean())
    return pd.DataFrame(types).sort_values(["classifier", "train_cells"]), overall


def main():
    """Print the tables."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts and donors")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--holdout", default="donor=0.2", help="column and share held out (default donor=0.2)")
    parser.add_argument("--genes", help="as `cfgen-dist ingest --genes`")
    parser.add_argument("--factor", type=float, default=2.0, help="training cells after over before (default 2)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--draws", type=int, default=3, help="augmented sets per seed (default 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/augmentation"), help="runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = pd.concat([experiment(args, seed) for seed in args.seeds])
    types, overall = summarise(scores)
    print(f"\n{Path(args.source).stem}: mean over seeds {args.seeds}\n")
    print(types.round(3).to_string(index=False))
    for kind, values in overall.items():
        for name, (mean, low, high) in values.items():
            print(f"{kind}: {name} {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    report(args, {"source": args.source, "scores": scores.to_dict("records"), "overall": overall})


if __name__ == "__main__":
    main()
