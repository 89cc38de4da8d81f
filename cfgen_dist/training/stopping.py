"""Stop a training between two steps, saved, so that nothing is lost: who asks, and how all ranks come to know.

A process is asked by a signal (SIGTERM, Ctrl-C), by a notice of Ray that its machine will be taken away, or by the
driver. What it was asked is kept here, once for the process, until a step is done and all ranks have agreed.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from cfgen_dist.training.ranks import world_size
from data_loaders.errors import Interrupted

log = logging.getLogger("cfgen_dist")
SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
EVERY_ON_GPU = 10  # steps between agreements on a GPU, whose results make the CPU wait
WAY_ON = "`resume=True` goes on from there"


class Stopped(Exception):
    """A training ended between two steps because it was asked to; what it had done is saved."""


@dataclass
class _Here:
    """What this process was asked, and what it is doing.

    Attributes
    ----------
    why : str or None
        Who asked it to stop.
    number : int
        The signal, if it was one.
    stage : str or None
        The training whose steps are being done.
    done, saved : int
        Its steps, and those that the last checkpoint knows of.
    interrupted : Interrupted or None
        What was raised at once; Lightning turns it into another exception.
    out : path-like
        The run.
    """

    why: str | None = None
    number: int = signal.SIGINT
    stage: str | None = None
    done: int = 0
    saved: int = 0
    handler: Callable[[int, FrameType | None], None] | None = None
    interrupted: Interrupted | None = None
    out: Any = "the training"


_here = _Here()


def ask(why: str) -> None:
    """Ask the training of this process to stop after the step that is being done, or after its first one."""
    _here.why = _here.why or why


def forget() -> None:
    """Start anew: nothing was asked."""
    global _here
    _here = _Here(handler=_here.handler)


def asked() -> str | None:
    """Who asked this process to stop."""
    return _here.why


def begin_steps(stage: str, done: int) -> None:
    """Steps of a training begin: from now on signals wait for the end of a step.

    Called once Lightning has put its own handler of SIGTERM in place, which would end the training without saving.
    """
    _here.stage, _here.done, _here.saved = stage, done, done
    if _here.handler is not None and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _here.handler)


def count_step(done: int, saved: bool = False) -> None:
    """So many steps are done, and saved or not."""
    _here.done = done
    if saved:
        _here.saved = done


def end_steps() -> None:
    """The steps of a training are over: what follows is not saved in the middle."""
    _here.stage = None


def stop_between_stages() -> None:
    """Raise `Stopped` if a signal came while a stage ended; ranks under Ray stop after the first step of the next."""
    if _here.handler is not None and _here.why is not None:
        raise Stopped("")


def interrupted() -> KeyboardInterrupt:
    """What Lightning has turned into the end of the process: what was raised here, or a SIGTERM that it took alone."""
    return _here.interrupted or Interrupted(_at_once(_here.out, signal.SIGTERM), 128 + signal.SIGTERM)


@contextmanager
def saved_at_signals(out: Any) -> Iterator[None]:
    """In this process SIGTERM and Ctrl-C end a training between two steps, saved; a second signal ends it at once.

    Parameters
    ----------
    out : path-like
        The run, for the message.

    Raises
    ------
    Interrupted
        With what is saved and what is lost.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if _here.stage is not None and _here.why is None:
            _here.number = number
            ask(SIGNALS[signal.Signals(number)])
            log.warning("%s: saving after this step; once more to stop at once", _here.why)
        else:
            _here.interrupted = Interrupted(_at_once(out, signal.Signals(number)), 128 + number)
            raise _here.interrupted

    with handling(handle):
        _here.handler, _here.out = handle if threading.current_thread() is threading.main_thread() else None, out
        try:
            yield
        except Stopped as stopped:
            step = f" after {stopped}" if str(stopped) else ""
            raise Interrupted(
                f"{out}: stopped by {_here.why}{step}; all steps are saved, nothing is lost: {WAY_ON}",
                128 + _here.number,
            ) from None
        finally:
            _here.handler = None
            forget()


def _at_once(out: Any, number: signal.Signals) -> str:
    """What is said of a training that could not be saved."""
    if _here.stage is None:
        lost = "finished parts are kept, the part in work is lost"
    elif _here.done > _here.saved:
        lost = f"steps {_here.saved + 1:,} to {_here.done:,} of the {_here.stage} are lost, those before are saved"
    else:
        lost = f"{_here.done:,} steps of the {_here.stage} are saved, the one in work is lost"
    return f"{out}: stopped by {SIGNALS[number]}; {lost}: {WAY_ON}"


@contextmanager
def handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `handle` at SIGTERM and Ctrl-C for as long as the block lasts; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # a handler that Python does not know
                signal.signal(number, handler)


class WorkersStop:
    """SIGTERM and Ctrl-C while training on Ray: the first asks the workers to save, the second ends it at once."""

    def __init__(self, out: str) -> None:
        self.out, self.came, self.patient = out, 0, False

    def __enter__(self) -> "WorkersStop":
        self._handling = handling(self._handle)
        self._handling.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handling.__exit__(*error)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.came or not self.patient:
            raise Interrupted(
                f"{self.out}: stopped by {SIGNALS[signal.Signals(number)]}; what workers did since the last checkpoint "
                f"is lost: {WAY_ON}",
                128 + number,
            )
        self.came = number
        log.warning("%s: the workers save after this step; once more to stop at once", self.why)

    @property
    def why(self) -> str:
        """The signal's name."""
        return SIGNALS[signal.Signals(self.came)] if self.came else ""

    def tell(self) -> None:
        """Nobody works yet, so there is nothing to save: signals end it at once."""
        self.patient = False

    def raise_if_stopped(self, at: str) -> None:
        """Raise what came of a signal, once the workers have saved."""
        if self.came:
            raise Interrupted(
                f"{self.out}: stopped by {self.why} after {at}; all steps are saved, nothing is lost: {WAY_ON}",
                128 + self.came,
            )


class Agreement:
    """Whether any rank was asked to stop, told to all ranks after the same step.

    The ranks exchange one number a step. Nobody waits for it: it is read after the next step, whose gradients have been
    exchanged since. On GPUs, where reading makes the CPU wait, only every tenth step.
    """

    def __init__(self) -> None:
        self._flag: torch.Tensor | None = None
        self._work: Any = None

    def reached(self, step: int, device: torch.device) -> bool:
        """Whether to stop after this step; every rank calls this after every step."""
        if world_size() == 1:
            return asked() is not None
        if device.type != "cpu" and step % EVERY_ON_GPU:
            return False
        agreed = False
        if self._flag is not None:
            self._work.wait()
            agreed = bool(self._flag.item())
        self._flag = torch.tensor([float(asked() is not None)], device=device)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, async_op=True)
        return agreed
