"""Accessibility: against dense formulas, and what the scores can and cannot tell apart."""

import numpy as np
import pytest
from peaks_data import KINDS, peaks
from scipy import sparse
from sklearn.decomposition import PCA

from cfgen_dist.evaluation import ChromatinReference
from cfgen_dist.evaluation.spaces.log_normalised import in_memory
from cfgen_dist.evaluation.spaces.tf_idf import fit_tf_idf, inverse_document_frequency, tf_idf
from data_loaders.errors import BadInput


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
