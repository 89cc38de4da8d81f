"""Several modalities evaluated: in shards as in memory, and as dense formulas of their own say."""

import anndata as ad
import numpy as np
import ot
import pandas as pd
import pytest
from evaluation_data import count_items, same
from multimodal_data import paired
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from cfgen_dist.evaluation import ChromatinReference, Reference, evaluate, stages
from cfgen_dist.evaluation.metrics.markers import find_markers, marker_correlation
from data_loaders import AtlasWriter
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy

OPTIONS = {"label": "cell_type", "sets": 2, "floor_sets": 2, "embedding": "pca", "seed": 3}


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cfgen_dist.evaluation.metrics.structure.TREES", 2)
        yield


def cells(seed, missing, *, generated=False):
    """Cells of three types with rna, atac (open or closed) and proteins; the first `missing` have no atac."""
    rna, atac = paired(n=360, genes=60, peaks=200, seed=0)
    order = np.random.default_rng(seed).permutation(360)
    rna, atac = rna[order].copy(), atac[order].copy()
    rng = np.random.default_rng(seed)
    openness = (rng.random((360, 200)) < 0.9) * (atac.X.toarray() > 0)  # other cells of the same law, nearly
    openness[:, 0] = 1
    openness[:missing] = 0
    counts = rng.poisson(rna.X.toarray() * 0.8 + 0.1)
    counts[:, 0] += 1
    made = ad.AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=rna.obs[["cell_type"]], var=rna.var)
    made.obs_names = [f"{'made' if generated else 'real'}{i}" for i in range(360)]
    made.obs["cell_type"] = pd.Categorical(made.obs["cell_type"])
    if generated:
        made.obs["is_generated"] = True
    else:
        split = rng.choice(["train", "test"], 360, p=[0.6, 0.4])
        made.obs["split"] = pd.Categorical(split, categories=["train", "val", "test"])
    made.obsm["atac"] = sparse.csr_matrix(openness.astype(np.int32))
    made.obsm["adt"] = sparse.csr_matrix(rng.poisson(rna.X.toarray()[:, :20] + 0.3).astype(np.int32))
    names = {"atac": atac.var_names, "adt": [f"protein{i}" for i in range(20)]}
    made.uns["features"] = {name: pd.DataFrame(index=pd.Index(index, name="feature")) for name, index in names.items()}
    return made


def write(data, path):
    """The same cells as a store."""
    with AtlasWriter(path, data.var[[]], labels=["cell_type"], modalities=dict(data.uns["features"])) as writer:
        writer.append(data.X.tocsr(), data.obs, {name: data.obsm[name].tocsr() for name in ("atac", "adt")})
        writer.close()
    return path


@pytest.fixture(scope="module")
def real():
    return cells(1, 50)


@pytest.fixture(scope="module")
def made():
    return cells(2, 0, generated=True)


@pytest.fixture(scope="module")
def stores(real, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return write(real, folder / "real.zarr"), write(made, folder / "made.zarr")


@pytest.fixture(scope="module")
def whole(real, made):
    """One shard, cells in memory."""
    return evaluate(real, made, **OPTIONS)["modalities"]


def test_shards_and_workers_change_nothing(stores, whole):
    assert list(whole) == ["rna", "atac", "adt"]
    assert whole["atac"]["binary"]
    again = evaluate(*stores, shard_size=23, workers=3, **OPTIONS)["modalities"]
    assert same(again, whole)


def test_many_peaks_in_shards_as_in_memory(real, made, stores, whole, monkeypatch):
    """The iteration that more than 4,096 peaks need: equal in shards, and near the exact components in few passes."""
    monkeypatch.setattr("cfgen_dist.evaluation.spaces.tf_idf.COVARIANCE_GENES", 20)
    monkeypatch.setattr("cfgen_dist.evaluation.spaces.tf_idf.PASSES", 4)
    iterated = evaluate(real, made, **OPTIONS)["modalities"]
    again = evaluate(*stores, shard_size=50, workers=2, **OPTIONS)["modalities"]
    for name, row in iterated["atac"]["metrics"].items():
        assert row["generated"]["mean"] == pytest.approx(again["atac"]["metrics"][name]["generated"]["mean"], rel=1e-6)
        assert row["generated"]["mean"] == pytest.approx(whole["atac"]["metrics"][name]["generated"]["mean"], rel=0.05)


@pytest.mark.slow  # as for rna in test_stages.py
def test_actors_change_nothing(ray_local, stores, whole, tmp_path):
    again = evaluate(*stores, tmp_path / "report", shard_size=60, ray="local", workers=2, **OPTIONS)["modalities"]
    assert same(again, whole)


def test_the_numbers_are_those_of_dense_formulas(real, made):
    """One set: TF-IDF by numpy, PCA by scikit-learn, transport by POT; cells without atac are out."""
    test = real.obs["split"].to_numpy() == "test"
    wanted = real.obs["cell_type"][test].value_counts()
    rows = np.sort(np.concatenate([np.flatnonzero(made.obs["cell_type"] == k)[:n] for k, n in wanted.items()]))
    one = made[rows].copy()
    found = evaluate(real, one, **OPTIONS | {"sets": 1})["modalities"]
    there = test & (np.asarray(real.obsm["atac"].sum(axis=1)).ravel() > 0)
    assert there.sum() < test.sum()
    a, b = real.obsm["atac"][there].toarray().astype(float), one.obsm["atac"].toarray().astype(float)
    idf = np.log1p(len(a) / a.sum(axis=0), where=a.sum(axis=0) > 0, out=np.zeros(200))
    a, b = (np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)) * idf for x in (a, b))
    pca = PCA(30, svd_solver="full").fit(a)
    a, b = pca.transform(a), pca.transform(b)
    kinds = [real.obs["cell_type"][there].to_numpy(), one.obs["cell_type"].to_numpy()]
    w2, mmd = [], []
    for kind in ("type0", "type1", "type2"):
        x, y = a[kinds[0] == kind], b[kinds[1] == kind]
        w2.append(np.sqrt(ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cdist(x, y, "sqeuclidean"))))
        mmd.append(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    metrics = found["atac"]["metrics"]
    assert metrics["w2"]["generated"]["mean"] == pytest.approx(np.mean(w2), rel=1e-6)
    assert metrics["mmd"]["generated"]["mean"] == pytest.approx(np.mean(mmd), rel=1e-6)
    assert metrics["open"]["generated"]["mean"] == pytest.approx((one.obsm["atac"] > 0).mean())
    types = (real.obs["cell_type"][there], one.obs["cell_type"])
    alone = ChromatinReference.fit(real.obsm["atac"][there], types[0], seed=3).score(one.obsm["atac"], types[1])
    assert {name: row["generated"]["mean"] for name, row in metrics.items()} == pytest.approx(alone)
    proteins = Reference.fit(real.obsm["adt"][test], real.obs["cell_type"][test], seed=3)
    alone = proteins.score(one.obsm["adt"], one.obs["cell_type"], structure=False)
    assert np.isnan(alone.pop("mean_variance"))  # too few proteins for a trend
    assert found["adt"]["metrics"].pop("mean_variance")["generated"]["mean"] is None
    assert {name: row["generated"]["mean"] for name, row in found["adt"]["metrics"].items()} == pytest.approx(alone)
    train = real.obs["split"].to_numpy() == "train"
    for name, counts in (("rna", "X"), ("adt", "adt")):
        first, other = ((x.X if counts == "X" else x.obsm[counts]) for x in (real, one))
        features = real.var_names if counts == "X" else real.uns["features"][counts].index
        markers = find_markers(first[train], real.obs["cell_type"][train], features)
        r = marker_correlation(
            first[test], real.obs["cell_type"][test], other, one.obs["cell_type"], features, markers
        )["r"]
        assert {kind: row["generated"] for kind, row in found[name]["markers"].items()} == pytest.approx(r.to_dict())


def test_an_interrupted_comparison_is_finished(stores, whole, tmp_path, monkeypatch):
    done, do_item = [], stages.do_item

    def stop(work, item):
        if item[0] == "levels.markers" and work.plan.get("modality") == "atac":
            raise KeyboardInterrupt
        do_item(work, item)
        done.append((work.folder.name, item))

    with monkeypatch.context() as patch:
        patch.setattr(stages, "do_item", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*stores, tmp_path / "report", shard_size=40, workers=1, **OPTIONS)
    assert any(folder == "modality-atac" for folder, _ in done)
    items = count_items(monkeypatch)
    again = evaluate(*stores, tmp_path / "report", shard_size=40, workers=1, resume=True, **OPTIONS)
    assert same(again["modalities"], whole)
    kinds = {item[0] for item in items}
    assert "score.structure" not in kinds, "the evaluation of rna was there already"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_what_cannot_be_compared(real, made):
    closed = real.copy()
    atac = closed.obsm["atac"].tolil()
    atac[np.flatnonzero(closed.obs["split"] == "test")] = 0
    closed.obsm["atac"] = atac.tocsr()
    result = evaluate(closed, made, **OPTIONS)
    assert list(result["modalities"]) == ["rna", "adt"]
    assert "Modality atac: 0 cells of test have counts in it, so it is not compared." in result["notes"]
    fewer = made.copy()
    fewer.obsm["atac"] = fewer.obsm["atac"][:, :-1]
    fewer.uns["features"]["atac"] = fewer.uns["features"]["atac"].iloc[:-1]
    with pytest.raises(
        BadInput, match=r"modality 'atac': its 199 features are not the real cells' 200: 1 missing \(chr1:199"
    ):
        evaluate(real, fewer, **OPTIONS)
    single = [each.copy() for each in (real, made)]
    for each in single:
        each.obs["cell_type"] = pd.Categorical(["one"] * 360)
    assert evaluate(*single, **OPTIONS)["modalities"]["rna"]["markers"] == {}, "one type has no markers"
