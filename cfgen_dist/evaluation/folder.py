"""The folder of a report, on a disk or in a bucket: filled on a disk, then put into its place whole.

On a disk it is renamed. A bucket has no rename: there the files go up one after another, and the record, which says
that all is there, goes up last. Whoever dies before leaves a folder without a record, which the next one writes over.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_loaders.errors import BadInput
from data_loaders.files import (
    begin_output,
    finish_output,
    refuse_existing,
    replace_output,
    restore_replaced,
    temporary_folder,
)
from data_loaders.storage import Place, place
from data_loaders.types import PathLike


class Contents(NamedTuple):
    """What a report is made of.

    Attributes
    ----------
    record : str
        The file, JSON, that says that the report is whole.
    others : collection of str
        Names that its other files may have.
    what : str
        For messages: the command's name for it.
    """

    record: str
    others: Collection[str]
    what: str


def check_new(out: PathLike, contents: Contents) -> None:
    """Refuse a folder that exists; in a bucket not what a killed command left of one, which has no record.

    Raises
    ------
    BadInput
    """
    target = place(out)
    if not target.is_remote:
        refuse_existing(str(target))
        return
    _refuse_foreign(target, contents, "expected an address where nothing is")
    if (target / contents.record).is_file():
        raise BadInput(f"{target.shown}: exists already; expected an address where nothing is")


def check_output(out: PathLike, contents: Contents) -> None:
    """Refuse a folder that holds anything but an earlier report of the same kind.

    Raises
    ------
    BadInput
    """
    target, what = place(out), contents.what
    if not target.is_remote:
        path = Path(str(target))
        if not path.absolute().parent.is_dir():
            raise BadInput(f"{out}: its folder {path.absolute().parent} does not exist; make it first")
        restore_replaced(path)
    if target.is_file():
        raise BadInput(f"{target.shown}: a file; expected a folder, new or of an earlier {what}")
    _refuse_foreign(target, contents, f"expected a new folder, or that of an earlier {what} to replace")


def _refuse_foreign(target: Place, contents: Contents, expected: str) -> None:
    foreign = sorted(set(target.names()) - {contents.record, *contents.others})
    if foreign:
        raise BadInput(f"{target.shown}: holds {foreign[0]!r}; {expected}")


@contextmanager
def new_folder(out: PathLike, contents: Contents) -> Iterator[Path]:
    """With this: an empty folder on a disk; what is in it at the end is put at `out`, where nothing may be."""
    target = place(out)
    if target.is_remote:
        with tempfile.TemporaryDirectory(prefix="cfgen-report-") as folder:
            yield Path(folder)
            check_new(out, contents)
            _upload(Path(folder), target, contents)
        return
    built = begin_output(str(target))
    try:
        yield built
        finish_output(built, str(target))
    except BaseException:
        shutil.rmtree(built, ignore_errors=True)
        raise


@contextmanager
def replaced_folder(out: PathLike, contents: Contents) -> Iterator[Path]:
    """As `new_folder`, but an earlier report is replaced: on a disk it stays until the new one stands."""
    target = place(out)
    if target.is_remote:
        with tempfile.TemporaryDirectory(prefix="cfgen-report-") as folder:
            yield Path(folder)
            check_output(out, contents)
            _upload(Path(folder), target, contents)
        return
    with temporary_folder(str(target)) as folder:
        built = folder / "new"
        built.mkdir()
        yield built
        check_output(out, contents)
        replace_output(built, str(target))


def _upload(folder: Path, target: Place, contents: Contents) -> None:
    """Put the files of a report into a bucket, the record last; what there was before goes first, its record ahead."""
    for name in (contents.record, *contents.others):
        (target / name).remove()
    for file in sorted(folder.iterdir()):
        if file.name != contents.record:
            (target / file.name).upload(file)
    if not (target / contents.record).write_new((folder / contents.record).read_bytes()):
        raise BadInput(f"{target.shown}: another command has put {contents.record} there just now; try again")
