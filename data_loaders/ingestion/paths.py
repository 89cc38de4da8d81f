"""Which sources the paths that a user gives stand for: a glob, a folder, a list file and a run's `outs` are several."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_loaders.errors import BadInput, readable
from data_loaders.ingestion.copies import remote_sources
from data_loaders.sources import parquet, tenx_files
from data_loaders.sources.open import is_source
from data_loaders.storage import is_remote, local_copy, place, shown
from data_loaders.types import PathLike

LISTS = (".txt", ".list", ".lst")
SOURCES = (".h5ad", ".h5mu", ".h5", ".zarr", *parquet.ENDINGS)  # endings of what is taken out of a folder
NAMED = re.compile(r"\.(h5ad|h5mu|h5|zarr|parquet|mtx(\.gz)?)(:[\w.-]+)?$")  # how a path of a list ends
START = 1 << 14  # bytes looked at to tell a list from a table


def expand(
    paths: Mapping[str, Sequence[PathLike]] | Sequence[PathLike], notes: list[str]
) -> dict[str, list[PathLike]] | list[PathLike]:
    """The paths of all sources, for each modality where they are named.

    Parameters
    ----------
    paths : list of paths, or dict of str to list of paths
        A path that is a source stands for itself. A glob stands for the paths that match; a folder of sources for
        those in it, sorted by name; a folder of 10x files with prefixes for its samples; the folder of a run of Cell
        Ranger for its matrix of called cells; a text file of paths, one a line, for these, from its own folder. Of
        addresses too, of runs of Cell Ranger and 10x files with prefixes apart.
    notes : list of str
        What was found is added.

    Raises
    ------
    BadInput
        Nothing matches, a folder holds sources of several kinds, or a list is empty.
    """
    if isinstance(paths, Mapping):
        return {name: list(_all(part, notes)) for name, part in paths.items()}
    return list(_all(paths, notes))


def _all(paths: Sequence[PathLike], notes: list[str]) -> Iterator[PathLike]:
    for path in paths:
        found = _of(str(path), notes)
        yield from [path] if found is None else found


def _of(text: str, notes: list[str]) -> list[str] | None:
    """The sources that a path stands for; None for itself."""
    where = Path(text)
    if is_remote(text):
        return _of_list(text, notes) if where.suffix in LISTS else remote_sources(text, notes)
    if _exists(text) and where.suffix == ".h5mu":
        return None
    if not where.exists():
        if parquet.recognises(text):  # parts are one source
            return None
        return _of_glob(text, notes) if glob.has_magic(text) else None
    if where.is_dir():
        return None if is_source(text) else _of_folder(where, notes)
    if where.suffix in LISTS:
        return _of_list(text, notes)
    return None


def _exists(text: str) -> bool:
    return os.path.exists(text)  # of any text: a line of a table is no name that a disk would take


def _of_glob(text: str, notes: list[str]) -> list[str]:
    """What matches a pattern, folders of runs and of samples taken apart."""
    found = sorted(glob.glob(text))
    if not found:
        raise BadInput(f"{text}: matches nothing; expected a file, a folder, or a pattern that matches some")
    notes.append(f"{text}: {len(found):,} paths match")
    sources: list[str] = []
    for path in found:
        inside = _of_folder(Path(path), notes) if Path(path).is_dir() and not is_source(path) else None
        sources += [path] if inside is None else inside
    return sources


def _of_folder(folder: Path, notes: list[str]) -> list[str] | None:
    """The sources in a folder; None where it has none."""
    with readable(folder):
        of_run = tenx_files.of_run(folder)
        if of_run:
            notes.append(f"{folder}: the folder of a run; its called cells were taken from {_shown(of_run)}")
            return of_run
        samples = [str(folder / name) for name in tenx_files.samples(folder) if name]
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    kinds: dict[str, list[str]] = {".mtx": samples} if samples else {}
    for entry in entries:
        if entry.suffix in parquet.ENDINGS and entry.is_file() and not parquet.holds_cells(entry):
            continue  # a table of labels
        if (entry.suffix.lower() in SOURCES and is_source(str(entry))) or entry.suffix == ".h5mu":
            kinds.setdefault(entry.suffix, []).append(str(entry))
        elif entry.is_dir() and is_source(str(entry)):
            kinds.setdefault("", []).append(str(entry))
    if len(kinds) > 1:
        parts = [f"{len(found):,} {_called(kind)}" for kind, found in kinds.items()]
        raise BadInput(
            f"{folder}: a folder with {', '.join(parts)}; expected sources of one kind, or their names; "
            f"quoted, a pattern chooses: '{folder}/*.h5ad'"
        )
    for kind, found in kinds.items():
        notes.append(f"{folder}: a folder of {len(found):,} {_called(kind)}: {_shown(found)}")
        return found
    return None


def _called(kind: str) -> str:
    return {".mtx": "10x samples", "": "folders with counts"}.get(kind, f"{kind} sources")


def _shown(paths: Sequence[str]) -> str:
    """Some paths, and how many more there are."""
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3:,} more" if len(paths) > 3 else "")


def _of_list(path: str, notes: list[str]) -> list[str] | None:
    """The paths that a text file lists; None if it is no list but a table."""
    name = shown(path)
    try:
        with local_copy(path) as file, readable(name), open(file, encoding="utf-8", errors="replace") as text:
            start = text.read(START)
            first = next((line.strip() for line in start.splitlines() if _is_path(line)), "")
            if not first:
                raise BadInput(f"{name}: no paths in it; expected one a line")
            if not _exists(_from(path, first)) and "://" not in first and not NAMED.search(first):
                return None
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if _is_path(line)]
    except FileNotFoundError:
        raise BadInput(f"{name}: no such file; expected a list of sources, or a table of counts") from None
    notes.append(f"{name}: a list of {len(lines):,} sources")
    return [_from(path, line) for line in lines]


def _is_path(line: str) -> bool:
    """Whether a line of a list is neither empty nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _from(file: str, line: str) -> str:
    """A path of a list: as it stands if it is absolute, an address, or there; else from the folder of the list."""
    if "://" in line or Path(line).is_absolute():
        return line
    if is_remote(file):
        return str(place(file).beside(line))
    beside = str(Path(file).parent / line)
    return beside if _exists(beside) else line
