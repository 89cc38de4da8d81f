"""Progress of long commands: a bar on a terminal, a plain line now and then otherwise."""

import logging
import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger("cfgen_dist")
SECONDS_BETWEEN_LINES = 10


@contextmanager
def progress(description, total):
    """Yield a function `advance(n)` that reports `n` more of `total` done.

    On a terminal a bar is drawn on standard error; otherwise a line goes to the logger "cfgen_dist" at most every ten
    seconds, and one at the end.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(description, total=total)
            yield lambda n=1: bar.advance(task, n)
        return
    begin = spoken = time.monotonic()
    done = 0

    def advance(n=1):
        nonlocal done, spoken
        done += n
        if time.monotonic() - spoken > SECONDS_BETWEEN_LINES:
            spoken = time.monotonic()
            logger.info("%s: %s of %s", description, f"{done:,}", f"{total:,}")

    yield advance
    logger.info("%s: %s in %.1f s", description, f"{done:,}", time.monotonic() - begin)
