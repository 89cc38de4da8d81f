"""Training on the workers of a Ray cluster: Ray Train starts them as one process group, each runs the same stages.

The run directory is the only state: checkpoints are committed there by a rename, so what a worker that starts again
finds is what was saved last, without Ray's own checkpoint records, which know of a checkpoint only some seconds later.

Ray Train's `FailureConfig(max_failures=)` starts the workers again after any error, also one that would repeat itself
for ever, so it is left at zero: here lost workers are replaced, and errors of the program or the user end the run.

The number of workers is chosen anew at every start. Ray Train can do that too, `ScalingConfig(num_workers=(MIN, MAX))`,
but it ends the workers where they are to change their number, and the steps since the last checkpoint are lost; here
they are asked to save first (`cfgen_dist.training.notices`).
"""

import logging
import os
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfgen_dist.config import Config, load_config, to_dict
from cfgen_dist.training.folder import RunFolder, open_folder
from cfgen_dist.training.memory import ENVIRONMENT
from cfgen_dist.training.notices import leave_word, listen, take_word_back
from cfgen_dist.training.stopping import WAY_ON, Stopped, WorkersStop, asked
from cfgen_dist.workers.cluster import connect, is_local
from cfgen_dist.workers.room import SETTLED, Claims, Labels, count_room
from data_loaders import open_atlas
from data_loaders.errors import BadInput, WorkFailed
from data_loaders.identity import which
from data_loaders.storage import carried, carry

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

log = logging.getLogger("cfgen_dist")
TRIES = 3  # starts in a row that end with lost workers before any of them has saved anything new
LOG, ERRORS = "train.log", "errors.log"  # in the run directory: rank 0's progress lines; tracebacks
SAVED = ("last.ckpt", "saved.json", "weights.safetensors.sha256", "part-*.npz", "part-*.json")
PROGRESS = (
    "*/saved.json",
    "*/weights.safetensors.sha256",
    "*.parts/part-*.json",
    LOG,
    ERRORS,
)  # of a run in a bucket: what its driver looks at
SECONDS_OF_SILENCE = (8, 60)  # before it is said that workers are waited for; before that is repeated
GROW_AFTER = 60.0  # seconds of training until more workers are taken in: a new start takes some twenty
LOST_RESOURCES = 10.0  # seconds in which those of lost workers are free again
NOTICED_WITHIN = "1"  # seconds until Ray Train tells the workers that a machine will be taken away
FAILED_AT = "failed_at"  # attribute of an error: when it was raised


class WorkerError(WorkFailed):
    """A worker failed, by an error of its own or more often than is worth trying; one line says how."""


@contextmanager
def connect_workers(
    address: str, workers: tuple[int, int], cpus: int | None, gpus: float | None, accelerator: str, labels: Labels
) -> Iterator[dict[str, float]]:
    """Be connected to a cluster and know what each worker gets of it.

    Parameters
    ----------
    address : str
        As in `cfgen_dist.workers.cluster.connect`. A cluster that is started here gets CPUs for as many workers as this
        machine has cores for, and for the fewest at least.
    workers : (int, int)
        The fewest and the most.
    cpus, gpus : int, optional
        Of each worker; by default 1 CPU, and 1 GPU where the cluster has some and `accelerator` allows them.
    accelerator : {"auto", "cpu", "gpu"}
    labels : dict
        What machines of workers must have.

    Yields
    ------
    dict
        Resources of one worker.

    Raises
    ------
    BadInput
        No cluster, or one of this machine that is too small; any other may grow.
    """
    cpus = cpus or 1
    least, most = workers
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", NOTICED_WITHIN)
    with connect(address, max(least, min(most, (os.cpu_count() or 1) // cpus)) * cpus) as ray:
        there = ray.cluster_resources()
        if gpus is None:
            wanted = accelerator == "gpu" or (accelerator == "auto" and there.get("GPU", 0) >= 1)
            gpus = int(wanted)
        each: dict[str, float] = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        if is_local(address):
            for kind, n in each.items():
                if least * n > there.get(kind, 0):
                    found = f"this machine's cluster has {there.get(kind, 0):.0f}"
                    raise BadInput(f"{least} workers with {n} {kind} each need {least * n}, but {found}")
            has = ray.nodes()[0]["Labels"]
            for key, value in labels.items():
                if value.isidentifier() and has.get(key) != value:  # operators such as !spot are for Ray to read
                    found = f"is {has[key]!r}" if key in has else "is not set"
                    raise BadInput(f"`label_selector` asks for {key}={value}, but {key} {found} in this machine")
        yield each


def train_on_ray(
    atlas: str,
    known: tuple[str | None, str | None],
    folder: RunFolder,
    config: Config,
    workers: tuple[int, int],
    each: Mapping[str, float],
    labels: Labels,
) -> None:
    """Run the stages of a run on workers of the cluster that is connected, replacing those that are lost.

    With a range of workers training starts with as many as there is room for. When there is room for more, or a machine
    is about to be taken away, the workers save and start again, as many as there is room for then.

    Parameters
    ----------
    atlas : str
        An address, or an absolute path on a disk that all machines see.
    known : (str or None, str or None)
        `Atlas.contents` and `Atlas.identity`: workers refuse other contents, and say whether it is another store.
    folder : RunFolder
        In a bucket, or on a disk that all machines see.
    config : Config
        Settled.
    workers : (int, int)
        The fewest and the most.
    each : dict
        Resources of one, as `connect_workers` gives them.
    labels : dict
        What machines of workers must have.

    Raises
    ------
    BadInput
        A disk that workers do not see; what the stages refuse.
    OSError
        A worker could not write.
    Interrupted
        By SIGTERM or Ctrl-C, with what is saved and what is lost.
    WorkerError
    """
    import ray.train

    out = folder.path
    work = {
        "atlas": atlas,
        "contents": known[0],
        "id": known[1],
        "out": str(folder.place),
        "storage": ray.put(carried()),  # not as it is: Ray shows what is here to whoever asks for the state of a run
        "config": to_dict(config),
        "cpus": each["CPU"],
        "gpus": each.get("GPU", 0),
    }
    tries, before, patience = 0, -1, SETTLED
    with WorkersStop(folder.shown) as signals:
        while True:
            saved = _last_saved(out)
            tries = 1 if saved != before else tries + 1
            before = saved
            try:
                n = (
                    count_room(*workers, each, labels, patience, signals.tell)
                    if workers[0] < workers[1]
                    else workers[0]
                )
                start = _Start(work, n, workers, each, labels, folder)
                stopped = start.follow(signals)
                if not stopped:
                    shutil.rmtree(out / "ray", ignore_errors=True)
                    return
                signals.raise_if_stopped(stopped["at"])
                log.info("stopped after %s, saved: %s; starting again", stopped["at"], stopped["why"])
                patience = SETTLED
            except ray.train.WorkerGroupError as error:
                _raise_unless_lost(error.worker_failures, out)
                if tries == TRIES and _last_saved(out) == saved:
                    raise WorkerError(
                        f"workers were lost {TRIES} times before they could save anything new, the last time: "
                        f"{_line(next(iter(error.worker_failures.values())))}; `resume=True` tries again"
                    ) from None
                log.warning("lost worker %s: starting again from the last checkpoint", _ranks(error.worker_failures))
                patience = LOST_RESOURCES
            except ray.exceptions.RayActorError as error:  # Ray Train's own process, which watches over the workers
                if tries == TRIES and _last_saved(out) == saved:
                    raise WorkerError(f"Ray Train was lost {TRIES} times: {_line(error)}; {WAY_ON}") from None
                log.warning("lost Ray Train's controller: starting again from the last checkpoint")
                patience = LOST_RESOURCES
            except ray.train.TrainingFailedError as error:
                if workers[0] == workers[1] or tries == TRIES:
                    raise WorkerError(f"the workers could not be started: {_line(error)}") from None
                log.warning("the workers could not be started, counting machines again: %s", _line(error))
                patience = LOST_RESOURCES


class _Start:
    """One start of the workers, followed to its end."""

    def __init__(
        self,
        work: dict[str, Any],
        n: int,
        workers: tuple[int, int],
        each: Mapping[str, float],
        labels: Labels,
        folder: RunFolder,
    ) -> None:
        self.name = f"{time.time_ns()}"  # a name used before would be taken for one to go on with
        self.n, self.most, self.each, self.labels, self.folder = n, workers[1], each, labels, folder
        self.trainer = _trainer(
            work | {"key": self.name}, self.name, n, workers[0] < workers[1], each, labels, folder.path
        )
        self.claims: Claims | None = None
        self.began: float | None = None
        self.asked = self.granted = False

    def follow(self, signals: WorkersStop) -> dict[str, str] | None:
        """Wait for the end; returns where and why the workers stopped, None when all is done."""
        what = f"{self.n} workers with {dict(self.each)}"
        try:
            result = _follow(self._fit, self.folder.path / LOG, what, lambda started: self._watch(started, signals))
        finally:
            signals.patient = False
            if self.claims is not None:
                self.claims.drop()
            if self.asked:
                take_word_back(self.name)
        stopped: dict[str, str] | None = result.return_value
        return stopped

    def _fit(self) -> Any:
        """Train; at the end the driver knows all that the workers said and saved."""
        try:
            return self.trainer.fit()
        finally:
            with suppress(BadInput):
                self.folder.pull(*PROGRESS)

    def _watch(self, started: bool, signals: WorkersStop) -> None:
        """Ask the workers to stop when a signal came or there is room for more of them."""
        signals.patient = started
        if self.asked or not started:
            return
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        if signals.came:
            self._ask(signals.why)
        elif self.n < self.most and now - self.began > GROW_AFTER:
            if self.claims is None:
                self.claims = Claims(self.most - self.n, self.each, self.labels)
            more = self.claims.granted()
            if more and self.granted:  # for the second time: of several machines that come one waits for the other
                log.info("there is room for %d more workers", more)
                self._ask(f"room for {more} more workers")
            self.granted = more > 0
            self.began = now - GROW_AFTER + SETTLED

    def _ask(self, why: str) -> None:
        self.asked = True
        leave_word(self.name, why)


def _trainer(
    work: dict[str, Any],
    name: str,
    workers: int,
    elastic: bool,
    each: Mapping[str, float],
    labels: Labels,
    out: Path,
) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    from cfgen_dist.training.process_group import Group

    gpus = each.get("GPU", 0)
    return TorchTrainer(
        work_as_rank,  # type: ignore[arg-type]
        train_loop_config=work,
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker=dict(each),
            label_selector=dict(labels) or None,
        ),
        torch_config=Group(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=name,
            storage_path=str(out / "ray"),
            # With a range, workers that do not come up are counted anew; else Ray waits for them.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0, controller_failure_limit=0 if elastic else -1
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": ENVIRONMENT},
        ),
    )


def work_as_rank(work: dict[str, Any]) -> dict[str, str] | None:
    """What each worker does: the stages of the run, as one rank of the process group it finds itself in.

    Returns where and why it stopped, with everything saved; None when all is done.
    """
    import ray
    import torch

    carry(ray.get(work["storage"]))
    torch.set_num_threads(int(work["cpus"]))
    config = load_config(work["config"])
    config.accelerator = "gpu" if work["gpus"] else "cpu"
    with open_folder(work["out"]) as folder, folder.putting(LOG):
        return _work(folder, work, config)


def _work(folder: RunFolder, work: dict[str, Any], config: Config) -> dict[str, str] | None:
    from cfgen_dist.training.ranks import rank, world_size
    from cfgen_dist.training.stages import run_stages

    try:
        if not (folder.place / "config.yaml").is_file():
            name = socket.gethostname()
            raise BadInput(f"{folder.shown}: {name} does not see it; expected a bucket or a disk that all machines see")
        if rank() == 0:
            handler = logging.FileHandler(folder.path / LOG)
            handler.setFormatter(logging.Formatter("%(message)s"))
            for logger in (log, logging.getLogger("data_loaders")):
                logger.addHandler(handler)
                logger.setLevel(logging.INFO)
            log.info("%d workers started", world_size())
        atlas = open_atlas(work["atlas"])
        if atlas.contents != work["contents"]:
            told = which(atlas.identity, work["id"]) or "another store"
            raise BadInput(f"{atlas.name}: not what it was when the training was started, {told}; start it again")
        listen(work["key"], first=rank() == 0)
        run_stages(atlas, folder, config)
        return None
    except Stopped as stopped:
        return {"at": str(stopped), "why": asked() or "another worker was asked to"}
    except Exception as error:
        # The other ranks fail next, for want of this one: the time tells cause from consequence.
        setattr(error, FAILED_AT, time.time())
        _note(folder, rank())
        raise


def _note(folder: RunFolder, rank: int) -> None:
    """Add the traceback to a file, if that can be written: the error may be that it cannot."""
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} worker {rank} on {socket.gethostname()}\n"
    with suppress(OSError, BadInput):
        folder.append(ERRORS, head + traceback.format_exc() + "\n")


def _follow(fit: Callable[[], Any], path: Path, what: str, watch: Callable[[bool], None]) -> Any:
    """Call `fit` and repeat the lines that appear in the file meanwhile; `watch` is told whether there are some."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:
            outcome.set_exception(error)

    path.touch()
    position, heard = path.stat().st_size, time.monotonic()
    # Not in the main thread: there Ray would take Ctrl-C for itself.
    threading.Thread(target=run, daemon=True).start()
    started, (patience, later) = False, SECONDS_OF_SILENCE
    while True:
        done = outcome.done()
        with open(path, "rb") as file:
            file.seek(position)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        position += len(lines)
        for line in lines.decode(errors="replace").splitlines():
            log.info(line)
            started = True
        if not started and time.monotonic() - heard > patience:
            log.info("waiting for the cluster to have room for %s, and for them to start", what)
            heard, patience = time.monotonic(), later
        if done:
            return outcome.result()
        watch(started)
        time.sleep(0.3)


def _raise_unless_lost(failures: Mapping[int, Exception], out: Path) -> None:
    """Raise the cause of a failure that would repeat itself; return if workers died or lost each other."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    if any(isinstance(error, RayError | RayTrainError) for error in failures.values()):
        return
    number, cause = min(failures.items(), key=lambda item: getattr(item[1], FAILED_AT, float("inf")))
    if is_lost_peer(cause):
        return
    if isinstance(cause, BadInput | OSError):
        raise cause
    raise WorkerError(f"worker {number} failed: {_line(cause)}; the traceback is in {out / ERRORS}")


def is_lost_peer(error: BaseException) -> bool:
    """Whether this is how a rank notices that another one is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))


def _last_saved(out: Path) -> int:
    """When something was last saved that a new start would not do again."""
    return max((path.stat().st_mtime_ns for name in SAVED for path in out.rglob(name)), default=0)


def _ranks(failures: Mapping[int, Exception]) -> str:
    return ", ".join(map(str, sorted(failures)))


def _line(error: BaseException) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
