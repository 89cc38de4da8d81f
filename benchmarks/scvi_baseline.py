"""scVI on one split, run by quality.py in scVI's own environment; nothing of cfgen-dist is imported here.

Reads `train.npz`, `train.csv`, `wanted.csv` of a folder and writes `generated-K.npz` and `generated.csv` there.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--sets", type=int, default=3)
parser.add_argument("--epochs", type=int, default=400)
args = parser.parse_args()

import scvi  # noqa: E402  after the arguments: --help needs no scvi-tools

scvi.settings.seed = 0
counts = sparse.load_npz(args.folder / "train.npz").astype(np.float32)
labels = pd.read_csv(args.folder / "train.csv", dtype=str)["label"].to_numpy()
wanted = pd.read_csv(args.folder / "wanted.csv", dtype={"label": str}).set_index("label")["n"]

cells = ad.AnnData(
    counts, obs=pd.DataFrame({"label": pd.Categorical(labels)}, index=np.arange(len(labels)).astype(str))
)
scvi.model.SCVI.setup_anndata(cells, batch_key="label")
model = scvi.model.SCVI(cells, gene_likelihood="nb")
model.train(max_epochs=args.epochs, accelerator="cpu", enable_progress_bar=False)
codes = {name: code for code, name in enumerate(cells.obs["label"].cat.categories)}
library = np.asarray(counts.sum(axis=1)).ravel()

drawn = np.repeat(wanted.index.to_numpy(), wanted.to_numpy())
for k in range(args.sets):
    rng = np.random.default_rng(k)
    torch.manual_seed(k)
    sizes = np.array([rng.choice(library[labels == name]) for name in drawn], dtype=np.float32)
    batch = torch.tensor([codes[name] for name in drawn])[:, None]
    z = torch.randn(len(drawn), model.module.n_latent)
    with torch.inference_mode():
        law = model.module.generative(z=z, library=torch.from_numpy(sizes)[:, None].log(), batch_index=batch)["px"]
        sample = law.sample().numpy()
    sparse.save_npz(args.folder / f"generated-{k}.npz", sparse.csr_matrix(sample.astype(np.int32)))
pd.DataFrame({"label": drawn}).to_csv(args.folder / "generated.csv", index=False)
