"""The whole training as one function of (atlas, run directory, config), in this process or on a Ray cluster."""

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cfgen_dist.bundle import CARD, CFGen
from cfgen_dist.config import Config, load_config, save_config, to_dict
from cfgen_dist.training.folder import RunFolder, open_folder
from cfgen_dist.training.memory import keep_freed_memory
from cfgen_dist.training.on_ray import PROGRESS, connect_workers, train_on_ray
from cfgen_dist.training.ranks import check_workers
from cfgen_dist.training.settle import settle
from cfgen_dist.training.stages import identity, run_stages
from cfgen_dist.training.stopping import saved_at_signals
from cfgen_dist.workers.room import read_labels, read_range
from data_loaders import Atlas, open_atlas
from data_loaders.errors import BadInput
from data_loaders.files import write_whole
from data_loaders.identity import StoreId, which
from data_loaders.locks import alone
from data_loaders.records import Record, Sha256, Whole, read_json
from data_loaders.storage import is_remote
from data_loaders.storage.address import on_disk
from data_loaders.types import PathLike
from data_loaders.vouchers import sealed, unsealed

log = logging.getLogger("cfgen_dist")
# what a resumed run may be told anew, for it does not touch the result
MAY_CHANGE = ("accelerator", "checkpoint_every_n_steps", "checkpoint_every_minutes")


class TrainedOn(Record):
    """The form of `atlas.json`."""

    path: str
    fingerprint: str
    n_cells: Whole = 0
    contents: Sha256 | None = None
    id: StoreId | None = None
    config: Sha256 | None = None
    checksum: Sha256 | None = None


@alone(make_folder=True, remote=True)
def train(
    atlas: PathLike,
    out: PathLike,
    config: Config | None = None,
    *,
    resume: bool = False,
    ray: str | None = None,
    workers: int | str | Sequence[int] | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: int | None = None,
    label_selector: Mapping[str, str] | Sequence[str] | None = None,
) -> CFGen:
    """Train a model and write it to the folder `bundle` in `out`.

    Each stage leaves its result in the run directory: `autoencoder/`, `latents.zarr`, `flow/`, `bundle/`; a resumed run
    skips the stages that are finished and goes on inside the one that is not, from its last checkpoint. The number of
    workers may differ from that of the interrupted run.

    SIGTERM and Ctrl-C are answered after the step that is being done, with a checkpoint; a second one at once.

    Without Ray this process keeps memory that it frees for its own use from then on (`cfgen_dist.training.memory`).

    Parameters
    ----------
    atlas : path-like
        An atlas store with cells in the splits train and val, on a disk or at an address.
    out : path-like
        Run directory, on a disk or at an address in a bucket (`cfgen_dist.training.folder`).
    config : Config, optional
        The saved one when resuming, else the defaults.
    resume : bool
        Continue in an existing run directory.
    ray : {None, "auto", "local"} or str
        None: in this process. Else as in `cfgen_dist.workers.cluster.connect`; `atlas` and `out` must then lie in
        a bucket, or on a disk that all machines see.
    workers : int, str or (int, int), optional
        Processes under Ray, one by default. They share the batches of the config. "2:8" or (2, 8): as many as the
        cluster has room for, at least 2 and at most 8; the rest of an epoch is dealt anew when machines come and go.
    cpus_per_worker, gpus_per_worker : int, optional
        What each worker gets; 1 CPU by default, and 1 GPU where the cluster has some and `config.accelerator` is not
        `cpu`.
    label_selector : dict or sequence of "KEY=VALUE", optional
        Labels of Ray that a machine must have to get workers, such as `{"ray.io/market-type": "spot"}`.

    Returns
    -------
    CFGen

    Raises
    ------
    BadInput
        A run directory that exists (without `resume`), another config or atlas than the run was started with, settings
        that do not fit the atlas or the number of workers.
    Interrupted
        By SIGTERM or Ctrl-C, with what is saved and what is lost.
    WorkerError
        A worker failed in a way that starting it again does not mend.
    """
    given = {"workers": workers, "cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    for name, value in (given | {"label_selector": label_selector}).items():
        if value is not None and ray is None:
            raise BadInput(f"`{name}` is {value}, but only `ray` has workers: expected `ray` auto, local or HOST:PORT")
    for name, value in (("cpus_per_worker", cpus_per_worker), ("gpus_per_worker", gpus_per_worker)):
        least = 0 if name == "gpus_per_worker" else 1
        if value is not None and value < least:
            raise BadInput(f"`{name}` is {value}, expected at least {least}")
    fewest, most = read_range(workers)
    labels = read_labels(label_selector)
    source = open_atlas(atlas)
    with open_folder(out) as folder:
        bundle = folder.place / "bundle"
        is_new = folder.begin()
        if is_new:
            config = copy.deepcopy(config) if config else load_config()
            settle(config, source, here=ray is None)
        else:
            config = _resumed_config(folder.path, config, source, resume, here=ray is None)
            if bundle.exists() if not bundle.is_remote else (bundle / CARD).is_file():
                log.info("%s is finished: nothing to do", folder.shown)
                return CFGen.load(str(bundle))
        _check_shares(config, source, most)
        if ray is None:
            if is_new:
                _begin_run(folder, config, source)
            keep_freed_memory()
            with saved_at_signals(folder.shown):
                run_stages(source, folder, config)
        else:
            shares = (cpus_per_worker, gpus_per_worker, config.accelerator)
            with connect_workers(ray, (fewest, most), *shares, labels) as each:
                if is_new:
                    _begin_run(folder, config, source)
                address = str(atlas) if is_remote(atlas) else str(on_disk(atlas).absolute())
                with folder.watching(*PROGRESS):
                    known = source.contents, source.identity
                    train_on_ray(address, known, folder, config, (fewest, most), each, labels)
    return CFGen.load(str(bundle))


def _begin_run(folder: RunFolder, config: Config, atlas: Atlas) -> None:
    out = folder.path
    out.mkdir(parents=True, exist_ok=True)
    config_digest = _digest(to_dict(config))
    facts = identity(atlas) | {"contents": atlas.contents, "id": atlas.identity, "config": config_digest}
    write_whole(out / "atlas.json", lambda file: file.write(json.dumps(sealed(facts)).encode()))
    save_config(config, out / "config.yaml")  # last: with it the run exists
    folder.put("atlas.json", "config.yaml")


def _check_shares(config: Config, atlas: Atlas, workers: int) -> None:
    sizes = {"autoencoder.batch_size": config.autoencoder.batch_size, "flow.batch_size": config.flow.batch_size}
    sizes |= {f"the number of {split} cells": len(atlas.rows(split=split)) for split in ("train", "val")}
    n = sizes["the number of train cells"]
    sizes |= {
        f"a step of {n} train cells in batches of {size}": n // -(-n // size)
        for size in (config.autoencoder.batch_size, config.flow.batch_size)
    }
    check_workers(workers, sizes)


def _resumed_config(out: Path, config: Config | None, atlas: Atlas, resume: bool, here: bool) -> Config:
    """The run's own config, if the request agrees with it."""
    if not resume:
        raise BadInput(f"{out} holds a run already: `resume=True` continues it, or give another directory")
    saved, trained_on = read_run(out)
    told = which(atlas.identity, trained_on["id"])
    way = f": {told}" if told else ""
    if trained_on["fingerprint"] != identity(atlas)["fingerprint"]:
        raise BadInput(f"{out} was trained on {trained_on['path']}, whose cells differ from those of {atlas.name}{way}")
    if None not in (atlas.contents, trained_on["contents"]) and atlas.contents != trained_on["contents"]:
        raise BadInput(
            f"{out} was trained on {trained_on['path']}, whose counts or columns differ from {atlas.name}{way}"
        )
    if None not in (atlas.identity, trained_on["id"]) and atlas.identity != trained_on["id"]:
        log.info("%s is another store than the run was started on, made anew with the same contents", atlas.name)
    atlas.check_files()
    if config is not None:
        config = copy.deepcopy(config)
        if config.precision == "auto":  # another processor may choose otherwise
            config.precision = saved.precision
        settle(config, atlas, here)
        asked, kept = _flat(to_dict(config)), _flat(to_dict(saved))
        for key, value in asked.items():
            if key not in MAY_CHANGE and kept[key] != value:
                raise BadInput(f"{out} was started with {key} = {kept[key]}, not {value}: resume it without changes")
        for key in MAY_CHANGE:
            setattr(saved, key, getattr(config, key))
    return saved


def read_run(out: Path) -> tuple[Config, dict[str, Any]]:
    """The config of a run, with every key that `settle` fills in, and what it was trained on."""
    saved = load_config(out / "config.yaml")
    if saved.labels is None or saved.flow.max_steps is None or saved.size_factor.covariate == "auto":
        raise BadInput(f"{out}/config.yaml is damaged: keys are missing; give another directory")
    try:
        trained_on = read_json(out / "atlas.json", TrainedOn)
        trained_on = {"contents": None, "id": None, "config": None} | unsealed(trained_on, "it", "restore it")
    except FileNotFoundError:
        raise BadInput(f"{out}/atlas.json is missing; give another directory") from None
    except BadInput as error:
        raise BadInput(f"{out}/atlas.json is damaged ({error}); give another directory") from error
    # of the keys that are there: a run of an older version was started without the others
    if trained_on["config"] not in (None, _digest(saved.model_dump(exclude_unset=True))):
        raise BadInput(
            f"{out}/config.yaml was changed after the run was started; restore it, or give another directory"
        )
    return saved, trained_on


def _digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings, however they are written down."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
