"""Half-labelled atlases: cells without a label train the model with it absent, and never count as having it."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import TINY

from cfgen_dist import augment, evaluate, generate
from cfgen_dist.bundle import CFGen
from cfgen_dist.config import load_config
from cfgen_dist.training.run import train
from data_loaders import AtlasWriter, ingest, open_atlas
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def half_labelled(tmp_path_factory):
    """600 cells of three types with markers; every second one has no cell_type, and some have no donor."""
    folder, rng = tmp_path_factory.mktemp("half"), np.random.default_rng(0)
    types = rng.integers(0, 3, 600)
    rates = np.ones((3, 60))
    for kind in range(3):
        rates[kind, 15 * kind : 15 * (kind + 1)] = 8
    truth = np.array(["a", "b", "c"], dtype=object)[types]
    numbers = np.arange(600)
    obs = pd.DataFrame({
        "cell_type": np.where(numbers % 2 == 0, truth, None),
        "donor": np.where(numbers % 10 == 0, "", np.array(["x", "y"], dtype=object)[numbers // 300]),
        "truth": truth,
    }, index=[f"cell{i}" for i in numbers])  # fmt: skip
    counts = sp.csr_matrix(rng.poisson(rates[types]).astype(np.float32))
    adata = ad.AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(60)]))
    adata.write_h5ad(folder / "half.h5ad")
    ingest(folder / "half.h5ad", folder / "atlas.zarr", labels=["cell_type", "donor"], unlabelled="keep", min_cells=0)
    return folder / "atlas.zarr"


@pytest.fixture(scope="module")
def run(half_labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    settings = TINY | {"autoencoder.max_epochs": 30, "flow.max_steps": 1000, "flow.lr": 2e-3}
    train(half_labelled, out, load_config(overrides=settings))
    return out


def profiles(counts, types, kinds):
    """Mean proportion of each gene in the cells of each type."""
    dense = np.asarray(counts.todense(), dtype=float)
    dense /= dense.sum(axis=1, keepdims=True)
    return np.stack([dense[types == kind].mean(axis=0) for kind in kinds])


def test_the_labelled_types_come_out_right(half_labelled, run):
    """Cells generated as a type are nearest to the type's true mean profile, over all its cells."""
    atlas, model = open_atlas(half_labelled), CFGen.load(run / "bundle")
    kinds = model.labels["cell_type"]
    assert kinds == atlas.categories("cell_type")
    assert len(kinds) == 3
    assert (model.combinations == -1).any()
    rows = atlas.rows(split="train")
    real = profiles(atlas.read(rows).to_scipy(), np.asarray(atlas.obs("truth"))[rows], kinds)
    table = pd.DataFrame({"cell_type": kinds, "donor": model.labels["donor"][0], "n": 150})
    made = model.generate(labels=table, guidance={"cell_type": 1.0})
    generated = profiles(made.X, made.obs["cell_type"].to_numpy(str), kinds)
    distances = np.abs(generated[:, None] - real[None]).sum(axis=2)
    assert distances.argmin(axis=1).tolist() == [0, 1, 2]
    others = np.where(np.eye(3, dtype=bool), np.inf, distances).min(axis=1)
    assert (distances.diagonal() < 0.5 * others).all(), distances


def test_cells_are_drawn_with_labels_that_cells_have(run, tmp_path):
    generate(run / "bundle", tmp_path / "made.zarr", 90)
    made = open_atlas(tmp_path / "made.zarr")
    assert all((made.codes(name) >= 0).all() for name in ("cell_type", "donor"))


def test_evaluation_leaves_them_out_and_says_so(half_labelled, run, tmp_path):
    generate(run / "bundle", tmp_path / "made.zarr", 400)
    result = evaluate(half_labelled, tmp_path / "made.zarr", tmp_path / "report", label="cell_type", control=False)
    assert any("300 cells of" in note and "without a cell_type" in note for note in result["notes"])
    atlas = open_atlas(half_labelled)
    test = atlas.rows(split="test")
    assert result["provenance"]["cells"]["test"] == (atlas.codes("cell_type")[test] >= 0).sum()


def test_augmentation_keeps_them(half_labelled, run, tmp_path):
    summary = augment(run / "bundle", half_labelled, tmp_path / "more.zarr", 700)
    more, atlas = open_atlas(tmp_path / "more.zarr"), open_atlas(half_labelled)
    assert (more.codes("cell_type") < 0).sum() == (atlas.codes("cell_type") < 0).sum() == 300
    assert summary["real"] == len(atlas.rows(split="train")) + len(atlas.rows(split="val"))
    assert sum(of["generated"] for of in summary["types"].values()) == 700 - summary["real"]


def test_what_is_refused(half_labelled, tmp_path):
    settings = TINY | {"autoencoder.theta_covariate": "cell_type"}
    with pytest.raises(BadInput, match=r"theta_covariate is 'cell_type', but .* training cells have no 'cell_type'"):
        train(half_labelled, tmp_path / "run", load_config(overrides=settings))
    counts = sp.csr_matrix(np.ones((8, 5), np.uint8))
    obs = pd.DataFrame(
        {"a": pd.Categorical(["x", None] * 4), "b": pd.Categorical([None, "y"] * 4)}, index=list("ijklmnop")
    )
    obs["split"] = pd.Categorical(["train"] * 6 + ["val"] * 2)
    with AtlasWriter(tmp_path / "a.zarr", pd.DataFrame(index=list("vwxyz")), labels=["a", "b"]) as writer:
        writer.append(counts, obs)
        writer.close()
    with pytest.raises(BadInput, match="no training cell has all of the labels a, b"):
        train(tmp_path / "a.zarr", tmp_path / "run", load_config(overrides=TINY))
