"""What the calibration of a trained run changes of its cells: generated with and without, against the test cells.

    python benchmarks/calibration.py ATLAS RUN [--label cell_type] [--guidance 1 1.25] [--sets 2] [--json FILE]

Beside them the floor (training cells), and the ceiling (a perfect model that knows as many cells). The calibration is
computed anew, so that runs of older versions will do. For choices give an atlas whose test cells are inner ones.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import base_parser, report
from scipy import sparse

from cfgen_dist import CFGen
from cfgen_dist.evaluation import Reference, matched_rows
from cfgen_dist.evaluation.ceiling import error_of_means, with_means_off
from cfgen_dist.training.calibration import calibrate
from cfgen_dist.training.modalities import fitted_rows
from data_loaders import CellStream, open_atlas

COLUMNS = ["w2", "mmd", "knn_f1", "auc_genes", "auc_linear", "fold_slope", "correlation_error", "zeros_gap", "nll"]


@torch.inference_mode()
def held_out_nll(model, atlas):
    """Nats per test cell."""
    total = cells = 0
    for batch in CellStream(atlas, 512, split="test", labels=list(model.labels), unlabelled="keep", shuffle=False):
        total, cells = total + model.nll(batch).item() * len(batch), cells + len(batch)
    return total / cells


def ceiling(counts, labels, wanted, seed):
    """Cells of a perfect model, and their types."""
    rng, parts, types = np.random.default_rng(seed), [], []
    for kind, n in wanted.items():
        source = counts[rng.permutation(np.flatnonzero(labels == kind))]
        factor = error_of_means(source, source.shape[0], rng)
        parts.append(with_means_off(source[:n], source, factor, rng))
        types.append(np.repeat(kind, parts[-1].shape[0]))
    return sparse.vstack(parts, format="csr"), np.concatenate(types)


def main():
    """Print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("atlas")
    parser.add_argument("run")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0], help="weights of the label")
    parser.add_argument("--sets", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    atlas, model, sets = open_atlas(args.atlas), CFGen.load(args.run), 1 if args.quick else args.sets
    with tempfile.TemporaryDirectory() as folder:
        calibration = calibrate(atlas, model.autoencoder, model.config, Path(folder) / "parts")
    test, fit = atlas.rows(split="test"), fitted_rows(atlas, model.config.modalities, model.config.refit)
    labels = np.asarray(atlas.categories(args.label))[atlas.codes(args.label)]
    test_counts, fit_counts = atlas.read(test).to_scipy(), atlas.read(fit).to_scipy()
    known = np.isin(labels[test], labels[fit])
    reference = Reference.fit(test_counts, labels[test], seed=0)
    in_test, in_fit = (pd.Series(part).value_counts() for part in (labels[test][known], labels[fit]))
    wanted = {kind: int(min(n, in_fit[kind])) for kind, n in in_test.items()}
    table = pd.DataFrame({args.label: list(wanted), "n": list(wanted.values())})
    real_zeros, rows = 1 - test_counts.nnz / np.prod(test_counts.shape), {}

    def score(name, cells, nll=np.nan):
        scores = pd.DataFrame([reference.score(*each, draw=k) for k, each in enumerate(cells)]).mean()
        rows[name] = scores.to_dict() | {"zeros_gap": scores["zeros"] - real_zeros, "nll": nll}
        print(pd.DataFrame({name: rows[name]}).T[COLUMNS].round(4).to_string(), flush=True)

    draws = [matched_rows(labels[fit], wanted, 1, np.random.default_rng(k))[0] for k in range(sets + 1)]
    score("floor", [(fit_counts[chosen], labels[fit][chosen]) for chosen in draws])
    score("ceiling", [ceiling(fit_counts, labels[fit], wanted, k) for k in range(sets)])
    for calibrated in (False, True):
        model.calibration = calibration if calibrated else None
        nll = held_out_nll(model, atlas)
        for weight in args.guidance:
            made = [model.generate(labels=table, seed=k, guidance={args.label: weight}) for k in range(sets)]
            cells = [(each.X, each.obs[args.label].to_numpy(str)) for each in made]
            score(f"{'calibrated' if calibrated else 'as trained'}, guidance {weight:g}", cells, nll)
    report(args, {"atlas": str(args.atlas), "run": str(args.run), "rows": rows})


if __name__ == "__main__":
    main()
