"""The makers of wrong cells: right at strength 0, wrong by their strength in what they are about, right in the rest."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "wrong_sets.py"
spec = importlib.util.spec_from_file_location("wrong_sets", FILE)
wrong_sets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wrong_sets)

GENES = 400
PROGRAMME = np.arange(60, 110)  # genes that go together inside types
MAKERS = (
    "recomposed", "ambient", "shuffled", "shallower", "deeper", "flattened", "weakened", "dispersed", "starved",
    "exaggerated", "relabelled", "rebatched", "collapsed", "averaged",
)  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def cells():
    """600 cells of three types and two batches; a programme of 50 genes varies inside types."""
    rng = np.random.default_rng(3)
    types = np.repeat(["A", "B", "C"], [300, 200, 100])
    codes = np.repeat([0, 1, 2], [300, 200, 100])
    mean = np.exp(rng.normal(0, 1, GENES) + rng.normal(0, 0.5, (3, GENES)))
    mean[:, PROGRAMME] = 5
    level = np.ones((600, GENES))
    level[:, PROGRAMME] = np.exp(rng.normal(0, 0.7, (600, 1)))
    counts = sparse.csr_matrix(rng.poisson(mean[codes] * level))
    return wrong_sets.Cells(counts, types, rng.choice(["x", "y"], 600))


def total(cells):
    return cells.counts.sum()


def same(one, other):
    return (
        len(one) == len(other)
        and not (one.counts != other.counts).nnz
        and (one.types == other.types).all()
        and (one.batches == other.batches).all()
    )


@pytest.mark.parametrize("name", MAKERS)
def test_strength_0_changes_nothing_but_the_order(cells, rng, name):
    made = getattr(wrong_sets, name)(cells, 0, rng)
    order = [np.lexsort((*each.counts.toarray().T, each.batches, each.types)) for each in (cells, made)]
    assert same(cells[order[0]], made[order[1]])


@pytest.mark.parametrize("name", MAKERS)
def test_counts_are_whole_and_cells_are_not_touched(cells, rng, name):
    before = cells.counts.copy()
    made = getattr(wrong_sets, name)(cells, 0.5, rng)
    assert made.counts.dtype.kind == "i"
    assert made.counts.data.min() > 0
    assert made.counts.has_canonical_format
    assert not (cells.counts != before).nnz
    again = getattr(wrong_sets, name)(cells, 0.5, np.random.default_rng(7))
    assert same(again, getattr(wrong_sets, name)(cells, 0.5, np.random.default_rng(7)))


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"shallower", "deeper", "weakened", "starved", "recomposed"}))
def test_depth_stays(cells, rng, name):
    assert total(getattr(wrong_sets, name)(cells, 0.3, rng)) == pytest.approx(total(cells), rel=0.02)


def test_types_and_composition(cells, rng):
    assert set(wrong_sets.without_types(cells, ["A", "C"]).types) == {"B"}
    _, number = np.unique(wrong_sets.recomposed(cells, 1, rng).types, return_counts=True)
    assert number.tolist() == [150, 150, 100]
    _, number = np.unique(wrong_sets.recomposed(cells, 0.5, rng).types, return_counts=True)
    assert number.tolist() == [225, 175, 100]
    rows = wrong_sets.recomposed(cells, 1, rng).counts.toarray()
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_ambient_counts_come_from_the_profile_of_all_cells(cells, rng):
    made = wrong_sets.ambient(cells, 0.3, rng)
    assert (made.counts.sum(axis=1) == cells.counts.sum(axis=1)).all(), "the depth of a cell stays"
    profile, before, after = (
        np.asarray(each.sum(axis=0)).ravel() / each.sum()
        for each in (cells.counts, cells.counts[cells.types == "C"], made.counts[cells.types == "C"])
    )
    assert np.polyfit(profile - before, after - before, 1)[0] == pytest.approx(0.3, abs=0.03)


def test_shuffled_genes_keep_their_values_and_lose_their_partners(cells, rng):
    made = wrong_sets.shuffled(cells, 1, rng)
    before, after = (np.sort(each.counts[cells.types == "A"].toarray(), axis=0) for each in (cells, made))
    assert (before == after).all()
    pair = [np.corrcoef(each.counts[cells.types == "A"][:, PROGRAMME[:2]].toarray().T)[0, 1] for each in (cells, made)]
    assert pair[0] > 0.4 > 0.2 > pair[1]


def test_depth_and_rare_genes(cells, rng):
    assert total(wrong_sets.shallower(cells, 0.25, rng)) == pytest.approx(0.75 * total(cells), rel=0.01)
    assert total(wrong_sets.deeper(cells, 1, rng)) == pytest.approx(2 * total(cells), rel=0.01)
    assert total(wrong_sets.starved(cells, 0.5, rng)) == pytest.approx(0.9 * total(cells), rel=0.01)


def test_the_programme_is_found_flattened_and_weakened(cells, rng):
    found = wrong_sets.programme(cells)
    assert len(np.intersect1d(found, PROGRAMME)) > 45
    own = cells.types == "A"
    before, flat, weak = (
        each.counts[own][:, found].toarray()
        for each in (cells, wrong_sets.flattened(cells, 0.5, rng), wrong_sets.weakened(cells, 0.5, rng))
    )
    assert flat.mean() == pytest.approx(before.mean(), rel=0.05)
    assert flat.sum(axis=1).std() < 0.7 * before.sum(axis=1).std()
    assert weak.mean() == pytest.approx(before.mean() / 2, rel=0.05)


def test_dispersed_counts_scatter_more_around_the_same_means(cells, rng):
    made = wrong_sets.dispersed(cells, 0.5, rng)
    own = np.flatnonzero(cells.types == "A")
    before, after = (each.counts[own][:, :50].toarray() for each in (cells, made))
    assert after.mean() == pytest.approx(before.mean(), rel=0.05)
    assert (after.var(axis=0) / before.var(axis=0)).mean() > 1.3


@pytest.mark.parametrize(("strength", "slope"), [(0.5, 1.5), (-0.5, 0.5)])
def test_exaggerated_types_have_larger_fold_changes(cells, rng, strength, slope):
    made = wrong_sets.exaggerated(cells, strength, rng)
    folds = []
    for each in (cells, made):
        own, rest = (
            np.asarray(each.counts[rows].sum(axis=0)).ravel() for rows in (cells.types == "C", cells.types != "C")
        )
        folds.append(np.log((own + 1) / own.sum()) - np.log((rest + 1) / rest.sum()))
    assert np.polyfit(*folds, 1)[0] == pytest.approx(slope, abs=0.2)


def test_labels_are_dealt_anew(cells, rng):
    assert (wrong_sets.relabelled(cells, 0.2, rng).types != cells.types).mean() == pytest.approx(0.2 * 0.61, abs=0.03)
    made = wrong_sets.rebatched(cells, 1, rng)
    assert (made.batches != cells.batches).mean() == pytest.approx(0.5, abs=0.1)
    for kind in "ABC":
        assert sorted(made.batches[cells.types == kind]) == sorted(cells.batches[cells.types == kind])


def test_copies(cells, rng):
    made = wrong_sets.copied(cells[:150], 0.4, rng, cells[150:])
    theirs = {tuple(row) for row in cells.counts[150:].toarray()}
    assert sum(tuple(row) in theirs for row in made.counts.toarray()) == 60
    assert sorted(made.types) == sorted(cells.types[:150])
    few = wrong_sets.collapsed(cells, 0.9, rng)
    assert len(np.unique(few.counts.toarray(), axis=0)) == 60
    assert sorted(few.types) == sorted(cells.types)


def test_averaged_cells_lose_what_varies_inside_types(cells, rng):
    own = cells.types == "A"
    spread = [each.counts[own][:, PROGRAMME].sum(axis=1).std() for each in (cells, wrong_sets.averaged(cells, 1, rng))]
    assert spread[1] < 0.6 * spread[0]
