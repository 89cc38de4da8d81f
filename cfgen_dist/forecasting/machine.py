"""How fast this machine is at what no command can be rehearsed for in a few seconds: starting, and one worked example.

All is measured twice: by the clock, which others on the machine make run longer, and in CPU seconds, which they hardly
change.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from data_loaders.types import Floats

MODULE = "cfgen_dist.training.stages"
Times = Floats  # float64 (2,): seconds by the clock, and of all cores together (of user and system)


def times() -> Times:
    """Now: by the clock, and CPU seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime])


def taken_by(function: Callable[[], object]) -> Times:
    """What a call takes."""
    before = times()
    function()
    return times() - before


def start(module: str = MODULE) -> Times:
    """What a new process takes to load what a command loads: the better of two, as the first may read a disk."""
    command = [sys.executable, "-c", f"import {module}"]
    found = [taken_by(lambda: subprocess.run(command, check=True)) for _ in range(2)]
    return np.min(found, axis=0)


def transport(cells: int = 700, components: int = 30, repeats: int = 3) -> float:
    """CPU seconds of an exact optimal transport between two clouds of points, as evaluation has many; the best."""
    import ot
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, cells, components))
    weights = np.full(cells, 1 / cells)
    return float(min(taken_by(lambda: ot.emd2(weights, weights, cdist(a, b)))[1] for _ in range(repeats)))
