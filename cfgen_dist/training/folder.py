"""The folder of a run, on a disk or in a bucket.

Torch, Lightning and safetensors write files on a disk. Of a run in a bucket every process therefore has a scratch
folder of its own, empty at its start and removed at its end: rank 0 copies into it what is in the bucket, and puts into
the bucket what it has finished. The bucket is all that a run is; no machine has anything that another one needs.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cfgen_dist.training.saves import POINTER, SAVED, TENSORBOARD, Saver, restore
from data_loaders.errors import BadInput, WorkFailed
from data_loaders.files import temporary_folder
from data_loaders.storage import Place, is_remote, place
from data_loaders.storage.address import on_disk
from data_loaders.storage.bucket import BucketPlace
from data_loaders.types import PathLike
from data_loaders.vouchers import SUFFIX

log = logging.getLogger("cfgen_dist")
WEIGHTS, METRICS = "weights.safetensors", "metrics.csv"  # of a stage
CONFIG, ATLAS = "config.yaml", "atlas.json"
STORE = ("latents.zarr", "latents.zarr.parts", "bundle")  # read where they are, not copied
PAUSE = 2.0  # seconds between two looks at what has grown
TRIES = 8  # to add to a file to which others add too


class RunFolder:
    """A run's folder, as one process sees it.

    Parameters
    ----------
    path : Path
        Where its files are on a disk.
    remote : BucketPlace or None
        Where the run is, if that is a bucket; `path` is a scratch folder then.

    Attributes
    ----------
    saver : Saver or None
        Puts checkpoints into the bucket.
    """

    def __init__(self, path: Path, remote: BucketPlace | None = None) -> None:
        self.path, self.remote = path, remote
        self.saver = None if remote is None else Saver(path, remote)
        self._known: dict[str, tuple[int, str]] = {}
        self._pulling = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RunFolder, (self.path, self.remote)  # Tune writes what suggests trials into its snapshots

    @property
    def place(self) -> Place:
        """Where the run is."""
        return self.remote or place(self.path)

    @property
    def shown(self) -> str:
        """For messages."""
        return self.place.shown

    def begin(self) -> bool:
        """Whether the run is new; of one that is not, its settings are copied from the bucket.

        Raises
        ------
        BadInput
            Something else is there.
        """
        if self.remote is None:
            is_new = not (self.path / CONFIG).exists()
            others = self.path.exists() and (
                not self.path.is_dir() or any(entry.name != ATLAS for entry in self.path.iterdir())
            )
        else:
            names = self.remote.names()
            is_new = CONFIG not in names
            others = bool(set(names) - {ATLAS}) or self.remote.is_file()
            for name in (CONFIG, ATLAS):
                if not is_new and name in names:
                    (self.remote / name).download(self.path / name)
        if is_new and others:
            raise BadInput(f"{self.shown} exists and is not a run: give a directory that does not exist")
        return is_new

    def put(self, *names: str) -> None:
        """Put files and folders into the bucket, in this order; on a disk they are where they belong."""
        for name in names:
            if self.remote is not None and (self.path / name).exists():
                (self.remote / name).upload(self.path / name)

    def address(self, path: Path) -> str:
        """The address of a file or folder of the run; on a disk its path."""
        return str(path) if self.remote is None else str(self.remote / path.relative_to(self.path).as_posix())

    def local(self, address: str) -> Path:
        """Where a file or folder is here that another process knows by its address."""
        return Path(address) if self.remote is None else self.path / address.removeprefix(f"{self.remote}/")

    def fetch(self, *names: str) -> None:
        """Copy files from the bucket; one that is not there is left out."""
        for name in names:
            if self.remote is not None:
                with suppress(FileNotFoundError):
                    (self.remote / name).download(self.path / name)

    def remove(self, *names: str) -> None:
        """Remove files and folders from the bucket."""
        for name in names:
            if self.remote is not None:
                (self.remote / name).remove_tree()

    def take_up(self, under: str = "") -> None:
        """Copy what an interrupted run needs from the bucket: settings, weights, metrics, and its checkpoints.

        Parameters
        ----------
        under : str
            A folder of the run: that alone.
        """
        if self.remote is None:
            return
        folder = self.remote / under if under else self.remote
        names = [f"{under}/{name}" if under else name for name in folder.files()]
        there = {name.rpartition("/")[0] for name in names if name.endswith(f"/{WEIGHTS}")}
        for name in names:
            if not _is_small(name) or name.endswith(f"/{POINTER}") or (self.path / name).exists():
                continue
            (self.remote / name).download(self.path / name)
        for name in names:
            stage, _, last = name.rpartition("/")
            if last == POINTER and not any(f"{stage}/".startswith(f"{done}/") for done in there):
                restore(self.remote / stage, self.path / stage)

    def finish_stage(self, stage: str) -> None:
        """Put the result of a stage into the bucket; its weights last, for with them it is finished."""
        if self.remote is None or self.saver is None:
            return
        self.saver.settle()  # a checkpoint that is not there is needed no more
        for name in (METRICS, METRICS + SUFFIX, TENSORBOARD, WEIGHTS + SUFFIX, WEIGHTS):
            self.put(f"{stage}/{name}")

    def append(self, name: str, text: str) -> None:
        """Add to a file, to which other processes may add too."""
        if self.remote is None:
            with open(self.path / name, "a") as file:
                file.write(text)
            return
        file_there = self.remote / name
        for _ in range(TRIES):
            found = file_there.read_versioned()
            if found is None:
                if file_there.write_new(text.encode()):
                    return
            elif file_there.replace(found.content + text.encode(), found.version):
                return

    def pull(self, *patterns: str) -> None:
        """Copy from the bucket what is new of the small files of these names, as `*/saved.json`."""
        if self.remote is None:
            return
        with self._pulling:
            for name, facts in self.remote.listing().items():
                if any(fnmatchcase(name, pattern) for pattern in patterns) and self._known.get(name) != facts:
                    with suppress(FileNotFoundError):
                        place(self.path / name).write((self.remote / name).read())
                        self._known[name] = facts

    @contextmanager
    def watching(self, *patterns: str) -> Iterator[None]:
        """With this, `pull` every few seconds: what the workers of a run tell their driver."""
        with self._every(lambda: self.pull(*patterns)):
            yield

    @contextmanager
    def putting(self, name: str) -> Iterator[None]:
        """With this, a file that grows is put into the bucket every few seconds."""
        size = -1

        def look() -> None:
            nonlocal size
            path = self.path / name
            if path.is_file() and path.stat().st_size != size:
                size = path.stat().st_size
                self.put(name)

        with self._every(look):
            yield

    @contextmanager
    def _every(self, look: Callable[[], None]) -> Iterator[None]:
        if self.remote is None:
            yield
            return
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(PAUSE):
                _quietly(look)
            _quietly(look)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def in_words(self, error: Exception) -> Exception:
        """An error of one line that names the bucket where it named the scratch folder."""
        if self.remote is None or str(self.path) not in str(error):
            return error
        return type(error)(str(error).replace(str(self.path), self.remote.shown))


@contextmanager
def open_folder(out: PathLike) -> Iterator[RunFolder]:
    """With this: the folder of a run at a path or an address.

    At the end what was saved is in the bucket, and the scratch folder is removed. Errors of one line that name it name
    the bucket instead.
    """
    if not is_remote(out):
        yield RunFolder(on_disk(out).absolute())
        return
    remote = BucketPlace.at(out)
    remote.check_writable()
    with temporary_folder(Path(tempfile.gettempdir()) / "cfgen-run") as scratch:  # those of killed processes go too
        folder = RunFolder(scratch, remote)
        try:
            yield folder
        except (BadInput, WorkFailed) as error:
            told = folder.in_words(error)
            if told is error:
                raise
            raise told from error
        finally:
            if folder.saver is not None:
                folder.saver.settle()


def _quietly(look: Callable[[], None]) -> None:
    """Look; a bucket that does not answer is asked again the next time."""
    try:
        look()
    except (BadInput, OSError) as error:
        log.debug("%s", error)


def _is_small(name: str) -> bool:
    """Whether an object is in none of the stores, and no file of a checkpoint."""
    steps = name.split("/")
    return steps[0] not in STORE and SAVED not in steps
