"""Models of several modalities on the whole road: trained, generated from, evaluated, and what is refused."""

import json
import shutil
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest
from conftest import TINY
from multimodal_data import write_pair

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.evaluation import evaluate
from cfgen_dist.generation.augment import augment
from cfgen_dist.generation.run import generate
from cfgen_dist.training.modalities import complete
from cfgen_dist.training.run import train
from cfgen_dist.translation.run import translate
from data_loaders import export, ingest, open_atlas
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy
SETTINGS = {**TINY, "modalities.hidden": [32, 16], "modalities.code_dim": 12}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An atlas of rna, atac (0/1-like) and, for a second kind of count, the peaks once more as `adt`."""
    folder = tmp_path_factory.mktemp("pair")
    rna, atac = write_pair(folder, n=400)
    adt = shutil.copyfile(atac, Path(folder) / "adt.h5ad")  # one file for two modalities is refused
    ingest({"rna": rna, "atac": atac, "adt": adt}, folder / "a.zarr", labels=["cell_type", "donor"], min_cells=0)
    return folder / "a.zarr"


@pytest.fixture(scope="module")
def run(pair, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "run"
    settings = {**SETTINGS, "modalities.likelihood": "adt=poisson", "autoencoder.max_epochs": 20, "flow.max_steps": 300}
    train(pair, run, load_config(overrides=settings))
    return run


def test_training_and_generation_in_memory(pair, run):
    model = CFGen.load(run)
    assert model.config.modalities.likelihood == {"atac": "bernoulli", "adt": "poisson"}
    cells = model.generate(600, seed=1)
    atlas = open_atlas(pair)
    assert set(cells.obsm) == {"atac", "adt"}
    assert cells.obsm["atac"].shape == (600, 60)
    assert cells.obsm["atac"].data.max() == 1
    assert cells.obsm["adt"].data.max() > 1
    np.testing.assert_array_equal(cells.obs["size_factor_adt"], np.asarray(cells.obsm["adt"].sum(axis=1)).ravel())
    assert list(cells.uns["features"]["atac"].index) == list(atlas.features("atac").index)
    real = atlas.read(atlas.rows(split="test"), "atac").to_scipy().toarray() > 0
    types = np.array(atlas.categories("cell_type"))[atlas.codes("cell_type")][atlas.rows(split="test")]
    for kind in atlas.categories("cell_type"):
        opened = cells.obsm["atac"][(cells.obs["cell_type"] == kind).to_numpy()].mean(axis=0)
        others = [real[types == other].mean(axis=0) for other in atlas.categories("cell_type")]
        distances = [np.abs(np.asarray(opened).ravel() - share).mean() for share in others]
        assert np.argmin(distances) == atlas.categories("cell_type").index(kind), "peaks follow the type"


def test_the_store_holds_all_modalities_and_can_be_trained_on(run, tmp_path):
    out = tmp_path / "cells.zarr"
    summary = generate(run, out, 500, seed=4, shard_size=120)
    again = generate(run, tmp_path / "again.zarr", 500, seed=4, shard_size=120, workers=1)
    assert summary["sha256"] == again["sha256"]
    atlas, store = open_atlas(out), ad.read_zarr(out)
    assert atlas.modalities == ("rna", "adt", "atac")
    assert store.obsm["atac"].shape == (500, 60)
    assert atlas.card["modalities"]["atac"]["likelihood"] == "bernoulli"
    export(out, tmp_path / "cells.h5mu", to="h5mu")
    both = mudata.read_h5mu(tmp_path / "cells.h5mu")
    np.testing.assert_array_equal(both["adt"].X.toarray(), store.obsm["adt"].toarray())
    assert main(["ingest", str(tmp_path / "cells.h5mu"), str(tmp_path / "b.zarr"), "--labels", "cell_type",
                 "--min-cells", "0", "--drop-empty"]) == 0  # fmt: skip
    train(tmp_path / "b.zarr", tmp_path / "second", load_config(overrides={**SETTINGS, "flow.max_steps": 20}))


def test_a_damaged_shard_is_made_again(run, tmp_path, monkeypatch):
    """The checksum covers the further modalities too."""
    import cfgen_dist.generation.store as module

    out, whole = tmp_path / "cells.zarr", generate(run, tmp_path / "whole.zarr", 200, shard_size=100)

    def damaged(work, ledger, pool, make=module.make_parts):
        made, parts = make(work, ledger, pool), Path(ledger.folder)
        with np.load(parts / "shard-000001.npz") as file:
            arrays = dict(file)
        arrays["atac.indices"] = arrays["atac.indices"][::-1]
        np.savez(parts / "shard-000001.npz", **arrays)
        return made

    monkeypatch.setattr(module, "make_parts", damaged)
    assert generate(run, out, 200, shard_size=100)["sha256"] == whole["sha256"]
    stores = [ad.read_zarr(path) for path in (out, tmp_path / "whole.zarr")]
    assert (stores[0].obsm["atac"] != stores[1].obsm["atac"]).nnz == 0


def test_cells_that_lack_a_modality(tmp_path):
    """They are kept for the autoencoder; the flow, the labels and the size factors are of complete cells."""
    rna, atac = write_pair(tmp_path, n=300)
    ad.read_h5ad(atac)[:200].copy().write_h5ad(tmp_path / "some.h5ad")
    ingest({"rna": rna, "atac": tmp_path / "some.h5ad"}, tmp_path / "a.zarr", labels=["cell_type"], min_cells=0,
           cells="rna")  # fmt: skip
    train(tmp_path / "a.zarr", tmp_path / "run", load_config(overrides=SETTINGS))
    model, atlas = CFGen.load(tmp_path / "run"), open_atlas(tmp_path / "a.zarr")
    training = np.union1d(atlas.rows(split="train"), atlas.rows(split="val"))
    assert model.counts.sum() == len(complete(atlas, model.config.modalities, training)) < len(training)
    assert model.generate(50).obsm["atac"].nnz > 0
    translate(tmp_path / "run", tmp_path / "a.zarr", tmp_path / "t.zarr", {"cell_type": "type0"}, shard_size=64)
    translated = open_atlas(tmp_path / "t.zarr")
    lacking = (np.asarray(store.obs("size_factor_atac")) == 0 for store in (atlas, translated))
    np.testing.assert_array_equal(*lacking, err_msg="what was not measured in a cell is not made up")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities.likelihood": "peaks=nb"}, "modalities.likelihood: the atlas has no modality 'peaks'"),
        (
            {"modalities.likelihood": "atac=gauss"},
            "modalities.likelihood has 'gauss', expected pairs such as atac=bernoulli, each one of nb, bernoulli",
        ),
        ({"modalities.likelihood": "atac"}, "modalities.likelihood is 'atac', expected pairs such as atac=bernoulli"),
        ({"modalities.code_dim": 0}, "modalities.code_dim is 0, expected at least 1"),
    ],
)
def test_settings_that_do_not_fit(pair, tmp_path, settings, message):
    with pytest.raises(BadInput) as error:
        train(pair, tmp_path / "run", load_config(overrides={**SETTINGS, **settings}))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_augmented_atlases_hold_all_modalities(pair, run, tmp_path):
    augment(run, pair, tmp_path / "more.zarr", 500, balance="cell_type")
    more, real = open_atlas(tmp_path / "more.zarr"), open_atlas(pair)
    assert more.modalities == ("rna", "adt", "atac")
    first = np.arange(real.n_cells)
    np.testing.assert_array_equal(
        more.read(first, "adt").to_scipy().toarray(), real.read(first, "adt").to_scipy().toarray()
    )
    assert (more.obs("size_factor_atac")[real.n_cells :] > 0).any()
    rna, atac = write_pair(tmp_path, n=400)
    cut = ad.read_h5ad(atac)[:, :50].copy()
    cut.write_h5ad(atac)
    sources = {"rna": rna, "atac": atac, "adt": shutil.copyfile(atac, Path(atac).with_name("adt.h5ad"))}
    ingest(sources, tmp_path / "other.zarr", labels=["cell_type", "donor"], min_cells=0)
    with pytest.raises(BadInput, match="its features of modality 'atac' are not the 60 of the model"):
        augment(run, tmp_path / "other.zarr", tmp_path / "x.zarr", 500, balance="cell_type")


# ---- evaluation


def test_evaluation_of_all_modalities(pair, run, tmp_path):
    generate(run, tmp_path / "cells.zarr", 600, seed=2)
    assert main(["evaluate", str(pair), str(tmp_path / "cells.zarr"), "--out", str(tmp_path / "report"),
                 "--embedding", "pca", "--label", "cell_type"]) == 0  # fmt: skip
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["modalities"]
    assert list(found) == ["rna", "atac", "adt"]
    assert "metrics" not in found["rna"]
    assert found["atac"]["space"] == "TF-IDF"
    assert found["atac"]["binary"]
    assert found["adt"]["space"] == "log-normalised"
    for name in ("atac", "adt"):
        w2 = found[name]["metrics"]["w2"]
        assert 0 < w2["floor"]["mean"] < 1.2 * w2["generated"]["mean"] < 2 * w2["floor"]["mean"]
    for name in found:
        assert set(found[name]["markers"]) == {"type0", "type1", "type2"}
        assert all(r["floor"] > 0.8 for r in found[name]["markers"].values())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h2>Modality atac</h2>" in page
    assert "TF-IDF of open or closed" in page


def test_marker_tables_of_the_user(pair, run, tmp_path):
    generate(run, tmp_path / "cells.zarr", 300, seed=2)
    (tmp_path / "m.csv").write_text("type,feature\ntype0,gene1\ntype1,gene2\ntype0,gene3\ntype2,chr1:5-14\n")
    few = {"sets": 1, "floor_sets": 1}
    found = evaluate(pair, tmp_path / "cells.zarr", markers=tmp_path / "m.csv", **few)["modalities"]
    assert set(found["rna"]["markers"]) == {"type0", "type1", "type2"}
    assert -1 <= found["rna"]["markers"]["type1"]["generated"] <= 1
    (tmp_path / "m.csv").write_text("type,feature\ntype0,gene99\n")
    with pytest.raises(BadInput, match="`markers`: no feature 'gene99', did you mean 'gene9'"):
        evaluate(pair, tmp_path / "cells.zarr", markers=tmp_path / "m.csv", **few)
    (tmp_path / "m.csv").write_text("type,feature\ntype0,gene1\ntype1,gene2\ntype0,gene3\ntype2,chr1:5-14\n")
    cells = CFGen.load(run).generate(300, seed=2)
    in_memory = evaluate(ad.read_zarr(pair), cells, markers=tmp_path / "m.csv", label="cell_type", **few)["modalities"]
    assert in_memory["rna"]["markers"].keys() == found["rna"]["markers"].keys()


# ---- what the public code trains but cannot sample


@pytest.mark.parametrize("likelihood", ["adt=nb", "adt=poisson,atac=nb"])
def test_everything_at_once(pair, tmp_path, likelihood):
    """Theta and size factors per donor, batches of one cell in training and in sampling."""
    settings = {
        **SETTINGS, "modalities.likelihood": likelihood, "autoencoder.theta_covariate": "donor",
        "size_factor.covariate": "donor", "size_factor.law": "lognormal", "autoencoder.max_epochs": 1,
        "flow.max_steps": 5, "sampling.batch_size": 1, "flow.conditioning": "joint",
    }  # fmt: skip
    train(pair, tmp_path / "run", load_config(overrides=settings))
    model = CFGen.load(tmp_path / "run")
    branch = model.autoencoder.branches["adt" if "adt=nb" in likelihood else "atac"]
    assert branch.log_theta.shape == (2, 60)
    assert model.generate(5, labels={"donor": "a"}).obsm["adt"].nnz > 0


def test_a_category_of_one_cell_and_batches_of_one(tmp_path):
    rna, _ = write_pair(tmp_path, n=41)
    cells = ad.read_h5ad(rna)
    cells.obs["donor"] = ["single"] + ["many"] * 40
    cells.write_h5ad(rna)
    ingest(rna, tmp_path / "a.zarr", labels=["cell_type", "donor"], min_cells=0, holdout=None)
    atlas = open_atlas(tmp_path / "a.zarr")
    settings = {
        **TINY, "autoencoder.batch_size": 1, "flow.batch_size": 1, "autoencoder.max_epochs": 1, "flow.max_steps": 10,
        "autoencoder.theta_covariate": "donor", "size_factor.covariate": "donor", "size_factor.law": "lognormal",
    }  # fmt: skip
    model = train(tmp_path / "a.zarr", tmp_path / "run", load_config(overrides=settings))
    assert np.isfinite(model.size_factor.mean).all()
    seen = set(model.combinations[:, 1])
    single = atlas.categories("donor").index("single")
    if single in seen:  # the split may have put the cell among the test cells
        made = model.generate(3, labels={"donor": "single"})
        total = atlas.size_factor[atlas.rows(donor="single")[0]]
        assert np.log(made.obs["size_factor"].mean()) == pytest.approx(np.log(total), abs=0.5)
    else:
        with pytest.raises(BadInput, match="no training cell was 'single'"):
            model.generate(3, labels={"donor": "single"})
    assert model.generate(1).n_obs == 1


def test_the_preset_for_multiomes_fits(pair, tmp_path):
    small = {key: value for key, value in SETTINGS.items() if not key.endswith(("latent_dim", "code_dim"))}
    train(pair, tmp_path / "run", load_config("multiome", {**small, "flow.max_steps": 5, "autoencoder.max_epochs": 1}))
    model = CFGen.load(tmp_path / "run")
    assert model.config.autoencoder.latent_dim == 100
    assert model.config.modalities.likelihood["atac"] == "bernoulli"
