"""MultiVI on one split, run by multimodal.py in scvi-tools' own environment; nothing of cfgen-dist is imported here.

Reads `rna.npz`, `atac.npz`, `train.csv`, `wanted.csv` of a folder and writes `rna-K.npz`, `atac-K.npz` and
`generated.csv` there. Cells are drawn from the prior of the latent, with the label as batch and the library sizes that
the model infers for training cells of the label.
"""

import argparse
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

BLOCK = 256

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--sets", type=int, default=3)
parser.add_argument("--epochs", type=int, default=500)
args = parser.parse_args()

import scvi  # noqa: E402  after the arguments: --help needs no scvi-tools

scvi.settings.seed = 0
labels = pd.read_csv(args.folder / "train.csv", dtype=str)["label"].to_numpy()
wanted = pd.read_csv(args.folder / "wanted.csv", dtype={"label": str}).set_index("label")["n"]
obs = pd.DataFrame({"label": pd.Categorical(labels)}, index=np.arange(len(labels)).astype(str))
parts = {}
for name in ("rna", "atac"):
    counts = sparse.load_npz(args.folder / f"{name}.npz").astype(np.float32)
    parts[name] = ad.AnnData(counts, obs=obs.copy())
    parts[name].var_names = [f"{name}{i}" for i in range(counts.shape[1])]
cells = mudata.MuData(parts)
where = {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
scvi.model.MULTIVI.setup_mudata(cells, batch_key="label", modalities=where)
model = scvi.model.MULTIVI(cells, gene_likelihood="nb")
model.train(max_epochs=args.epochs, accelerator="cpu", enable_progress_bar=False)
network, codes = model.module.eval(), {name: code for code, name in enumerate(obs["label"].cat.categories)}
epochs = max(len(values) for values in model.history.values())
(args.folder / "epochs.txt").write_text(f"{epochs}\n")
print(f"MultiVI: {epochs} epochs")

drawn = np.repeat(wanted.index.to_numpy(), wanted.to_numpy())
for k in range(args.sets):
    rng = np.random.default_rng(k)
    torch.manual_seed(k)
    donors = np.array([rng.choice(np.flatnonzero(labels == name)) for name in drawn])
    made = {"rna": [], "atac": []}
    for start in range(0, len(drawn), BLOCK):
        rows = donors[start : start + BLOCK]
        x = torch.from_numpy(np.hstack([parts[name].X[rows].toarray() for name in ("rna", "atac")]))
        batch = torch.tensor([codes[name] for name in drawn[start : start + BLOCK]])[:, None]
        with torch.inference_mode():
            sizes = network.inference(
                x, torch.zeros(len(rows), 1), batch, None, None, None, torch.from_numpy(rows)[:, None], None
            )
            z = torch.randn(len(rows), network.n_latent)
            out = network.generative(z, z, batch, libsize_expr=sizes["libsize_expr"])
            law = scvi.distributions.NegativeBinomial(mu=out["px_rate"], theta=out["px_r"])
            share = out["p"] * sizes["libsize_acc"] * torch.sigmoid(network.region_factors)
            made["rna"].append(sparse.csr_matrix(law.sample().numpy().astype(np.int32)))
            made["atac"].append(sparse.csr_matrix(torch.bernoulli(share).numpy().astype(np.int32)))
    for name, blocks in made.items():
        sparse.save_npz(args.folder / f"{name}-{k}.npz", sparse.vstack(blocks, format="csr"))
pd.DataFrame({"label": drawn}).to_csv(args.folder / "generated.csv", index=False)
