"""The whole search: autoencoders, latents, flows, sampling settings, then `best.yaml`, `trials.csv` and the report."""

import copy
import csv
import importlib.util
import io
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cfgen_dist.config import Config, load_config, to_dict
from cfgen_dist.training.folder import RunFolder, open_folder
from cfgen_dist.training.settle import settle
from cfgen_dist.training.stages import identity
from cfgen_dist.tuning.distributions import Choice
from cfgen_dist.tuning.records import (
    AUTOENCODER,
    BEST_WEIGHTS,
    REQUEST,
    SAMPLING,
    Request,
    Resources,
    TrialRecord,
    read_request,
)
from cfgen_dist.tuning.space import OBJECTIVES, SCHEDULERS, Space, as_json, base_values, check_changeable, load_space
from cfgen_dist.workers.cluster import connect, is_local
from data_loaders import open_atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.files import write_whole
from data_loaders.locks import alone
from data_loaders.storage import carried, carry, is_remote, shown
from data_loaders.storage.address import on_disk
from data_loaders.types import PathLike
from data_loaders.vouchers import SUFFIX, check_vouched, write_sealed, write_vouched

log = logging.getLogger("cfgen_dist")
SPACES = {"asha": "default", "pbt": "pbt"}


@alone(make_folder=True, remote=True)
def tune(
    atlas: PathLike,
    out: PathLike,
    trials: int = 50,
    *,
    config: Config | None = None,
    space: str | Path | dict[str, Any] | None = None,
    scheduler: str = "asha",
    objective: str = "worst",
    ray: str = "auto",
    concurrent: int | None = None,
    workers: int = 1,
    cpus_per_worker: int = 1,
    gpus_per_worker: float | None = None,
    resume: bool = False,
) -> Config:
    """Search hyper-parameters and write `OUT/best.yaml`, which `cfgen-dist train --config` takes as it is.

    Three searches, one after the other: autoencoders by the negative log-likelihood of validation cells; flows, on the
    best autoencoder's latents, by how far generated cells are from validation cells; guidance strength and solver steps
    of the best flow, without training. Test cells are never read. The first trial of each search is the base config
    itself, trained to its end, so the result is not worse than that on validation cells.

    Parameters
    ----------
    atlas : path-like
        An atlas store with cells in the splits train and val.
    out : path-like
        Directory of the search, on a disk or in a bucket: `best.yaml`, `trials.csv`, `report.html`, and a folder for
        every trial.
    trials : int
        Trainings in all, at least 2; half of them, rounded up, of autoencoders.
    config : Config, optional
        The base: what the space does not name stays as it is there. The defaults if left out. Its seed is also that of
        the suggestions.
    space : path-like, str or dict, optional
        See `cfgen_dist.tuning.space.load_space`; by default the packaged space for the scheduler.
    scheduler : {"asha", "pbt"}
        ASHA with Optuna's suggestions, or population-based training of all trials at once.
    objective : str
        Of the flows, one of `cfgen_dist.tuning.space.OBJECTIVES`. `worst` is the largest distance to the floor over all
        measures of an evaluation, structure among them, in units of the floor's spread
        (`cfgen_dist.evaluation.choice`), at the guidance strength nearest to 1; the others are one distance alone, the
        lowest over the space's guidance strengths.
    ray : {"auto", "local"} or str
        As in `cfgen_dist.workers.cluster.connect`; on a cluster `atlas` and `out` lie in a bucket, or on a
        disk that all machines see.
    concurrent : int, optional
        Trials at once; by default as many as the cluster has room for.
    workers : int
        Processes of each trial; they share its batches.
    cpus_per_worker : int
    gpus_per_worker : float, optional
        Fractions let trials of one worker share a GPU. By default 1 where the cluster has GPUs and the config allows
        them.
    resume : bool
        Go on with an interrupted search: the same request, another number of machines if need be.

    Returns
    -------
    Config
        What `best.yaml` holds.

    Raises
    ------
    BadInput
        Settings that do not fit the atlas, the space or each other, a directory that exists (without `resume`), a
        request other than the one that was interrupted, trials that all failed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise BadInput("tune: Optuna is not installed; pip install 'cfgen-dist[ray]'")
    _check(trials, scheduler, objective, concurrent, workers, cpus_per_worker, gpus_per_worker)
    if scheduler == "pbt" and is_remote(out):
        raise BadInput(
            f"{shown(out)}: members of a population take checkpoints over from each other on a disk; expected a path "
            "on a disk that all machines see, or `scheduler='asha'`"
        )
    source, config = open_atlas(atlas), copy.deepcopy(config) if config else load_config()
    settled = copy.deepcopy(config)
    settle(settled, source, here=False)
    given = space if space is not None else SPACES[scheduler]
    searched = load_space(given, settled)
    if scheduler == "pbt":
        check_changeable(searched, "search space" if isinstance(given, dict) else f"search space {given}")
    guidance = searched["sampling"].get("sampling.guidance")
    weights = {settled.sampling.guidance}
    if settled.labels and isinstance(guidance, Choice):
        weights |= {*guidance.values}
    request: Request = {
        "atlas": identity(source) | {"path": str(atlas) if is_remote(atlas) else str(on_disk(atlas).absolute())},
        "base": to_dict(config), "space": as_json(searched), "trials": trials, "scheduler": scheduler,
        "objective": objective, "seed": config.seed, "workers": workers,
        "guidance": sorted(weights),
    }  # fmt: skip
    request = json.loads(json.dumps(request))
    with open_folder(out) as home:
        _check_directory(home, request, resume)
        with connect(ray, concurrent * workers * cpus_per_worker if concurrent else None):
            resources: Resources = {
                "workers": workers, "cpus": cpus_per_worker, "gpus": _gpus(settled, gpus_per_worker),
            }  # fmt: skip
            room = _room(resources, is_local(ray))
            home.path.mkdir(parents=True, exist_ok=True)
            write_sealed(home.path / REQUEST, request, indent=1)
            home.put(REQUEST)
            concurrent = min(concurrent or room, room) if is_local(ray) else concurrent or room
            _search(home, settled, searched, request, resources, concurrent)
        return load_config(home.path / "best.yaml")


def _search(
    home: RunFolder, settled: Config, space: Space, request: Request, resources: Resources, concurrent: int
) -> None:
    """The three searches, each skipping what is there."""
    out, run = home.path, str(home.place)
    from cfgen_dist.tuning.guidance import described, grid_of
    from cfgen_dist.tuning.report import write_report
    from cfgen_dist.tuning.search import Stage, most_reports, search
    from cfgen_dist.tuning.table import Table
    from cfgen_dist.tuning.trials import read_trials

    table = Table(out, read_trials, request["objective"])
    shares = {"autoencoder": math.ceil(request["trials"] / 2), "flow": request["trials"] // 2}
    bests: dict[str, TrialRecord] = {}
    try:
        for stage, n in shares.items():
            keys = space[stage]
            n = n if keys else 1
            table.start(stage, n)
            bests[stage] = search(
                Stage(
                    name=stage,
                    home=home,
                    keys=keys,
                    base=base_values(keys, settled),
                    trials=n,
                    longest=most_reports(stage, settled),
                    pbt=request["scheduler"] == "pbt",
                    seed=request["seed"],
                ),
                resources,
                concurrent,
                table,
            )
            if stage == "autoencoder":
                _on_worker(encode_best, resources, run, _named(bests[stage], home))
    finally:
        table.stop()
    log.info("scoring guidance strengths and solver steps")
    grid = grid_of(space["sampling"], settled)
    if not settled.labels:
        grid["sampling.guidance"] = [settled.sampling.guidance]
    rows, chosen = _on_worker(_score, resources, run, _named(bests["flow"], home), grid, request["objective"])
    values = bests["autoencoder"]["values"] | bests["flow"]["values"]
    values |= {"sampling.guidance": chosen["guidance"], "sampling.steps": chosen["steps"]}
    best = load_config(request["base"], values)
    trials = {stage: read_trials(out / stage) for stage in shares}
    _write_csv(out / "trials.csv", trial_lines(trials, rows, request["objective"]))
    _write_csv(out / "sampling.csv", setting_lines(rows, chosen))
    write_report(out / "report.html", request, trials, bests, rows, chosen, settled)
    about = [
        "# Found by cfgen-dist tune; train takes it as it is: cfgen-dist train ATLAS --out RUN --config best.yaml",
        f"# autoencoder trial {bests['autoencoder']['number']}: {bests['autoencoder']['objective']:.6g} held-out nats",
        f"# flow trial {bests['flow']['number']}: {described(request['objective'], chosen)}, "
        f"guidance {chosen['guidance']:g}, {chosen['steps']} {best.sampling.solver} steps",
    ]
    text = "\n".join(about) + "\n" + yaml.safe_dump(to_dict(best), sort_keys=False)
    home.put("trials.csv", "sampling.csv", "report.html")
    write_whole(out / "best.yaml", lambda file: file.write(text.encode()))  # last: with it the search is finished
    home.put("best.yaml")


def _named(record: TrialRecord, home: RunFolder) -> TrialRecord:
    """A trial as workers on other machines find it."""
    return record | {"folder": home.address(Path(record["folder"]))}


def _on_worker(function: Callable[..., Any], resources: Resources, *arguments: Any) -> Any:
    """A function's result from a worker of the cluster; its error as it was there, without Ray's account of it."""
    import ray

    remote = ray.remote(num_cpus=resources["cpus"], num_gpus=min(resources["gpus"], 1), max_retries=3)(_carrying)
    try:
        return ray.get(remote.remote(carried(), function, *arguments))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _carrying(storage: dict[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    carry(storage)
    return function(*arguments)


def encode_best(run: str, best: TrialRecord) -> None:
    """Encode the atlas by the best autoencoder, once for all flows.

    Parameters
    ----------
    run : str
        The search's directory, or its address.
    best : TrialRecord
        The best autoencoder trial.
    """
    import torch
    from safetensors.torch import load_file, save

    from cfgen_dist.training.encode import encode
    from cfgen_dist.tuning.on_ray import open_search
    from cfgen_dist.tuning.trial import WEIGHTS, best_autoencoder, trial_config

    with open_search(run) as home:
        folder = home.path
        if not (folder / AUTOENCODER).exists():
            weights = home.local(best["folder"]) / WEIGHTS
            home.fetch(*_weights_of(best))
            check_vouched(weights, "; remove the folder of that trial")
            state = load_file(weights)
            write_vouched(folder / BEST_WEIGHTS, save(state))
            write_sealed(folder / AUTOENCODER, {"number": best["number"], "values": best["values"]})
            home.put(BEST_WEIGHTS, BEST_WEIGHTS + SUFFIX, AUTOENCODER)
        atlas = open_atlas(read_request(folder)["atlas"]["path"])
        config = trial_config(folder, "flow", {})
        gpu = torch.cuda.is_available() and config.accelerator != "cpu"
        autoencoder = best_autoencoder(folder, atlas, config)
        encode(atlas, autoencoder, home.place / "latents.zarr", "cuda" if gpu else "cpu")


def _weights_of(record: TrialRecord) -> list[str]:
    """The files of the weights of a trial, by their names from the search's directory."""
    from cfgen_dist.tuning.trial import WEIGHTS

    name = "/".join(record["folder"].rsplit("/", 2)[1:])
    return [f"{name}/{file}" for file in (WEIGHTS, WEIGHTS + SUFFIX)]


def _score(
    run: str, best: TrialRecord, grid: dict[str, list[Any]], objective: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from cfgen_dist.tuning.guidance import score_settings
    from cfgen_dist.tuning.on_ray import open_search

    with open_search(run) as home:
        home.fetch(SAMPLING, *_weights_of(best))
        found = score_settings(home, best | {"folder": str(home.local(best["folder"]))}, grid, objective)
        home.put(SAMPLING)
        return found


def _check_directory(home: RunFolder, request: Request, resume: bool) -> None:
    """See that there is no directory yet, or that the interrupted search in it is the same."""
    home.fetch(REQUEST)
    path, out = home.path / REQUEST, home.path
    if not path.exists():
        there = home.place
        if there.is_file() or there.names() or (not there.is_remote and there.exists() and not there.is_folder()):
            raise BadInput(f"{home.shown} exists and is not a search: give a directory that does not exist")
        return
    if not resume:
        raise BadInput(f"{out} holds a search already: `resume=True` continues it, or give another directory")
    saved = read_request(out)
    if saved["atlas"]["fingerprint"] != request["atlas"]["fingerprint"]:
        raise BadInput(
            f"{out} searches on {saved['atlas']['path']}, whose cells differ from those of {request['atlas']['path']}"
        )
    for key, value in request.items():
        kept = dict(saved)[key]
        if key != "atlas" and kept != value:
            few = isinstance(value, int | str)
            found = f"{key} = {kept}, not {value}" if few else f"another {key}"
            raise BadInput(f"{out} was started with {found}: resume it without changes")


def _check(
    trials: int,
    scheduler: str,
    objective: str,
    concurrent: int | None,
    workers: int,
    cpus: int,
    gpus: float | None,
) -> None:
    for what, name, known in (("scheduler", scheduler, SCHEDULERS), ("objective", objective, OBJECTIVES)):
        if name not in known:
            raise BadInput(f"`{what}`: unknown {name!r}, {nearest(name, known)}")
    least = 4 if scheduler == "pbt" else 2
    if trials < least:
        raise BadInput(f"`trials` is {trials}, expected at least {least}: half for autoencoders, half for flows")
    for name, value in (("concurrent", concurrent), ("workers", workers), ("cpus_per_worker", cpus)):
        if value is not None and value < 1:
            raise BadInput(f"`{name}` is {value}, expected at least 1")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise BadInput(f"`gpus_per_worker` is {gpus:g}, expected a fraction of one, or a whole number")
    if gpus is not None and 0 < gpus < 1 and workers > 1:
        raise BadInput(f"`gpus_per_worker` is {gpus:g} with {workers} workers a trial, expected whole GPUs for those")


def _gpus(config: Config, asked: float | None) -> float:
    import ray

    if asked is not None:
        return asked
    there = ray.cluster_resources().get("GPU", 0)
    return int(config.accelerator == "gpu" or (config.accelerator == "auto" and there >= 1))


def _room(resources: Resources, local: bool) -> int:
    """Trials that the cluster has room for; one that is not of this machine alone may grow, and have none yet."""
    import ray

    there, rooms = ray.cluster_resources(), []
    for kind, share in (("CPU", resources["cpus"]), ("GPU", resources["gpus"])):
        if share:
            rooms.append(int(there.get(kind, 0) / (share * resources["workers"]) + 1e-9))  # 1 // 0.2 is 4
            if not rooms[-1] and local:
                need = f"{share * resources['workers']:g} {kind}"
                raise BadInput(f"a trial needs {need}, but this machine's cluster has {there.get(kind, 0):g}")
    return max(min(rooms), 1)


def trial_lines(
    trials: dict[str, list[TrialRecord]], rows: list[dict[str, Any]], objective: str
) -> list[dict[str, Any]]:
    """The lines of `trials.csv`: one a trial of any stage."""
    lines: list[dict[str, Any]] = []
    for stage, records in trials.items():
        for record in records:
            facts = {key: record.get(key) for key in ("number", "status", "objective", "steps", "seconds", "why")}
            lines.append({"stage": stage, **facts, **record["values"]})
    for number, row in enumerate(rows):
        values = {"sampling.guidance": row["guidance"], "sampling.steps": row["steps"]}
        lines.append(
            {"stage": "sampling", "number": number, "status": "done", "objective": row[objective], "steps": 0} | values
        )
    return lines


def setting_lines(rows: list[dict[str, Any]], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of `sampling.csv`: one a sampling setting, with every measure and its distance to the floor."""
    from cfgen_dist.evaluation.trade_off import columns_of

    return [
        {"guidance": row["guidance"], "steps": row["steps"], "chosen": _setting(row) == _setting(chosen)}
        | columns_of(row | {"measures": row})
        for row in rows
    ]


def _setting(row: dict[str, Any]) -> tuple[float, int]:
    """What a row is of: rows themselves are unequal to their copies where a measure is no number."""
    return row["guidance"], row["steps"]


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    """Columns that a line does not have stay empty."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
