"""Accessibility and markers: against dense formulas and scanpy, and what the scores can and cannot tell apart."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse
from sklearn.decomposition import PCA

from cfgen_dist.evaluation import ChromatinReference
from cfgen_dist.evaluation.metrics.markers import find_markers, marker_correlation, read_markers
from cfgen_dist.evaluation.spaces.log_normalised import in_memory
from cfgen_dist.evaluation.spaces.tf_idf import fit_tf_idf, inverse_document_frequency, tf_idf
from data_loaders.errors import BadInput

KINDS = np.repeat(["a", "b", "c"], 60)


def peaks(seed=0, strength=0.3):
    """Counts of three types, 180 x 80: each opens peaks of its own."""
    rng = np.random.default_rng(seed)
    openness = np.full((3, 80), 0.05)
    for k in range(3):
        openness[k, 20 * k : 20 * k + 20] += strength
    kinds = np.repeat([0, 1, 2], 60)
    return sparse.csr_matrix((rng.random((180, 80)) < openness[kinds]) * rng.integers(1, 4, (180, 80)))


def idf_of(counts):
    return inverse_document_frequency(counts.shape[0], np.asarray(counts.sum(axis=0)).ravel())


def test_tf_idf_is_muons_formula():
    """The dense formula of muon.atac.pp.tfidf: scale_factor 1e4, log_tf, log_idf."""
    counts = peaks()
    dense = counts.toarray().astype(float)
    tf = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    idf = np.log1p(len(dense) / dense.sum(axis=0))
    np.testing.assert_allclose(tf_idf(counts, idf_of(counts)).toarray(), tf * idf, rtol=1e-12)


def test_empty_cells_and_peaks_are_zero():
    counts = peaks().tolil()
    counts[3], counts[:, 7] = 0, 0
    counts = counts.tocsr()
    idf = idf_of(counts)
    values = tf_idf(counts, idf).toarray()
    assert idf[7] == 0
    assert np.isfinite(values).all()
    assert not values[3].any()
    assert not values[:, 7].any()


def test_components_are_those_of_a_dense_pca():
    counts = peaks().sign()
    reference = ChromatinReference.fit(peaks(), KINDS)
    dense = tf_idf(counts, idf_of(counts)).toarray()
    expected = PCA(30, svd_solver="full").fit_transform(dense)
    signs = np.sign((expected * reference.cells.pcs).sum(axis=0))
    np.testing.assert_allclose(reference.cells.pcs, expected * signs, atol=1e-6)


def test_components_of_many_peaks_are_those_of_a_dense_pca(monkeypatch):
    """By iteration, without a matrix of peaks by peaks."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.random((70, 400)) < rng.beta(0.5, 3, 400))
    dense = tf_idf(counts, idf_of(counts)).toarray()
    expected = PCA(30, svd_solver="full").fit_transform(dense)
    monkeypatch.setattr("cfgen_dist.evaluation.spaces.tf_idf.COVARIANCE_GENES", 399)
    monkeypatch.setattr("cfgen_dist.evaluation.spaces.tf_idf.PASSES", 6)
    found = fit_tf_idf(400, in_memory(counts.astype(int))).project(counts)
    np.testing.assert_allclose(found, expected * np.sign((expected * found).sum(axis=0)), atol=1e-6)


def test_scores_tell_good_cells_from_bad_ones():
    reference = ChromatinReference.fit(peaks(0), KINDS)
    same, good = reference.score(peaks(0), KINDS), reference.score(peaks(1), KINDS)
    bad = reference.score(peaks(1), np.roll(KINDS, 60))
    assert same["w2"] == pytest.approx(0, abs=1e-6)
    assert same["mmd"] == pytest.approx(0, abs=1e-12)
    assert good["w2"] < 0.9 * bad["w2"]
    assert good["mmd"] < 0.2 * bad["mmd"]
    assert good["knn_f1"] > bad["knn_f1"] + 0.5
    assert good["w2_all"] == pytest.approx(bad["w2_all"])
    assert good["open"] == pytest.approx((peaks(1) > 0).mean())


def test_binary_reads_counts_as_open_or_not():
    reference = ChromatinReference.fit(peaks(), KINDS)
    assert reference.score(peaks(1), KINDS) == reference.score(peaks(1).sign(), KINDS)
    counted = ChromatinReference.fit(peaks(), KINDS, binary=False)
    assert counted.score(peaks(1), KINDS)["w2"] != pytest.approx(counted.score(peaks(1).sign(), KINDS)["w2"])


def test_what_cannot_be_scored():
    with pytest.raises(BadInput, match="test cells: 1 cells x 80 peaks, expected at least 2 of each"):
        ChromatinReference.fit(peaks()[:1], KINDS[:1])
    reference = ChromatinReference.fit(peaks(), KINDS)
    with pytest.raises(BadInput, match="cells to score: 79 peaks, expected the 80 of the test cells"):
        reference.score(peaks()[:, 1:], KINDS)
    with pytest.raises(BadInput, match="cells to score: no test cells of type 'x', valid: a, b, c"):
        reference.score(peaks(), np.full(180, "x"))


# ---- markers


FEATURES = [f"p{i}" for i in range(80)]


def test_markers_are_scanpys():
    counts = peaks()
    ours = find_markers(counts, KINDS, FEATURES, n=5)
    cells = ad.AnnData(counts.astype(np.float32), obs=pd.DataFrame({"k": pd.Categorical(KINDS)}))
    cells.obs_names, cells.var_names = [str(i) for i in range(180)], FEATURES
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "k", method="t-test_overestim_var", n_genes=5)
    for kind in "abc":
        found = ours.loc[ours["type"] == kind, "feature"]
        assert set(found) == set(cells.uns["rank_genes_groups"]["names"][kind])
        assert all(20 * "abc".index(kind) <= int(name[1:]) < 20 * "abc".index(kind) + 20 for name in found)


def test_types_of_few_cells_have_no_markers():
    kinds = np.array([*KINDS[:-2], "rare", "rare"])
    assert set(find_markers(peaks(), kinds, FEATURES)["type"]) == {"a", "b", "c"}
    with pytest.raises(BadInput, match="markers: 1 types with at least 3 cells, expected two or more"):
        find_markers(peaks()[:60], KINDS[:60], FEATURES)


@pytest.mark.parametrize("binary", [True, False])
def test_correlation_is_numpys(binary):
    real, other = peaks(0), peaks(1)
    markers = find_markers(real, KINDS, FEATURES, binary=binary, n=4)
    table = marker_correlation(real, KINDS, other, KINDS, FEATURES, markers, binary=binary)
    columns = [FEATURES.index(name) for name in pd.unique(markers["feature"])]

    def means(counts):
        dense = counts.toarray().astype(float)
        dense = (dense > 0) if binary else np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))
        return {kind: dense[kind == KINDS][:, columns].mean(axis=0) for kind in "abc"}

    for kind in "abc":
        assert table.loc[kind, "r"] == pytest.approx(np.corrcoef(means(real)[kind], means(other)[kind])[0, 1])
    assert (table["r"] > 0.8).all()
    assert (table["cells"] == 60).all()
    swapped = marker_correlation(real, KINDS, other, np.roll(KINDS, 60), FEATURES, markers, binary=binary)
    assert (swapped["r"] < 0.2).all()


def test_cells_without_any_marker_have_no_correlation():
    markers = pd.DataFrame({"type": ["a", "b"], "feature": ["p1", "p30"]})
    nothing = sparse.csr_matrix((180, 80))
    assert marker_correlation(peaks(), KINDS, nothing, KINDS, FEATURES, markers)["r"].isna().all()


def test_marker_tables(tmp_path):
    (tmp_path / "m.csv").write_text("type,feature,score\na,p1,3\nb,p2,4\n")
    table = read_markers(tmp_path / "m.csv")
    assert table.to_dict("list") == {"type": ["a", "b"], "feature": ["p1", "p2"]}
    (tmp_path / "x.csv").write_text("type,featur\na,p1\n")
    with pytest.raises(BadInput, match=r"x\.csv: no column 'feature'; did you mean 'featur'\?"):
        read_markers(tmp_path / "x.csv")
    (tmp_path / "e.csv").write_text("type,feature\n")
    with pytest.raises(BadInput, match=r"e\.csv: a table without markers; expected columns type and feature"):
        read_markers(tmp_path / "e.csv")
    with pytest.raises(BadInput, match=r"nothing\.csv: cannot be read as a table"):
        read_markers(tmp_path / "nothing.csv")
    markers = pd.DataFrame({"type": ["a"], "feature": ["p100"]})
    with pytest.raises(BadInput, match="`markers`: no feature 'p100', did you mean 'p10'"):
        marker_correlation(peaks(), KINDS, peaks(), KINDS, FEATURES, markers)
