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
from pathlib import Path
from typing import Any

from cfgen_dist.training.on_ray import is_lost_peer
from cfgen_dist.tuning.records import Report, read_trial
from cfgen_dist.tuning.trial import REPORTS, TRIAL, Send, clear, finish, read_reports, why, work
from data_loaders.vouchers import write_sealed

MOST_SILENCE = datetime.timedelta(minutes=10)  # before the workers of a trial give each other up
SECONDS_TO_END = 30  # that the workers of a failed trial have to say why


def run_trial(config: dict[str, Any]) -> None:
    """Do one trial; errors of the training are recorded, only a lost process is Tune's business.

    Parameters
    ----------
    config : dict
        `run`, `stage`, `workers`, `cpus`, `gpus`; `folder` and `values` of the trial, or under population-based
        training `folders` of all members and `values`, which Tune changes.
    """
    import ray
    from ray import tune

    run, stage = Path(config["run"]), config["stage"]
    folder = Path(config["folder"]) if "folder" in config else _member(config)
    if "folders" in config:
        _take_over(folder, config["values"], tune.get_checkpoint())
    arguments: dict[str, Any] = {"run": run, "stage": stage, "values": config["values"], "folder": folder}
    arguments |= {"threads": config["cpus"], "save_every": config.get("interval")}
    arguments["accelerator"] = "gpu" if config["gpus"] else "cpu"

    def send(report: Report) -> None:
        tune.report({key: report[key] for key in ("step", "objective")}, checkpoint=_checkpoint(folder, config))

    try:
        last = _as_first_rank(arguments, send, config) if config["workers"] > 1 else work(**arguments, send=send)
    except ray.exceptions.RayActorError:  # a lost process of several: Tune starts the trial again
        raise
    except Exception as error:
        # Without `step`: neither the scheduler nor the search takes it for a value.
        finish(folder, "failed", why=why(error))
        tune.report({"objective": float("inf")})
        return
    finish(folder, "done", **last)
    tune.report({"objective": last["objective"]})


def _as_first_rank(arguments: dict[str, Any], send: Send, config: dict[str, Any]) -> dict[str, Any]:
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
        actor.work.remote(arguments, address, number, workers, config) for number, actor in enumerate(others, 1)
    ]
    try:
        _join(address, 0, workers, config)
        last = work(**arguments, send=send)
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
    ) -> None:
        """The same work, nothing reported. An error ends the process too, so that the others notice it at once."""
        try:
            _join(address, number, workers, config)
            work(**arguments, send=lambda report: None)
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
