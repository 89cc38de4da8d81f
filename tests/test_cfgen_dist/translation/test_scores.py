"""Scores of batch mixing and label conservation against dense formulas."""

import numpy as np
import pytest
from scipy.stats import chisquare

from cfgen_dist.translation import scores as module
from cfgen_dist.translation.scores import batch_mixing, label_conservation


@pytest.fixture
def cells():
    """200 cells in three clusters (labels), two batches of unequal size a little apart."""
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], [90, 70, 40])
    batch = np.where(rng.random(200) < 0.35, "x", "y")
    centres = {"a": [0, 0, 0], "b": [4, 0, 0], "c": [0, 4, 0]}
    points = np.array([centres[k] for k in label]) + rng.normal(size=(200, 3))
    points[batch == "x", 2] += 0.8
    return points, batch, label


def silhouettes(points, groups):
    """(b - a) / max(a, b) of each cell, from all distances."""
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    widths = []
    for i in range(len(points)):
        own = (groups == groups[i]) & (np.arange(len(points)) != i)
        a = distance[i, own].mean()
        b = min(distance[i, groups == g].mean() for g in np.unique(groups) if g != groups[i])
        widths.append((b - a) / max(a, b))
    return np.array(widths)


def nearest(points, k):
    """The k nearest other cells of each, from all distances."""
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1)[:, :k]


def test_batch_scores_are_their_formulas(cells):
    points, batch, label = cells
    scores = batch_mixing(points, batch, label)
    own = [(points[label == k], batch[label == k]) for k in "abc"]
    expected = np.mean([np.mean(1 - np.abs(silhouettes(p, b))) for p, b in own])
    assert scores["batch_asw"] == pytest.approx(expected, abs=1e-9)

    shares = np.stack([(batch[nearest(points, 30)] == b).mean(axis=1) for b in "xy"], axis=1)
    assert scores["ilisi"] == pytest.approx(np.median(1 / (shares**2).sum(axis=1)) - 1, abs=1e-12), "two batches"

    accepted = []
    for p, b in own:
        counts = np.stack([(b[nearest(p, min(30, len(p) - 1))] == name).sum(axis=1) for name in "xy"], axis=1)
        expected = np.array([(b == "x").mean(), (b == "y").mean()]) * counts.sum(axis=1, keepdims=True)
        accepted.append(np.mean(chisquare(counts, expected, axis=1).pvalue >= 0.05))
    assert scores["kbet"] == pytest.approx(np.mean(accepted), abs=1e-12)


def test_label_scores_are_their_formulas(cells, monkeypatch):
    points, _, label = cells
    clusters = np.random.default_rng(1).integers(0, 3, len(points))
    clusters[:60] = 0
    monkeypatch.setattr(module.KMeans, "fit_predict", lambda self, cells: clusters)  # any partition will do
    scores = label_conservation(points, label)
    assert scores["label_asw"] == pytest.approx((silhouettes(points, label).mean() + 1) / 2, abs=1e-9)
    same = label[nearest(points, 30)] == label[:, None]
    assert scores["label_purity"] == pytest.approx(np.mean([same[label == k].mean() for k in "abc"]), abs=1e-12)

    table = np.array([[np.sum((label == k) & (clusters == c)) for c in range(3)] for k in "abc"])
    pairs = lambda n: (n * (n - 1) / 2).sum()  # noqa: E731
    index, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = rows * columns / pairs(table.sum())
    assert scores["label_ari"] == pytest.approx((index - chance) / ((rows + columns) / 2 - chance), abs=1e-12)

    p = table / table.sum()
    a, b = p.sum(axis=1), p.sum(axis=0)
    seen = p > 0
    information = (p[seen] * np.log((p / np.outer(a, b))[seen])).sum()
    entropies = -(a * np.log(a)).sum(), -(b * np.log(b)).sum()
    assert scores["label_nmi"] == pytest.approx(information / np.mean(entropies), abs=1e-12)


def test_mixed_batches_score_higher_than_apart(cells):
    points, batch, label = cells
    rng = np.random.default_rng(2)
    mixed = batch_mixing(points, rng.permutation(batch), label)
    apart = batch_mixing(points + 20 * (batch == "x")[:, None], batch, label)
    assert mixed["kbet"] > 0.85
    assert apart["kbet"] < 0.2, "a small batch has to look beyond itself"
    assert mixed["ilisi"] > 0.6
    assert apart["ilisi"] == pytest.approx(0, abs=0.05)
    assert mixed["batch_asw"] > 0.9 > apart["batch_asw"]


def test_labels_apart_score_one(cells):
    points, _, label = cells
    far = points + 100 * np.searchsorted(["a", "b", "c"], label)[:, None]
    scores = label_conservation(far, label)
    assert scores["label_ari"] == scores["label_nmi"] == pytest.approx(1)
    assert scores["label_purity"] == pytest.approx(1)


def test_scores_that_do_not_exist_are_nan(cells):
    points, batch, label = cells
    assert np.isnan(list(batch_mixing(points, np.full(200, "x"), label).values())).all()
    assert np.isnan(list(label_conservation(points, np.full(200, "a")).values())).all()
    few = batch_mixing(points[:8], batch[:8], label[:8])
    assert np.isnan(few["kbet"])
