"""Are batches mixed and labels kept when cells are translated? Scores before and after, for several guidance weights.

    python benchmarks/translation.py kang_ifnb_pbmc.h5ad --genes hvg:2000 --batch condition --to stim [--quick]

For each seed: an 80/20 split stratified by cell type, a model trained on cell type and batch, and the test cells
translated to one batch. Finished steps in --work are kept.
"""

import json
from pathlib import Path

import pandas as pd
import torch
from common import base_parser, report

from cfgen_dist import load_config, train, translate
from data_loaders import ingest


def score_split(args, seed):
    """One row for the real cells and one per weight."""
    work = args.work / f"t-{Path(args.source).stem}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    atlas, run = work / "atlas.zarr", work / "run"
    if not atlas.exists():
        ingest([args.source], atlas, labels=[args.label, args.batch], genes=args.genes, seed=seed)
    overrides = {"seed": seed, "labels": [args.label, args.batch]} | dict(pair.split("=", 1) for pair in args.set)
    if args.quick:
        overrides |= {"autoencoder.max_epochs": 5, "flow.max_steps": 300, "refit": False}
    train(atlas, run, None if (run / "config.yaml").exists() else load_config(overrides=overrides), resume=True)
    rows = []
    for weight in args.weights:
        out = work / f"{args.to}-{weight:g}.zarr"
        summary = translate(
            run, atlas, out, {args.batch: args.to}, label=args.label, split="test", seed=seed, resume=True,
            guidance={args.label: 1.0, args.batch: weight}, workers=args.threads,
        )  # fmt: skip
        scores = summary["scores"]
        if not rows:
            rows.append({"seed": seed, "cells": "before"} | scores["before"])
        rows.append({"seed": seed, "cells": f"after, weight {weight:g}"} | scores["after"])
        rows[-1]["cells_per_second"] = summary["cells_per_second"] or None
    return rows


def main():
    """Print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("source", help="h5ad with raw counts")
    parser.add_argument("--batch", default="batch", help="column to translate")
    parser.add_argument("--to", required=True, help="category of it")
    parser.add_argument("--label", default="cell_type", help="column to keep (default cell_type)")
    parser.add_argument("--genes", help="as `cfgen-dist ingest --genes`")
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 1.5, 2.0], help="of the batch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/translation"), help="runs, kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = pd.DataFrame([row for seed in args.seeds for row in score_split(args, seed)])
    mean = scores.drop(columns="seed").groupby("cells", sort=False).mean()
    print(f"\n{Path(args.source).stem} to {args.batch}={args.to}: mean over seeds {args.seeds}\n")
    print(mean.round(3).to_string())
    report(args, {"source": args.source, "scores": json.loads(scores.to_json(orient="records"))})


if __name__ == "__main__":
    main()
