"""The law of many machines: what they wait for, by its formula and by a simulation with the real plan of an epoch.

With W workers, batches of B cells in all, P parameters:

    step(W)      = c(B / W) + 2 (W - 1) (s P / (W l) + a)     compute, and the exchange of gradients around a ring
    read(W)      = max(v k / d, W v k / D, W q k / Q)         a window of k cells, while one is shown
    checkpoint   = 16 P / m, then 16 P / d in the background  weights, moments and average, in memory; sent

c is the time of a step without exchange, s the bytes of a number that travels, l the bytes a second between
neighbours, a the seconds of a message; v and q are bytes and requests a cell, which follow from the plan and the chunks
of the store; d is what one worker gets of the bucket, D and Q the bytes and requests a second that the bucket gives to
all; m is the speed of memory. A step is waited for by all, so the slowest worker's counts.
"""

import time
from dataclasses import dataclass

import numpy as np

from cfgen_dist.forecasting.costs import exchange_seconds
from data_loaders.seeds import Forecasting, generator
from data_loaders.streaming.epoch import EpochPlan, plan_epoch
from data_loaders.types import Ints

CHUNK, ARRAYS = 65_536, 2  # elements of a chunk; values and columns
WINDOW_BYTES = 128 << 20
STATE_BYTES = 16  # a parameter, in a checkpoint
WATCHED = 4  # ranks whose windows are looked at; all have as many cells to within a batch
MEMORY = 2e9  # bytes a second, serialising


@dataclass(frozen=True)
class Site:
    """Where training runs.

    Attributes
    ----------
    step : float
        Seconds of a worker's step without exchange.
    link, latency : float
        Bytes a second between neighbours, seconds of a message.
    worker_bandwidth, bucket_bandwidth : float
        Bytes a second that a worker, and all together, get of the bucket.
    bucket_requests : float
        Requests a second that it answers.
    jitter : float
        Standard deviation of the logarithm of the seconds of a step, over workers and steps.
    """

    step: float
    link: float = 10e9
    latency: float = 20e-6
    worker_bandwidth: float = 1.2e9
    bucket_bandwidth: float = 100e9
    bucket_requests: float = 55_000.0
    jitter: float = 0.03


@dataclass(frozen=True)
class Store:
    """An atlas as the reader sees it.

    Attributes
    ----------
    cells : int
    values : float
        Counts of a cell.
    stored_bytes : float
        Of a count in the bucket, its column included.
    memory_bytes : float
        Of a count in memory.
    block_rows : int
        Neighbouring cells that are read together.
    """

    cells: int
    values: float = 1900.0
    stored_bytes: float = 1.6
    memory_bytes: float = 3.0
    block_rows: int = 16


@dataclass(frozen=True)
class Outcome:
    """An epoch on many workers.

    Attributes
    ----------
    workers, steps : int
    seconds : float
    idle : float
        Share of the workers' time that is spent waiting: for the slowest, for cells, for a checkpoint to be copied.
    exchange : float
        Share that the exchange of gradients takes.
    cells_per_second : float
    requests, bytes : float
        A second, at the bucket.
    waits_for_cells : float
        Share of windows, but for the first, that came late.
    redeal : float
        Seconds in which a worker plans its part of an epoch anew, on this machine: all do at the same time.
    checkpoint : float
        Seconds until a checkpoint is in the bucket; training waits for `STATE_BYTES * parameters / MEMORY` of them.
    """

    workers: int
    steps: int
    seconds: float
    idle: float
    exchange: float
    cells_per_second: float
    requests: float
    bytes: float
    waits_for_cells: float
    redeal: float
    checkpoint: float


def simulate_epoch(
    site: Site, store: Store, parameters: int, workers: int, batch: int, *, seed: int = 0, checkpoint_every: int = 500
) -> Outcome:
    """Simulate an epoch.

    Parameters
    ----------
    site : Site
    store : Store
    parameters : int
    workers : int
    batch : int
        Cells of a step of one worker.
    seed : int
    checkpoint_every : int
        Steps.
    """
    window_batches = max(1, int(WINDOW_BYTES / (store.values * store.memory_bytes * batch)))
    ranks = sorted({round(rank) for rank in np.linspace(0, workers - 1, min(workers, WATCHED))})
    plans, redeal = [], 0.0
    for rank in ranks:
        started = time.perf_counter()
        plan = plan_epoch(
            store.cells, batch, seed=seed, rank=rank, world_size=workers, block_rows=store.block_rows,
            window_batches=window_batches,
        )  # fmt: skip
        plan.window_rows(0)
        redeal = max(redeal, time.perf_counter() - started)
        plans.append(plan)
    steps, n_windows = len(plans[0].sizes), plans[0].n_windows
    looked_at = range(min(n_windows, 3))
    found = np.array([requests_of(plan, window, store) for plan in plans for window in looked_at])
    n_requests, n_bytes, n_cells = found.sum(axis=0).tolist()
    a_cell, bytes_a_cell = n_requests / n_cells, n_bytes / n_cells

    rng = generator(seed, Forecasting.JITTER, workers)
    exchange = exchange_seconds(parameters, workers, site.link, latency=site.latency)
    copying = STATE_BYTES * parameters / MEMORY
    clock = worked = exchanged = 0.0
    late = 0
    ready = 0.0  # when the next window is there
    for window in range(n_windows):
        sizes = plans[0].window_sizes(window)
        cells = float(sizes.sum())
        reading = max(
            cells * bytes_a_cell / site.worker_bandwidth,
            workers * cells * bytes_a_cell / site.bucket_bandwidth,
            workers * cells * a_cell / site.bucket_requests,
        )
        if window == 0:
            ready = reading
        late += window > 0 and ready > clock + 1e-9
        clock = max(clock, ready)
        ready = clock + reading  # the next one is read while this one is shown
        factors = np.exp(site.jitter * rng.standard_normal((len(sizes), workers)))
        taken = site.step * factors * (sizes / batch)[:, None]
        worked += float(taken.mean(axis=1).sum())
        exchanged += exchange * len(sizes)
        clock += float(taken.max(axis=1).sum()) + exchange * len(sizes)
        clock += copying * (len(sizes) / checkpoint_every)
    n = store.cells
    return Outcome(
        workers=workers, steps=steps, seconds=clock, idle=1 - (worked + exchanged) / clock, exchange=exchanged / clock,
        cells_per_second=n / clock, requests=n * a_cell / clock, bytes=n * bytes_a_cell / clock,
        waits_for_cells=late / max(1, n_windows - 1), redeal=redeal,
        checkpoint=copying + STATE_BYTES * parameters / site.worker_bandwidth,
    )  # fmt: skip


def requests_of(plan: EpochPlan, window: int, store: Store) -> tuple[float, float, float]:
    """Requests, bytes and cells of a window: the chunks that its rows touch, neighbours by one request."""
    rows = np.sort(plan.window_rows(window))
    first = (rows * store.values).astype(np.int64) // CHUNK
    last = ((rows + 1) * store.values - 1).astype(np.int64) // CHUNK
    chunks: Ints = np.unique(np.concatenate([first, last]))
    runs = 1 + int((np.diff(chunks) > 1).sum())
    return ARRAYS * runs, len(chunks) * CHUNK * store.stored_bytes, len(rows)
