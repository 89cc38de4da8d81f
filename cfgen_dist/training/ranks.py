"""Where this process stands among those that train together: alone, or one rank of the process group that Ray made.

Everything here works without a process group: one process is rank 0 of 1.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch.distributed as dist

from data_loaders.errors import BadInput

T = TypeVar("T")


def in_group() -> bool:
    """Whether several processes, or one under Ray, train as a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if in_group() else 1


def on_main(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 and return its result on every rank.

    All ranks wait for it. What rank 0 read from a file is then the same everywhere: disks that several machines share
    may show one of them an older file, or none, for a minute.
    """
    if world_size() == 1:
        return function()
    result = [function() if rank() == 0 else None]
    dist.broadcast_object_list(result, src=0)
    return cast(T, result[0])


def check_workers(workers: int, sizes: Mapping[str, int]) -> None:
    """Refuse more workers than a batch or a split has cells.

    Parameters
    ----------
    workers : int
    sizes : dict of str to int
        What is shared out among the workers, by name.

    Raises
    ------
    BadInput
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}, expected at least 1")
    for name, size in sizes.items():
        if size < workers:
            raise BadInput(f"workers is {workers}, but {name} is {size}: expected at most {size}, a cell for each")
