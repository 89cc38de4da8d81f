"""The workers of one machine: threads of this process, each with one thread of torch and of BLAS."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypedDict, TypeVar

import torch

from data_loaders.errors import BadInput

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")


class ThreadLimits(TypedDict):
    """What `threadpoolctl.threadpool_limits` is told."""

    limits: int
    user_api: str


ONE_THREAD: ThreadLimits = {"limits": 1, "user_api": "blas"}
WINDOW = 2  # items a worker holds: one in work, one waiting


def check_device(device: Any) -> None:
    """Raise `BadInput` for "cuda" where there is no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is cuda, but torch finds no GPU here; expected cpu")


def map_threads(
    function: Callable[[State, Item], Result],
    items: Iterable[Item],
    setup: Callable[[], State],
    workers: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, result) as results come, in any order, from threads of this process.

    torch, BLAS and the compiled kernels all let go of the interpreter, so threads are enough on one machine.

    Parameters
    ----------
    function : callable (state, item) -> result
        Pure, or harmless to repeat: the item of an actor that died is given to another. Results should be small.
    items : iterable
        Drawn only as workers become free.
    setup : callable () -> state
        Called once for all threads; in every actor before its first item.
    workers : int, optional
        By default as many as torch has threads.
    """
    before = torch.get_num_threads()
    workers = workers or before
    state, items = setup(), iter(items)
    pending: dict[Future[Result], Item] = {}
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            try:
                while True:
                    while len(pending) < WINDOW * workers and (item := next(items, None)) is not None:
                        pending[executor.submit(function, state, item)] = item
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        yield pending.pop(future), future.result()
            finally:
                for future in pending:
                    future.cancel()
    finally:
        torch.set_num_threads(before)
