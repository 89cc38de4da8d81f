"""Every file of a store, a run or a bundle, and how it is known to be what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import zarr

from cfgen_dist.bundle import files_of, read_card
from cfgen_dist.training.run import read_run
from cfgen_dist.training.saves import POINTER, SAVED, read_saves
from data_loaders.card import LATENTS
from data_loaders.errors import BadInput, readable
from data_loaders.manifest import ELEMENT
from data_loaders.reading.atlas import Atlas, open_atlas
from data_loaders.reading.checked import open_checked
from data_loaders.records import Record, read_json
from data_loaders.storage import Place, place
from data_loaders.storage.address import on_disk
from data_loaders.vouchers import SUFFIX, is_vouched, sha256_of, unsealed
from data_loaders.zarr_groups import open_group

ROWS = 4096  # read at once
VOUCHED = ("weights.safetensors", "last.ckpt", "best.ckpt", "metrics.csv")


@dataclass(frozen=True)
class Check:
    """One file.

    Attributes
    ----------
    name : str
    size : int
        Bytes.
    fault : callable () -> str or None
        Says what is wrong with it.
    is_checked : bool
        Whether there is a checksum to compare with.
    """

    name: str
    size: int
    fault: Callable[[], str | None]
    is_checked: bool = True


def kind_of(path: Place) -> str:
    """What is at a path or address: atlas, generated atlas, latents, store (of another program), run, or bundle.

    Raises
    ------
    BadInput
        Nothing of these.
    """
    if (path / "config.yaml").is_file() or (path / "atlas.json").is_file():
        return "run"
    if (path / "card.json").is_file():
        return "bundle"
    if not path.is_folder():
        found = "a file" if path.is_file() else "nothing"
        raise BadInput(
            f"{path.shown}: {found} there; expected the folder of an atlas, a store of latents, a run or a bundle"
        )
    root = _root(path)
    if root.attrs.get("content") == LATENTS:
        return "latents"
    if (path / "uns" / "generation").exists():
        return "generated atlas"
    return "atlas" if (path / "uns" / "atlas_card").exists() else "store"


def checks_of(path: Place, kind: str) -> Iterator[Check]:
    """All checks of what is at a path; of an address, a store alone."""
    if kind == "run":
        yield from _run(on_disk(str(path)))
    elif kind == "bundle":
        yield from _bundle(on_disk(str(path)))
    else:
        yield from _store(path)
        plan = path.beside(path.name + ".plan.json")
        if kind == "generated atlas" and plan.is_file():
            yield Check(plan.shown, plan.size(), partial(_plan_fault, plan))


def _plan_fault(plan: Place) -> str | None:
    with plan.local() as file:
        fault = _json_fault(file)
        return None if fault is None else fault.replace(str(file), plan.shown)


def _root(path: Place) -> zarr.Group:
    with readable(path.shown):
        root = open_group(path.zarr_store() if path.is_remote else str(path))
    if not isinstance(root, zarr.Group):
        raise BadInput(f"{path.shown}: a single Zarr array; expected an atlas, a store of latents, a run or a bundle")
    return root


def _store(path: Place) -> Iterator[Check]:
    """Every file of a store; of one without manifest its arrays, read once."""
    _, manifest, is_believed = open_checked(str(path))
    if not is_believed:
        raise BadInput(
            f"{path.shown}: written anew by another program, so its checksums are not of these files; "
            "`ingest()` makes an atlas of it"
        )
    sizes = path.sizes()
    if manifest is None:
        yield Check(path.shown, sum(sizes.values()), partial(_unread, str(path)), is_checked=False)
        return
    for key, facts in manifest.files.items():
        yield Check(f"{path.shown}/{key}", facts[0], partial(manifest.fault, path, key))
    known = {*manifest.files, f"uns/{ELEMENT}/c"}
    for key, size in sizes.items():
        if key not in known and not key.rpartition("/")[2].startswith("."):
            yield Check(f"{path.shown}/{key}", size, partial(str, f"{key} does not belong to the store"))


def _unread(path: str) -> str | None:
    """What is wrong with a store without manifest: its arrays are read, which compares what checksums they have."""
    try:
        atlas = open_atlas(path)
        for name in atlas.obs_columns:
            atlas.obs(name)
        for name in atlas.modalities:
            _read_all(atlas, name)
        _ = atlas.var, atlas.card
    except BadInput as error:
        return str(error)
    return None


def _read_all(atlas: Atlas, modality: str) -> None:
    for start in range(0, atlas.n_cells, ROWS):
        atlas.read(np.arange(start, min(start + ROWS, atlas.n_cells)), modality)


def _bundle(path: Path) -> Iterator[Check]:
    card = read_card(path)
    for name in files_of(card):
        yield _check(path / name, partial(_wrong_sha256, card["sha256"].get(name)))
    yield _check(path / "card.json", lambda file: None)  # read_card has compared it


def _wrong_sha256(expected: str, file: Path) -> str | None:
    if not file.is_file():
        return f"{file} is missing"
    return None if sha256_of(file) == expected else f"{file} is damaged, its SHA-256 is not the one in card.json"


def _run(path: Path) -> Iterator[Check]:
    """What a run needs to go on, and its model."""
    saved = [path / name for name in ("config.yaml", "atlas.json") if (path / name).is_file()]
    _, trained_on = read_run(path)
    for file in saved:
        is_checked = trained_on["config"] is not None
        yield Check(str(file), file.stat().st_size, lambda: None, is_checked)  # read_run has compared them
    for file in sorted(file for file in path.rglob("*") if file.name in VOUCHED and file.is_file()):
        has_sum = file.with_name(file.name + SUFFIX).is_file()
        if has_sum or file.name != "metrics.csv":  # that of a stage under way still grows
            yield Check(str(file), file.stat().st_size, partial(_unvouched, file), has_sum)
    for record in sorted(path.rglob(POINTER)):  # of a run in a bucket: checkpoints
        for save in read_saves(record.read_bytes(), str(record)):
            for facts in save["files"].values():
                file = record.parent / SAVED / facts["sha256"]
                yield Check(str(file), facts["bytes"], partial(_misnamed, file))
    for file in sorted(path.glob("latents.zarr.parts/*.json")):
        yield _check(file, _part_fault)
    if (path / "latents.zarr").is_dir():
        yield from _store(place(path / "latents.zarr"))
    if (path / "bundle").is_dir():
        yield from _bundle(path / "bundle")


def _misnamed(file: Path) -> str | None:
    """What is wrong with a file of a checkpoint, whose name is its checksum."""
    if not file.is_file():
        return f"{file} is missing"
    return None if sha256_of(file) == file.name else f"{file} is damaged, its SHA-256 is not its name"


def _unvouched(file: Path) -> str | None:
    return None if is_vouched(file) else f"{file} is damaged, its SHA-256 is not the one in {file.name}{SUFFIX}"


def _part_fault(file: Path) -> str | None:
    """What is wrong with a part of the latents, its record and its arrays."""
    fault = _json_fault(file)
    if fault is None:
        arrays = file.with_suffix(".npz")
        record = read_json(file, Record, any_number=True)
        if not arrays.is_file() or sha256_of(arrays) != record.get("file_sha256"):
            return f"{arrays} is damaged or missing, its SHA-256 is not the one in {file.name}"
    return fault


def _json_fault(file: Path) -> str | None:
    try:
        unsealed(read_json(file, Record, any_number=True), str(file))
    except BadInput as error:
        return str(error)
    return None


def _check(file: Path, fault: Callable[[Path], str | None]) -> Check:
    return Check(str(file), file.stat().st_size if file.is_file() else 0, partial(fault, file))
