"""`Reference`: scoring, matching, the control, the two protocols."""

import math
from collections import Counter

import anndata as ad
import numpy as np
import pytest
from evaluation_data import of_split, pbmc68k, with_split
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluation import Reference, independent_genes, matched_rows, summarise
from cfgen_dist.evaluation.metrics.distances import mmd_linear, mmd_linear_time, wasserstein
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def cells():
    return pbmc68k()


@pytest.fixture(scope="module")
def test_cells(cells):
    return of_split(cells, "test")


@pytest.fixture(scope="module")
def train_cells(cells):
    return of_split(cells, "train")


@pytest.fixture(scope="module")
def reference(test_cells):
    return Reference.fit(*test_cells)


def real_pcs(reference, kind):
    return reference.cells.pcs[reference.names[reference.cells.codes] == kind]


def by_neighbours(reference, pcs):
    real = reference.cells
    return KNeighborsClassifier(10).fit(real.pcs, reference.names[real.codes]).predict(pcs)


def test_score_is_flat_finite_and_repeatable(reference, train_cells, test_cells):
    counts, labels = train_cells
    rows = matched_rows(labels, Counter(test_cells[1].tolist()), 1, np.random.default_rng(0))[0]
    score = reference.score(counts[rows], labels[rows], draw=3)
    assert all(isinstance(value, float) and math.isfinite(value) for value in score.values())
    assert {"w1", "w2", "mmd", "mmd_rbf", "w2_all", "knn_f1", "zeros", "auc_genes", "correlation_error"} <= set(score)
    reference.score(counts[:50], labels[:50], structure=False)  # what was scored before must not matter
    assert reference.score(counts[rows], labels[rows], draw=3) == score
    quick = reference.score(counts[rows], labels[rows], draw=3, structure=False)
    assert "auc_genes" not in quick
    assert quick.items() <= score.items()


def test_the_reference_itself_is_at_no_distance(reference, test_cells):
    score = reference.score(*test_cells, structure=False)
    for name in ("w1", "w2", "mmd", "w2_all", "mmd_all", "dropout", "size_factor"):
        assert score[name] == pytest.approx(0, abs=1e-5)
    assert score["zeros"] == pytest.approx(1 - test_cells[0].nnz / np.prod(test_cells[0].shape))


def test_centred_metrics_by_hand(reference, train_cells):
    counts, labels = train_cells
    score, types = reference.compare(counts, labels, structure=False)
    pcs = reference.space.project(counts)
    rng = np.random.default_rng(0)
    kinds = np.unique(labels)
    pairs = [(real_pcs(reference, kind), pcs[labels == kind]) for kind in kinds]
    assert score["mmd"] == pytest.approx(np.mean([mmd_linear(a, b) for a, b in pairs]))
    assert score["w2"] == pytest.approx(np.mean([wasserstein(a, b, rng)["w2"] for a, b in pairs]))
    predicted = by_neighbours(reference, pcs)
    assert score["knn_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert types.index.tolist() == kinds.tolist()
    assert types["cells"].to_dict() == Counter(labels.tolist())
    assert types["w2"].mean() == pytest.approx(score["w2"])


def test_paper_protocol_by_hand(test_cells, train_cells):
    reference = Reference.fit(*test_cells, protocol="paper")
    counts, labels = train_cells
    score, types = reference.compare(counts, labels, structure=False)
    pcs = reference.space.project(counts, centred=False)
    kinds = np.unique(labels)
    pairs = [(real_pcs(reference, kind), pcs[labels == kind]) for kind in kinds]
    assert score["mmd"] == pytest.approx(np.nanmean([mmd_linear_time(a, b) for a, b in pairs]))
    assert score["w2"] == pytest.approx(np.mean([wasserstein(a, b, None)["w2"] for a, b in pairs]))
    predicted = by_neighbours(reference, pcs)
    inside = [f1_score(labels[labels == k], predicted[labels == k], average="macro", zero_division=0) for k in kinds]
    assert score["knn_f1"] == pytest.approx(np.mean(inside))
    assert types["knn_f1"].tolist() == pytest.approx(inside)
    centred = Reference.fit(*test_cells).score(counts, labels, structure=False)
    assert score["w2"] > 1.3 * centred["w2"]


def test_of_many_cells_some_are_classified_and_count_for_all(reference, train_cells, monkeypatch):
    counts, labels = train_cells
    whole = reference.score(counts, labels, structure=False)
    monkeypatch.setattr("cfgen_dist.evaluation.metrics.neighbours.CLASSIFIED_CELLS", 40)
    part = reference.score(counts, labels, structure=False)
    assert part["knn_f1"] != whole["knn_f1"]
    assert part["knn_f1"] == pytest.approx(whole["knn_f1"], abs=0.1)
    assert part["w2"] == whole["w2"]
    monkeypatch.setattr("cfgen_dist.evaluation.metrics.neighbours.FITTED_CELLS", 70)
    assert 0 < reference.score(counts, labels, structure=False)["knn_f1"] < whole["knn_f1"] + 0.1


def test_labels_may_be_codes_and_counts_dense(test_cells):
    counts, labels = test_cells
    codes = np.unique(labels, return_inverse=True)[1]
    by_code = Reference.fit(counts.toarray(), codes).score(counts.toarray(), codes, structure=False)
    assert by_code == Reference.fit(counts, labels).score(counts, labels, structure=False)


def test_types_of_one_cell_and_fewer_test_cells_than_neighbours():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (6, 30)))
    score = Reference.fit(counts, list("aaaabc")).score(counts[::-1], list("cbaaaa"))
    assert math.isfinite(score["w2"])
    assert math.isnan(score["correlation_error"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.astype(float) * 0.5, y), "cells to score: counts hold 0.5; expected whole numbers"),
        (lambda x, y: (x.astype(float) * np.nan, y), "cells to score: counts hold NaN or infinite values"),
        (lambda x, y: (-x, y), "no negative values"),
        (lambda x, y: (x[:, :700], y), "cells to score: 700 genes, expected the 765 of the test cells"),
        (lambda x, y: (x, y[:5]), "cells to score: 5 labels for 140 cells"),
        (lambda x, y: (x[:0], y[:0]), "cells to score: none"),
        (lambda x, y: (x, np.where(y == "Dendritic", "Dendritc", y)), "type 'Dendritc', did you mean 'Dendritic'?"),
    ],
)
def test_cells_that_cannot_be_scored(reference, test_cells, change, message):
    with pytest.raises(BadInput) as caught:
        reference.score(*change(*test_cells))
    assert message in str(caught.value)


def test_references_that_cannot_be(test_cells):
    with pytest.raises(BadInput, match="`protocol`: unknown 'centered', did you mean 'centred'"):
        Reference.fit(*test_cells, protocol="centered")
    with pytest.raises(BadInput, match="test cells: 1 found, expected at least 2"):
        Reference.fit(test_cells[0][:1], test_cells[1][:1])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 9))
def test_matched_sets_are_disjoint_and_of_the_wanted_size(labels, sets, n):
    labels = np.array(labels)
    chosen = matched_rows(labels, {"a": n, "b": 2}, sets, np.random.default_rng(0))
    assert len(chosen) == sets
    together = np.concatenate(chosen)
    assert len(np.unique(together)) == len(together)
    for rows in chosen:
        for kind, wanted in (("a", n), ("b", 2), ("c", 0)):
            assert (labels[rows] == kind).sum() == min(wanted, (labels == kind).sum() // sets)


def test_control_keeps_genes_and_loses_what_is_between_them(train_cells):
    counts, labels = train_cells
    kind = "Dendritic"
    control, names = independent_genes(counts, labels, {kind: 3000, "absent": 5}, np.random.default_rng(0))
    assert set(names) == {kind}
    real = counts[labels == kind].toarray()
    np.testing.assert_allclose(control.mean(axis=0).A1, real.mean(axis=0), atol=5 * real.std(axis=0).max() / 3000**0.5)
    assert all(set(np.unique(control[:, g].toarray())) <= set(real[:, g]) for g in range(0, 765, 40))
    strongest = np.argsort(-real.mean(axis=0))[:20]
    upper = np.triu_indices(20, 1)
    assert np.abs(np.corrcoef(real[:, strongest].T)[upper]).mean() > 0.2
    assert np.abs(np.corrcoef(control[:, strongest].toarray().T)[upper]).mean() < 0.05


def test_summary_over_sets():
    assert summarise([{"w2": 1.0}, {"w2": 3.0}]) == {"w2": {"mean": 2.0, "sd": pytest.approx(2**0.5)}}
    assert summarise([{"w2": 1.0}]) == {"w2": {"mean": 1.0, "sd": 0.0}}


def test_floor_of_pbmc3k_is_where_it_was_measured_before(real_data):
    """8,573 genes, 80/20: independent measurements gave MMD 7 and 24, W2 8.94 and 9.27, F1 0.78, zeros 0.902."""
    cells = ad.read_h5ad(real_data / "pbmc3k.h5ad")
    cells = cells[:, np.asarray((cells.X > 0).sum(axis=0)).ravel() >= 30].copy()
    assert cells.n_vars == 8573
    floors, controls = [], []
    for seed in range(3):
        cells = with_split(cells, seed)
        (test, labels), (train, train_labels) = (of_split(cells, split) for split in ("test", "train"))
        reference, wanted = Reference.fit(test, labels), Counter(labels.tolist())
        rng = np.random.default_rng(seed)
        for _ in range(3):
            rows = matched_rows(train_labels, wanted, 1, rng)[0]
            floors.append(reference.score(train[rows], train_labels[rows], structure=False))
        control = independent_genes(train, train_labels, wanted, rng)
        controls.append(reference.score(*control, structure=False))
    floor, control = ({k: v["mean"] for k, v in summarise(scores).items()} for scores in (floors, controls))
    assert 5 < floor["mmd"] < 26
    assert 8.8 < floor["w2"] < 9.5
    assert 0.68 < floor["knn_f1"] < 0.82
    assert floor["zeros"] == pytest.approx(0.903, abs=0.002)
    assert control["w2"] - floor["w2"] == pytest.approx(0.2, abs=0.3)
    assert control["knn_f1"] > floor["knn_f1"] - 0.02
