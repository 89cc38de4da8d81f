"""The plan of an epoch, without any data."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_loaders.errors import BadInput
from data_loaders.streaming.epoch import cut_blocks, draw_weighted, plan_epoch

worlds = st.fixed_dictionaries(
    {
        "n": st.integers(1, 400),
        "batch_size": st.integers(1, 70),
        "world_size": st.integers(1, 6),
        "block_rows": st.integers(1, 90),
        "window_batches": st.integers(1, 5),
        "seed": st.integers(0, 2**31),
        "epoch": st.integers(0, 5),
        "shuffle": st.booleans(),
    }
).filter(lambda world: world["n"] >= world["world_size"])


def epoch_of(world, rows):
    """Batches of rows of every rank."""
    world = dict(world)
    world.pop("n")
    plans = [plan_epoch(rows, rank=rank, **world) for rank in range(world["world_size"])]
    out = []
    for plan in plans:
        shown = np.concatenate([plan.window_rows(window) for window in range(plan.n_windows)])
        out.append(np.split(shown, np.cumsum(plan.sizes)[:-1]))
    return out


@settings(max_examples=150, deadline=None)
@given(worlds, st.data())
def test_every_cell_is_shown_once_in_equal_batches(world, data):
    rows = np.sort(data.draw(st.permutations(range(world["n"] * 3)))[: world["n"]]).astype(np.uint32)
    ranks = epoch_of(world, rows)
    assert len({len(batches) for batches in ranks}) == 1
    sizes = np.array([len(batch) for batches in ranks for batch in batches])
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1
    if len(rows) >= len(sizes) and -(-len(rows) // (world["batch_size"] * world["world_size"])) == len(ranks[0]):
        assert sizes.max() <= world["batch_size"]
    shown = np.concatenate([batch for batches in ranks for batch in batches])
    np.testing.assert_array_equal(np.sort(shown), rows)
    if not world["shuffle"]:
        np.testing.assert_array_equal(shown, rows)


@settings(max_examples=30, deadline=None)
@given(worlds)
def test_the_order_is_a_function_of_seed_and_epoch(world):
    rows = np.arange(world["n"])
    first, again = epoch_of(world, rows), epoch_of(world, rows)
    for one, other in zip(first, again, strict=True):
        for batch, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(batch, same)


def test_epochs_seeds_and_ranks_differ():
    rows = np.arange(5000)
    base = {"batch_size": 100, "block_rows": 8, "world_size": 2}
    shown = [
        plan_epoch(rows, **base, **changes).window_rows(0) for changes in ({}, {"epoch": 1}, {"seed": 1}, {"rank": 1})
    ]
    for i, one in enumerate(shown):
        for other in shown[i + 1 :]:
            assert not np.array_equal(one, other)


def test_ranks_take_other_cells_in_another_epoch():
    rows = np.arange(10_000)
    parts = []
    for epoch in (0, 1):
        plan = plan_epoch(rows, 100, epoch=epoch, world_size=2, block_rows=16)
        parts.append(np.concatenate([plan.window_rows(window) for window in range(plan.n_windows)]))
    assert len(np.intersect1d(*parts)) == pytest.approx(2500, rel=0.2)


def test_mixing_on_sorted_labels_is_near_a_perfect_shuffle():
    """Label entropy of batches from a store sorted by type, against an i.i.d. shuffle of the same cells."""
    n, batch_size, n_types = 300_000, 4096, 30
    types = np.arange(n) * n_types // n
    plan = plan_epoch(np.arange(n), batch_size, block_rows=64, window_batches=8)

    def entropy(order):
        out = []
        for start in range(0, len(order) - batch_size, batch_size):
            share = np.bincount(types[order[start : start + batch_size]], minlength=n_types) / batch_size
            share = share[share > 0]
            out.append(-(share * np.log(share)).sum())
        return np.mean(out)

    shown = np.concatenate([plan.window_rows(window) for window in range(plan.n_windows)])
    assert entropy(shown) / entropy(np.random.default_rng(0).permutation(n)) > 0.985


def test_a_rank_crossing_few_cells_still_gets_a_batch():
    sizes = [plan_epoch(np.arange(3), 1, rank=rank, world_size=2).sizes.tolist() for rank in range(2)]
    assert sizes == [[2], [1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 50))
def test_blocks_cover_the_rows_and_stay_inside_the_store_blocks(n, block_rows):
    rows = np.flatnonzero(np.random.default_rng(n).random(3 * n) < 0.4)
    if len(rows) == 0:
        return
    starts = cut_blocks(rows, block_rows)
    assert starts[0] == 0
    assert starts[-1] == len(rows)
    for start, stop in itertools.pairwise(starts):
        assert len(np.unique(rows[start:stop] // block_rows)) == 1


def test_a_balanced_draw_shows_classes_equally_often():
    codes = np.random.default_rng(0).choice(3, 9_000, p=[0.9, 0.09, 0.01])
    weights = (1 / np.bincount(codes))[codes]
    drawn = draw_weighted(np.arange(9_000, dtype=np.uint32), weights, 9_000)
    counts = np.bincount(codes[drawn])
    assert counts.max() - counts.min() <= 1
    per_cell = np.bincount(drawn, minlength=9_000)
    for code in range(3):
        share = per_cell[codes == code]
        assert share.max() - share.min() <= 1


def test_weighted_draws_follow_the_weights_and_differ_between_epochs():
    weights = np.random.default_rng(1).gamma(1, size=500)
    epochs = [draw_weighted(np.arange(500), weights, 2_000, epoch=epoch) for epoch in range(200)]
    assert all(len(drawn) == 2_000 for drawn in epochs)
    mean = np.mean([np.bincount(drawn, minlength=500) for drawn in epochs], axis=0)
    np.testing.assert_allclose(mean, 2_000 * weights / weights.sum(), atol=0.25)
    assert not np.array_equal(epochs[0], epochs[1])


def test_copies_of_a_rare_cell_are_spread_over_windows():
    weights = np.ones(10_000)
    weights[5_000] = 2_000
    plan = plan_epoch(draw_weighted(np.arange(10_000), weights, 10_000), 100, block_rows=64, window_batches=2)
    holding = sum((plan.window_rows(window) == 5_000).any() for window in range(plan.n_windows))
    assert holding >= 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan_epoch(np.arange(0), 4), "0 cells selected for 1 rank"),
        (lambda: plan_epoch(np.arange(2), 4, world_size=3), "2 cells selected for 3 rank"),
        (lambda: plan_epoch(np.arange(9), 0), "batch_size is 0; expected at least 1"),
        (lambda: plan_epoch(np.arange(9), 4, rank=2, world_size=2), "rank is 2; expected 0 to 1"),
        (lambda: draw_weighted(np.arange(3), [1, -1, 1], 3), "expected one finite, non-negative number"),
        (lambda: draw_weighted(np.arange(3), [1, 1], 3), r"weights of shape \(2,\) for 3 rows"),
        (lambda: draw_weighted(np.arange(2), [0, 0], 3), "not all zero"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(BadInput, match=message):
        call()
