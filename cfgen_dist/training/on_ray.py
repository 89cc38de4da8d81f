"""Training on the workers of a Ray cluster: Ray Train starts them as one process group, each runs the same stages.

The run directory is the only state: checkpoints are committed there by a rename, so what a worker that starts again
finds is what was saved last, without Ray's own checkpoint records, which know of a checkpoint only some seconds later.

Ray Train's `FailureConfig(max_failures=)` starts the workers again after any error, also one that would repeat itself
for ever, so it is left at zero: here lost workers are replaced, and errors of the program or the user end the run.
"""

import logging
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
from cfgen_dist.workers.cluster import connect, is_local
from data_loaders import open_atlas
from data_loaders.errors import BadInput, WorkFailed
from data_loaders.storage import carried, carry

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

log = logging.getLogger("cfgen_dist")
TRIES = 3  # starts in a row that end with lost workers before any of them has saved anything new
LOG, ERRORS = "train.log", "errors.log"  # in the run directory: rank 0's progress lines; tracebacks
SAVED = ("last.ckpt", "saved.json", "weights.safetensors.sha256", "part-*.npz", "part-*.json")
PROGRESS = ("/saved.json", "/weights.safetensors.sha256")  # of a run in a bucket: what its driver looks at
SECONDS_OF_SILENCE = (8, 60)  # before it is said that workers are waited for; before that is repeated
FAILED_AT = "failed_at"  # attribute of an error: when it was raised


class WorkerError(WorkFailed):
    """A worker failed, by an error of its own or more often than is worth trying; one line says how."""


@contextmanager
def connect_workers(
    address: str, workers: int, cpus: int | None, gpus: float | None, accelerator: str
) -> Iterator[dict[str, float]]:
    """Be connected to a cluster and know what each worker gets of it.

    Parameters
    ----------
    address : str
        As in `cfgen_dist.workers.cluster.connect`.
    workers : int
    cpus, gpus : int, optional
        Of each worker; by default 1 CPU, and 1 GPU where the cluster has some and `accelerator` allows them.
    accelerator : {"auto", "cpu", "gpu"}

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
    with connect(address, workers * cpus) as ray:
        there = ray.cluster_resources()
        if gpus is None:
            wanted = accelerator == "gpu" or (accelerator == "auto" and there.get("GPU", 0) >= 1)
            gpus = int(wanted)
        each: dict[str, float] = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        if is_local(address):
            for kind, n in each.items():
                if workers * n > there.get(kind, 0):
                    found = f"this machine's cluster has {there.get(kind, 0):.0f}"
                    raise BadInput(f"{workers} workers with {n} {kind} each need {workers * n}, but {found}")
        yield each


def train_on_ray(
    atlas: str, contents: str | None, folder: RunFolder, config: Config, workers: int, each: Mapping[str, float]
) -> None:
    """Run the stages of a run on workers of the cluster that is connected, replacing those that are lost.

    Parameters
    ----------
    atlas : str
        An address, or an absolute path on a disk that all machines see.
    contents : str or None
        `Atlas.contents`: workers refuse any other store.
    folder : RunFolder
        In a bucket, or on a disk that all machines see.
    config : Config
        Settled.
    workers : int
    each : dict
        Resources of one, as `connect_workers` gives them.

    Raises
    ------
    BadInput
        A disk that workers do not see; what the stages refuse.
    OSError
        A worker could not write.
    WorkerError
    """
    import ray.train

    out = folder.path
    work = {
        "atlas": atlas,
        "contents": contents,
        "out": str(folder.place),
        "storage": ray.put(carried()),  # not as it is: Ray shows what is here to whoever asks for the state of a run
        "config": to_dict(config),
        "cpus": each["CPU"],
        "gpus": each.get("GPU", 0),
    }
    tries, before = 0, -1
    while True:
        saved = _last_saved(out)
        tries = 1 if saved != before else tries + 1
        before = saved
        try:
            _follow(_trainer(work, workers, each, out).fit, out / LOG, f"{workers} workers with {each}")
            shutil.rmtree(out / "ray", ignore_errors=True)
            return
        except ray.train.WorkerGroupError as error:
            _raise_unless_lost(error.worker_failures, out)
            if tries == TRIES and _last_saved(out) == saved:
                raise WorkerError(
                    f"workers were lost {TRIES} times before they could save anything new, the last time: "
                    f"{_line(next(iter(error.worker_failures.values())))}; `resume=True` tries again"
                ) from None
            log.warning("lost worker %s: starting again from the last checkpoint", _ranks(error.worker_failures))
        except ray.train.TrainingFailedError as error:
            raise WorkerError(f"the workers could not be started: {_line(error)}") from None


def _trainer(work: dict[str, Any], workers: int, each: Mapping[str, float], out: Path) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    gpus = each.get("GPU", 0)
    return TorchTrainer(
        work_as_rank,
        train_loop_config=work,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=dict(each)),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=f"{time.time_ns()}",  # a name used before would be taken for one to go on with
            storage_path=str(out / "ray"),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": ENVIRONMENT},
        ),
    )


def work_as_rank(work: dict[str, Any]) -> None:
    """What each worker does: the stages of the run, as one rank of the process group it finds itself in."""
    import ray
    import torch

    carry(ray.get(work["storage"]))
    torch.set_num_threads(int(work["cpus"]))
    config = load_config(work["config"])
    config.accelerator = "gpu" if work["gpus"] else "cpu"
    with open_folder(work["out"]) as folder, folder.putting(LOG):
        _work(folder, work, config)


def _work(folder: RunFolder, work: dict[str, Any], config: Config) -> None:
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
            raise BadInput(f"{atlas.name}: another store than when the training was started; start it again")
        run_stages(atlas, folder, config)
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


def _follow(fit: Callable[[], Any], path: Path, what: str) -> Any:
    """Call `fit` and repeat the lines that appear in the file meanwhile."""
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
