"""The law of many machines, against cases whose outcome is known, and its plan against what a stream reads."""

import dataclasses
import itertools

import pytest

from cfgen_dist.forecasting.costs import exchange_seconds
from cfgen_dist.forecasting.many import CHUNK, STATE_BYTES, Site, Store, requests_of, simulate_epoch
from data_loaders.streaming.epoch import plan_epoch

FREE = Site(step=0.01, link=1e15, latency=0.0, worker_bandwidth=1e15, bucket_bandwidth=1e15, bucket_requests=1e15,
            jitter=0.0)  # fmt: skip
STORE = Store(cells=200_000, values=100.0)


def test_nothing_is_waited_for_where_nothing_costs():
    for workers in (1, 4, 50):
        found = simulate_epoch(FREE, STORE, 0, workers, 100)
        assert found.steps == -(-STORE.cells // (100 * workers))
        assert found.seconds == pytest.approx(0.01 * found.steps, rel=0.01)
        assert found.idle == pytest.approx(0, abs=1e-4)
        assert found.waits_for_cells == 0


def test_the_exchange_is_that_of_a_ring():
    assert exchange_seconds(1000, 1, 10.0) == 0
    assert exchange_seconds(1000, 4, 10.0) == pytest.approx(2 * 3 / 4 * 4 * 1000 / 10)
    assert exchange_seconds(1000, 4, 10.0, width=2, latency=1.0) == pytest.approx(2 * 3 * (2 * 1000 / 4 / 10 + 1))
    site = dataclasses.replace(FREE, link=1e9)
    found = simulate_epoch(site, STORE, 10**7, 8, 100, checkpoint_every=10**9)
    each = exchange_seconds(10**7, 8, 1e9)
    assert found.exchange == pytest.approx(each / (each + 0.01), rel=1e-3)


def test_a_bucket_that_answers_few_requests_is_waited_for():
    large = dataclasses.replace(STORE, values=2000.0)  # 22,000 cells a window
    slow = simulate_epoch(dataclasses.replace(FREE, bucket_requests=1000.0), large, 0, 2, 100)
    assert 500 < slow.requests <= 1000
    assert slow.waits_for_cells == 1
    assert slow.idle > 0.2
    wide = dataclasses.replace(STORE, block_rows=4096)
    assert simulate_epoch(FREE, wide, 0, 20, 100).requests < simulate_epoch(FREE, STORE, 0, 20, 100).requests / 4


def test_jitter_makes_more_workers_wait_longer():
    site = dataclasses.replace(FREE, jitter=0.1)
    idle = [simulate_epoch(site, STORE, 0, workers, 100).idle for workers in (1, 8, 100)]
    assert idle[0] == pytest.approx(0, abs=1e-6)
    assert 0.05 < idle[1] < idle[2] < 0.3


def test_a_checkpoint_is_copied_and_then_sent():
    site = dataclasses.replace(FREE, worker_bandwidth=1e9)
    found = simulate_epoch(site, STORE, 10**8, 1, 100)
    assert found.checkpoint == pytest.approx(STATE_BYTES * 10**8 * (1 / 2e9 + 1 / 1e9))


def test_the_same_seed_gives_the_same_epoch():
    site = dataclasses.replace(FREE, jitter=0.1)
    first, again, other = (simulate_epoch(site, STORE, 0, 4, 100, seed=seed) for seed in (1, 1, 2))
    assert dataclasses.replace(first, redeal=0.0) == dataclasses.replace(again, redeal=0.0)
    assert first.seconds != other.seconds


def test_windows_touch_the_chunks_that_hold_their_rows():
    plan = plan_epoch(4000, 100, window_batches=10, block_rows=16)
    requests, n_bytes, cells = requests_of(plan, 0, Store(cells=4000, values=CHUNK / 100, block_rows=16))
    touched = sorted(set(plan.window_rows(0) // 100))  # a hundred cells a chunk
    assert cells == 1000
    assert n_bytes == pytest.approx(len(touched) * CHUNK * 1.6, rel=0.05)
    gaps = sum(b - a > 1 for a, b in itertools.pairwise(touched))
    assert requests == pytest.approx(2 * (1 + gaps), abs=2)
