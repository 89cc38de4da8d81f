"""Progress of long commands: a bar on a terminal, a plain line now and then otherwise."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger("data_loaders")
SECONDS_BETWEEN_LINES = 10


class Advance(Protocol):
    """Reports that `n` more units are done."""

    def __call__(self, n: int = 1) -> None:
        """Report them."""


class _RateColumn(ProgressColumn):
    """How many units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate as text."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} {self.unit}/s")


@contextmanager
def progress(description: str, total: int, unit: str | None = None) -> Iterator[Advance]:
    """Yield a function `advance(n)` that reports `n` more of `total` done.

    On a terminal a bar with the time left is drawn on standard error; otherwise a line goes to the logger
    "data_loaders" at most every ten seconds, and one at the end. With a `unit` ("cells") both tell the units a second.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        columns += [_RateColumn(unit)] if unit else []
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(description, total=total)

            def advance_bar(n: int = 1) -> None:
                bar.advance(task, n)

            yield advance_bar
        return
    begin = spoken = time.monotonic()
    done = 0

    def advance(n: int = 1) -> None:
        nonlocal done, spoken
        done += n
        now = time.monotonic()
        if now - spoken > SECONDS_BETWEEN_LINES:
            spoken = now
            rate = done / (now - begin)
            left = timedelta(seconds=round((total - done) / rate)) if rate else "?"
            speed = f", {rate:,.0f} {unit}/s" if unit else ""
            logger.info("%s: %s of %s%s, %s left", description, f"{done:,}", f"{total:,}", speed, left)

    yield advance
    of = f" {unit}" if unit else ""
    logger.info("%s: %s%s in %.1f s", description, f"{done:,}", of, time.monotonic() - begin)
