"""Generation against the public method: the same network, the same machine, the same guidance.

    python benchmarks/generation.py RUN ATLAS [--sets 3] [--threads 2] [--json FILE] [--quick]

The public method is what the CFGen paper's code does: dopri5 at 1e-5 through torchdyn, one network evaluation after the
other for the unconditional and for each conditional velocity, a dense Gamma-Poisson draw with torch, 2,000 cells at
once. Ours is `cfgen_dist.generation.run` with the bundle's defaults. Both make as many cells of each type as there are
test cells, in several sets, scored against the test cells; then both are timed.
"""

import time
from functools import partial

import numpy as np
import pandas as pd
import torch
from common import base_parser, report
from scipy import sparse
from torchdyn.numerics import odeint

from cfgen_dist import CFGen, generate
from cfgen_dist.evaluation import Reference
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.plan import make_plan
from cfgen_dist.generation.shard import sample_shard
from cfgen_dist.model.velocity import ABSENT
from cfgen_dist.workers.threads import map_threads
from data_loaders import open_atlas
from data_loaders.files import temporary_folder

BATCH = 2000  # of the public method
METRICS = ["w2", "mmd", "w2_all", "mmd_all", "knn_f1", "zeros"]


@torch.no_grad()
def public_method(model, codes, weights, seed):
    """Dense counts (B, G) of cells with these labels (B, K), and the network evaluations of one solve."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    covariate = model.size_factor.covariate
    column = list(model.labels).index(covariate) if covariate else None
    size_factor = model.size_factor.draw(np.zeros(len(codes), int) if column is None else codes[:, column], rng)
    logs = torch.from_numpy(np.log(size_factor).astype(np.float32))
    codes = torch.from_numpy(codes)
    absent = torch.full_like(codes, ABSENT)
    evaluations = 0

    def field(t, z):
        nonlocal evaluations
        time_ = torch.full((len(z),), float(t))
        free = model.velocity(z, time_, absent, logs)
        v, evaluations = free, evaluations + 1
        for k, weight in enumerate(weights):
            seen = absent.clone()
            seen[:, k] = codes[:, k]
            v = v + weight * (model.velocity(z, time_, seen, logs) - free)
            evaluations += 1
        return v

    z0 = torch.randn(len(codes), model.autoencoder.latent_dim, generator=generator)
    _, path = odeint(field, z0, torch.tensor([0.0, 1.0]), solver="dopri5", atol=1e-5, rtol=1e-5)
    rho = model.autoencoder.decode(model.velocity.restore(path[-1])).exp()
    mean = rho * torch.from_numpy(size_factor).float()[:, None]
    theta = model.autoencoder.dispersion(codes[:, column] if model.config.autoencoder.theta_covariate else None).exp()
    torch.manual_seed(seed)
    rate = torch.distributions.Gamma(theta.expand_as(mean), theta / mean.clamp_min(1e-8)).sample()
    return torch.distributions.Poisson(rate).sample(), evaluations


def ours(model, plan, workers):
    """Counts (CSR) and labels of a plan."""
    done = dict(map_threads(partial(sample_shard, plan=plan), range(plan.n_shards), lambda: model, workers))
    counts, codes = zip(*(done[shard] for shard in range(plan.n_shards)), strict=True)
    return sparse.vstack([part["rna"] for part in counts], format="csr"), np.concatenate(codes)


def quality(model, atlas, label, sets, workers):
    """Mean and spread over sets of the metrics of both methods."""
    test = atlas.rows(split="test")
    names = np.asarray(atlas.categories(label))
    truth = names[atlas.codes(label)[test]]
    reference = Reference.fit(atlas.read(test).to_scipy(), truth)
    wanted = pd.Series(truth).value_counts()
    table = pd.DataFrame({label: wanted.index, "n": wanted.to_numpy()})
    codes = model.codes(table.loc[table.index.repeat(table["n"])])
    scores = []
    for k in range(sets):
        plan = make_plan(model, labels=table, sampling=Sampling(seed=k))
        mine, drawn = ours(model, plan, workers)
        dense = [
            public_method(model, codes[i : i + BATCH], plan.weights, k)[0].numpy() for i in range(0, len(codes), BATCH)
        ]
        for method, counts, code in (
            ("ours", mine, drawn),
            ("public method", sparse.csr_matrix(np.concatenate(dense)), codes),
        ):
            kinds = np.asarray(model.labels[label])[code[:, 0]]
            scores.append({"method": method, "set": k, **reference.score(counts, kinds, draw=k, structure=False)})
    return pd.DataFrame(scores).groupby("method")[METRICS].agg(["mean", "std"])


def timed(function):
    """Seconds by the clock, and of all cores: the latter hardly depend on who else uses the machine."""
    clock, cores = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - cores


def speed(model, args):
    """Cells a second of both, and of ours to disk; cells a core-second of both."""
    plan = make_plan(model, 4096 if args.quick else 16384)
    ours(model, make_plan(model, 1024), args.threads)  # compiles
    clock, cores = timed(lambda: ours(model, plan, args.threads))
    figures = {"ours, in memory": plan.n_cells / clock, "ours, per core": plan.n_cells / cores}
    with temporary_folder("benchmarks") as folder:
        summary = generate(model, folder / "cells.zarr", plan.n_cells, workers=args.threads)
    figures["ours, to disk"] = summary["cells_per_second"]
    torch.set_num_threads(args.threads)
    codes, evaluations = plan.shard_codes(0)[:BATCH], []
    clock, cores = timed(lambda: evaluations.append(public_method(model, codes, plan.weights, 0)[1]))
    figures |= {"public method, in memory": len(codes) / clock, "public method, per core": len(codes) / cores}
    return figures, evaluations[0]


def main():
    """Print both tables."""
    parser = base_parser(__doc__)
    parser.add_argument("run", help="a trained run or bundle, conditioned on one label")
    parser.add_argument("atlas", help="the atlas it was trained on")
    parser.add_argument("--sets", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, atlas = CFGen.load(args.run), open_atlas(args.atlas)
    figures, evaluations = speed(model, args)
    ratio = figures["ours, per core"] / figures["public method, per core"]
    print(f"{len(model.genes):,} genes, {args.threads} threads, guidance {make_plan(model, 1).weights}")
    for name, value in figures.items():
        print(f"{name}: {value:,.0f} cells/s")
    print(f"{ratio:.1f} times the public method (per core), which took {evaluations} network evaluations")
    scores = quality(model, atlas, next(iter(model.labels)), 2 if args.quick else args.sets, args.threads)
    print(scores.round(3).to_string())
    flat = {
        method: {f"{a}_{b}": value for (a, b), value in row.items()} for method, row in scores.to_dict("index").items()
    }
    report(args, {"cells_per_second": figures, "ratio": ratio, "evaluations": evaluations, "scores": flat})


if __name__ == "__main__":
    main()
