"""Fold changes: of equal strength for fresh cells, weaker for types drawn towards the average, gone for one average."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import spearmanr

from cfgen_dist.evaluation.cellset import CellSet, add_by_type
from cfgen_dist.evaluation.metrics.fold_changes import fold_changes

GENES = 300


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def levels(strength=1.0):
    """Mean counts (3, G) of the genes in three types; `strength` is that of the logs of what sets them apart."""
    rng = np.random.default_rng(5)
    common, own = rng.normal(0, 1, GENES), rng.normal(0, 1, (3, GENES))
    return np.exp(common + strength * (own - own.mean(axis=0)))


def cells_of(mean, rng, n=80, types=(0, 1, 2)):
    """A set of `n` cells of each of some types."""
    codes = np.repeat(types, n)
    counts = sparse.csr_matrix(rng.poisson(mean[codes]))
    sums = np.zeros((3, GENES), np.int64)
    add_by_type(counts, codes, sums)
    return CellSet(codes, None, None, np.bincount(codes, minlength=3), None, None, sparse.csr_matrix(sums))


def test_sums_by_type(rng):
    counts, codes = rng.poisson(0.5, (50, 7)), rng.integers(0, 3, 50)
    sums = np.zeros((4, 7), np.int64)
    for rows in (slice(0, 20), slice(20, 50)):
        add_by_type(sparse.csr_matrix(counts[rows].astype(np.uint8)), codes[rows], sums)
    assert (sums == [counts[codes == code].sum(axis=0) for code in range(4)]).all()


def test_fresh_cells_have_the_fold_changes_of_real_cells(rng):
    found = fold_changes(cells_of(levels(), rng), cells_of(levels(), rng))
    assert len(found.types) == 3
    assert found.overall["fold_slope"] == pytest.approx(1, abs=0.03)
    assert found.overall["fold_rank"] > 0.97
    assert found.overall["fold_top"] > 0.9


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.2])
def test_the_slope_is_the_strength(rng, strength):
    found = fold_changes(cells_of(levels(), rng), cells_of(levels(strength), rng)).overall
    assert found["fold_slope"] == pytest.approx(strength, abs=0.06)
    assert found["fold_rank"] > 0.9, "the order of genes is right"


def test_types_that_are_alike_have_none(rng):
    found = fold_changes(cells_of(levels(), rng), cells_of(levels(0.0), rng)).overall
    assert abs(found["fold_slope"]) < 0.1
    assert abs(found["fold_rank"]) < 0.3
    assert found["fold_top"] < 0.6


def test_swapped_labels_are_seen_in_the_types_that_were_swapped(rng):
    swapped = levels()[[1, 0, 2]]
    first, second, third = fold_changes(cells_of(levels(), rng), cells_of(swapped, rng)).types
    assert max(first["fold_slope"], second["fold_slope"]) < 0.2
    assert third["fold_slope"] > 0.9


def test_by_the_definition(rng):
    real, scored = cells_of(levels(), rng), cells_of(levels(0.7), rng)
    folds = []
    for cells in (real, scored):
        counts = cells.by_type.toarray().astype(float)
        own, rest = counts[1], counts[0] + counts[2]
        folds.append((1e4 * own / own.sum(), 1e4 * rest / rest.sum()))
    kept = np.maximum(*folds[0]) >= 1
    x, y = (np.log2((own[kept] + 1) / (rest[kept] + 1)) for own, rest in folds)
    found = fold_changes(real, scored).types[1]
    assert found["fold_slope"] == pytest.approx(np.polyfit(x, y, 1)[0])
    assert found["fold_rank"] == pytest.approx(spearmanr(x, y).statistic)
    top = len(x) // 4
    assert found["fold_top"] == pytest.approx(len(set(np.argsort(-x)[:top]) & set(np.argsort(-y)[:top])) / top)


def test_few_cells_or_one_type_have_none(rng):
    few = fold_changes(cells_of(levels(), rng), cells_of(levels(), rng, n=9))
    assert np.isnan(list(few.overall.values())).all()
    alone = fold_changes(cells_of(levels(), rng), cells_of(levels(), rng, types=(1,)))
    assert len(alone.types) == 1
    assert np.isnan(list(alone.overall.values())).all()
