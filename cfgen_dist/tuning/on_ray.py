"""What Ray Tune starts: a process that works on one trial and tells Tune what it reaches.

With several workers a trial has one process each. All of them live in the trial's own placement group, so Tune counts
them, and clears them away with the trial.
"""

import datetime
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cfgen_dist.training.folder import RunFolder, open_folder
from cfgen_dist.training.on_ray import is_lost_peer
from cfgen_dist.training.saves import POINTER, SAVED
from cfgen_dist.tuning.records import AUTOENCODER, BEST_WEIGHTS, REQUEST, Report, read_trial
from cfgen_dist.tuning.trial import REPORTS, RESULT, TRIAL, WEIGHTS, Send, clear, finish, read_reports, why, work
from data_loaders.storage import carry
from data_loaders.vouchers import SUFFIX, write_sealed

MOST_SILENCE = datetime.timedelta(minutes=10)  # before the workers of a trial give each other up
SECONDS_TO_END = 30  # that the workers of a failed trial have to say why


def run_trial(config: dict[str, Any], storage: Mapping[str, str]) -> None:
    """Do one trial; errors of the training are recorded, only a lost process is Tune's business.

    Parameters
    ----------
    config : dict
        `run`, `stage`, `workers`, `cpus`, `gpus`; `folder` and `values` of the trial, or under population-based
        training `folders` of all members and `values`, which Tune changes. A search in a bucket is known by addresses.
    storage : dict
        How storage is reached, see `data_loaders.storage.carried`.
    """
    import ray
    from ray import tune

    carry(storage)
    with open_search(config["run"]) as home:
        _run_trial(config, storage, home, ray, tune)


@contextmanager
def open_search(run: str) -> Iterator[RunFolder]:
    """With this: the folder of a search as a worker needs it."""
    with open_folder(run) as home:
        home.fetch(REQUEST, AUTOENCODER, BEST_WEIGHTS, BEST_WEIGHTS + SUFFIX)
        yield home


def _run_trial(config: dict[str, Any], storage: Mapping[str, str], home: RunFolder, ray: Any, tune: Any) -> None:
    address = config["folder"] if "folder" in config else str(_member(config))
    folder = home.local(address)
    name = f"{folder.parent.name}/{folder.name}"
    home.take_up(name)
    if "folders" in config:
        _take_over(folder, config["values"], tune.get_checkpoint())
    arguments: dict[str, Any] = {"stage": config["stage"], "values": config["values"]}
    arguments |= {"threads": config["cpus"], "save_every": config.get("interval")}
    arguments["accelerator"] = "gpu" if config["gpus"] else "cpu"

    def send(report: Report) -> None:
        home.put(f"{name}/{REPORTS}")
        tune.report({key: report[key] for key in ("step", "objective")}, checkpoint=_checkpoint(folder, config))

    try:
        if config["workers"] > 1:
            last = _as_first_rank(arguments, home, folder, send, config, storage)
        else:
            last = work(home, folder=folder, **arguments, send=send)
    except ray.exceptions.RayActorError:  # a lost process of several: Tune starts the trial again
        raise
    except Exception as error:
        # Without `step`: neither the scheduler nor the search takes it for a value.
        finish(folder, "failed", why=why(home.in_words(error)))
        _put(home, name)
        tune.report({"objective": float("inf")})
        return
    finish(folder, "done", **last)
    _put(home, name)
    tune.report({"objective": last["objective"]})


def _put(home: RunFolder, name: str) -> None:
    """Put what a trial leaves into the bucket, its result last, and remove its checkpoints from there."""
    if home.saver is not None:
        home.saver.settle()
    home.put(*(f"{name}/{file}" for file in (REPORTS, WEIGHTS + SUFFIX, WEIGHTS, RESULT)))
    home.remove(f"{name}/{POINTER}", f"{name}/{SAVED}")


def _as_first_rank(
    arguments: dict[str, Any],
    home: RunFolder,
    folder: Path,
    send: Send,
    config: dict[str, Any],
    storage: Mapping[str, str],
) -> dict[str, Any]:
    """Rank 0 of a process group whose other ranks run in the other bundles of this trial's placement group."""
    import ray
    import torch.distributed as dist
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group: Any = ray.util.get_current_placement_group()  # the trial's: Tune makes one for each
    workers = config["workers"]
    resources = {"num_cpus": config["cpus"], "num_gpus": config["gpus"]}
    others: list[Any] = [
        ray.remote(_Rank)
        .options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle), **resources)
        .remote()
        for bundle in range(1, workers)
    ]
    with socket.socket() as free:
        free.bind(("", 0))
        address = ray.util.get_node_ip_address(), free.getsockname()[1]
    work_of_others = [
        actor.work.remote(arguments | {"folder": home.address(folder)}, address, number, workers, config, storage)
        for number, actor in enumerate(others, 1)
    ]
    try:
        _join(address, 0, workers, config)
        last = work(home, folder=folder, **arguments, send=send)
        ray.get(work_of_others)
        return last
    except Exception as error:
        raise _cause(error, work_of_others) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for actor in others:
            ray.kill(actor)


def _cause(error: Exception, work_of_others: list[Any]) -> Exception:
    """What a trial of several ranks failed of: the others only notice that a rank is gone."""
    import ray

    if not (is_lost_peer(error) or isinstance(error, ray.exceptions.RayError)):
        return error
    ended, _ = ray.wait(work_of_others, num_returns=len(work_of_others), timeout=SECONDS_TO_END)
    for reference in ended:
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as failed:
            if not is_lost_peer(failed.cause):
                return failed.cause
        except ray.exceptions.RayActorError as lost:
            error = lost
    return error


class _Rank:
    """Any other rank."""

    def work(
        self,
        arguments: dict[str, Any],
        address: tuple[str, int],
        number: int,
        workers: int,
        config: dict[str, Any],
        storage: Mapping[str, str],
    ) -> None:
        """The same work, nothing reported. An error ends the process too, so that the others notice it at once."""
        try:
            carry(storage)
            _join(address, number, workers, config)
            with open_search(config["run"]) as home:
                folder = home.local(arguments["folder"])
                folder.mkdir(parents=True, exist_ok=True)
                work(home, **arguments | {"folder": folder}, send=lambda report: None)
        except BaseException:
            threading.Timer(2, os._exit, (1,)).start()  # once Ray has sent the error
            raise


def _join(address: tuple[str, int], number: int, workers: int, config: dict[str, Any]) -> None:
    """Make this process a rank, for torch and for Lightning: one device each, as if it had a machine of its own."""
    import torch.distributed as dist

    host, port = address
    os.environ |= {
        "MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(workers),
        "NODE_RANK": str(number), "LOCAL_RANK": "0", "GROUP_WORLD_SIZE": str(workers),
    }  # fmt: skip
    backend = "nccl" if config["gpus"] >= 1 else "gloo"
    dist.init_process_group(
        backend, init_method=f"tcp://{host}:{port}", rank=number, world_size=workers, timeout=MOST_SILENCE
    )


def _member(config: dict[str, Any]) -> Path:
    """The folder of a member of a population: Tune numbers its trials in the order of `folders`."""
    from ray import tune

    return Path(config["folders"][int(tune.get_context().get_trial_id().rpartition("_")[2])])


def _take_over(folder: Path, values: dict[str, Any], checkpoint: Any) -> None:
    """Start from the checkpoint that Tune gives a member, its own or that of another one, with the values it gives."""
    facts = read_trial(folder / TRIAL)
    write_sealed(folder / TRIAL, facts | {"values": values})
    if checkpoint is None:
        return
    with checkpoint.as_directory() as source:
        donor = (Path(source) / "member").read_text()
        if donor == folder.name:
            return
        clear(folder, spared=(TRIAL, REPORTS))
        shutil.copy(Path(source) / "last.ckpt", folder / "last.ckpt")
        step = json.loads((Path(source) / "step").read_text())
    reports = read_reports(folder)
    with open(folder / REPORTS, "a") as file:
        file.write(json.dumps(reports[-1] | {"step": step, "copied_from": donor}) + "\n")


def _checkpoint(folder: Path, config: dict[str, Any]) -> Any:
    """For population-based training what another member may take over; otherwise nothing: the folder has it all."""
    from ray import tune

    reports = read_reports(folder)
    if "folders" not in config or reports[-1]["step"] % config["interval"]:
        return None
    built = folder / "for_others"
    built.mkdir(exist_ok=True)
    shutil.copy(folder / "last.ckpt", built / "last.ckpt")
    (built / "member").write_text(folder.name)
    (built / "step").write_text(json.dumps(reports[-1]["step"]))
    return tune.Checkpoint.from_directory(str(built))
