"""Checkpoints in a bucket: put there by a thread, taken up by the next process.

A save of a stage is its state at one moment between two steps: `last.ckpt`, `best.ckpt` and the metrics. It is made on
a disk, set aside by links, which takes milliseconds, and goes up while the training goes on. Its files become objects
`STAGE/saved/SHA256`, whose names say what must be in them, and one that is there already is not put again. Only when
all of them are there the record `STAGE/saved.json` names them, by a conditional put. So whoever dies, whenever: the
record names a whole save. It also names the one before, so the last two are kept; what it does not name is removed.

While a save goes up the training may make another, and then another in its place: training never waits for a slow
bucket, which then gets fewer of them.
"""

import json
import logging
import os
import shutil
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from data_loaders.errors import BadInput
from data_loaders.records import Record, Sha256, Whole, check_form, one_line, plain_json
from data_loaders.storage.bucket import BucketPlace
from data_loaders.vouchers import SUFFIX, sealed, sha256_of, unsealed, vouch

log = logging.getLogger("cfgen_dist")
SAVED, POINTER, STAGING = "saved", "saved.json", ".going-up"
TENSORBOARD = "tensorboard"


class SavedFile(Record):
    """A file of a save: its object, and the bytes of it."""

    sha256: Sha256
    bytes: Whole


class Save(Record):
    """A save: steps done, and its files by their names."""

    step: Whole
    files: dict[str, SavedFile]


class Saves(Record):
    """The form of `saved.json`: the last save first, then the one before."""

    saves: Annotated[list[Save], Field(min_length=1, max_length=2)]
    checksum: Sha256 | None = None


@dataclass(frozen=True)
class _Going:
    """A save that has been set aside."""

    stage: str
    step: int
    folder: Path


class Saver:
    """Puts saves into a bucket, one after the other, in a thread.

    Parameters
    ----------
    root : Path
        The run's folder on a disk.
    remote : BucketPlace
        Where the run is.
    """

    def __init__(self, root: Path, remote: BucketPlace) -> None:
        self.root, self.remote = root, remote
        self._numbers = count()
        self._waiting: list[_Going] = []
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._versions: dict[str, str] = {}
        self._saves: dict[str, list[dict[str, Any]]] = {}
        self._lost: str | None = None  # why: to another command
        self._failed: str | None = None  # why the last save is not there

    def take(self, directory: Path, step: int) -> None:
        """Set the state of a stage aside, to be put into the bucket.

        Parameters
        ----------
        directory : Path
            Of the stage, in the run's folder.
        step : int
            Optimiser steps done.

        Raises
        ------
        BadInput
            Another command has saved to the same run.
        """
        if self._lost is not None:
            raise BadInput(self._lost)
        stage = directory.relative_to(self.root).as_posix()
        going = _Going(stage, step, self.root / STAGING / str(next(self._numbers)))
        for file in _files(directory):
            target = going.folder / file.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".ckpt":
                os.link(file, target)  # replaced by a rename, never written to
            else:
                shutil.copyfile(file, target)
        with self._changed:
            for older in [each for each in self._waiting if each.stage == stage]:
                self._waiting.remove(older)
                shutil.rmtree(older.folder, ignore_errors=True)
                log.info("%s: step %d was not put into the bucket in time; step %d is next", stage, older.step, step)
            self._waiting.append(going)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def settle(self) -> None:
        """Wait until all that was taken is in the bucket, or has failed to get there."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)

    def wait(self) -> None:
        """Wait until all that was taken is in the bucket.

        Raises
        ------
        BadInput
            The last save is not there: the bucket does not answer, or another command has saved to the same run.
        """
        self.settle()
        if self._lost or self._failed:
            raise BadInput(str(self._lost or self._failed))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                going, self._busy = self._waiting.pop(0), True
            try:
                kept = self._put(going)
                self._failed = None
                self._clean(going.stage, kept)
            except _Lost as error:
                self._lost = str(error)
                log.error(self._lost)
            except Exception as error:  # the next save is tried, whatever it was
                self._failed = f"{going.stage}: the save of step {going.step} is not in the bucket ({one_line(error)})"
                log.warning(self._failed)
            finally:
                shutil.rmtree(going.folder, ignore_errors=True)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _clean(self, stage: str, kept: set[str]) -> None:
        """Remove what the record no longer names; what cannot be removed now goes with the next save."""
        folder = self.remote / stage / SAVED
        try:
            for name in folder.names():
                if name not in kept:
                    (folder / name).remove()
        except BadInput as error:
            log.debug("%s", error)

    def _put(self, going: _Going) -> set[str]:
        """Put a save into the bucket, its files and then the record; returns the objects that are named there."""
        stage = self.remote / going.stage
        before = self._before(going.stage, stage)
        there = {facts["sha256"] for save in before for facts in save["files"].values()}
        files: dict[str, Any] = {}
        for file in sorted(path for path in going.folder.rglob("*") if path.is_file()):
            digest = sha256_of(file)
            files[file.relative_to(going.folder).as_posix()] = {"sha256": digest, "bytes": file.stat().st_size}
            if digest not in there:
                (stage / SAVED / digest).upload(file)
                there.add(digest)
        saves = [{"step": going.step, "files": files}, *before[:1]]
        record = stage / POINTER
        version = record.put(json.dumps(sealed({"saves": saves})).encode(), self._versions.get(going.stage) or "create")
        if version is None:
            raise _Lost(f"{record.shown}: another command has saved there meanwhile; end one of the two")
        self._versions[going.stage], self._saves[going.stage] = version, saves
        return {facts["sha256"] for save in saves for facts in save["files"].values()}

    def _before(self, name: str, stage: BucketPlace) -> list[dict[str, Any]]:
        """The saves that are there; looked up once."""
        if name not in self._saves:
            found = (stage / POINTER).read_versioned()
            if found is not None:
                self._versions[name] = found.version
            self._saves[name] = [] if found is None else read_saves(found.content, (stage / POINTER).shown)
        return self._saves[name]


class _Lost(Exception):
    """The record is another command's."""


def restore(stage: BucketPlace, directory: Path) -> int | None:
    """Copy the last whole save of a stage to a folder on a disk.

    Parameters
    ----------
    stage : BucketPlace
    directory : Path
        Made if need be.

    Returns
    -------
    int or None
        Steps done; None where nothing is saved.

    Raises
    ------
    BadInput
        The record is damaged, or no save that it names is whole.
    """
    record = stage / POINTER
    try:
        saves = read_saves(record.read(), record.shown)
    except FileNotFoundError:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    for save in saves:
        fault = _copy(save, stage, directory)
        if fault is None:
            return int(save["step"])
        log.warning("%s: the save of step %d is damaged (%s)", stage.shown, save["step"], fault)
    raise BadInput(f"{record.shown}: no save that it names is whole; without that object the stage starts again")


def _copy(save: dict[str, Any], stage: BucketPlace, directory: Path) -> str | None:
    """Copy the files of a save, and say what is wrong with them."""
    for name, facts in save["files"].items():
        target, digest = directory / name, facts["sha256"]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (stage / SAVED / digest).download(target)
        except FileNotFoundError:
            return f"{name} is missing"
        if sha256_of(target) != digest:
            return f"the SHA-256 of {name} is not its own"
        if target.suffix == ".ckpt":
            vouch(target)
    return None


def read_saves(content: bytes, name: str) -> list[dict[str, Any]]:
    """The saves that a record names."""
    way_on = "without that object the stage starts again"
    try:
        values = unsealed(plain_json(content, name), name, way_on)
        check_form(values, Saves, name)
    except BadInput as error:
        raise BadInput(f"{error}" if way_on in str(error) else f"{error}; {way_on}") from None
    for save in values["saves"]:
        for path in save["files"]:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise BadInput(f"{name}: {path!r} is no name of a file; {way_on}")
    saves: list[dict[str, Any]] = values["saves"]
    return saves


def _files(directory: Path) -> list[Path]:
    """What of a stage belongs to a save."""
    files = [file for file in directory.iterdir() if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if file.suffix != SUFFIX and file.name != "weights.safetensors"]
    return sorted(files + [file for file in (directory / TENSORBOARD).rglob("*") if file.is_file()])
