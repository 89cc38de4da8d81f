"""What evaluations and audits share from beginning to end: the folder of their parts, and a result that is there."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cfgen_dist.workers.parts import open_parts
from data_loaders.errors import BadInput
from data_loaders.records import Record, read_json
from data_loaders.storage import Place, place
from data_loaders.storage.opened import NoAnswer
from data_loaders.types import PathLike
from data_loaders.vouchers import unsealed


@contextmanager
def parts_of(out: PathLike | None, settings: Mapping[str, Any], resume: bool, what: str) -> Iterator[Place]:
    """The folder for parts: beside the output and kept when interrupted, or a temporary one without an output.

    `what` is made there, for messages: an evaluation, an audit.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix=f"cfgen-{what}-") as temporary:
            yield place(temporary)
        return
    folder = open_parts(out, settings, resume, what, f"{what}, or of other cells")
    try:
        yield folder
    except NoAnswer:
        raise
    except BadInput:  # what was read cannot be used: there is nothing to finish
        folder.remove_tree()
        raise
    folder.remove_tree()


def finished_result(
    out: PathLike | None, name: str, form: type[Record], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The result in the file `name` of `out` if it is of these settings, else None."""
    if out is None:
        return None
    try:
        path = place(out) / name
        result: dict[str, Any] = unsealed(read_json(str(path), form), path.shown)
        return result if result["settings"] == settings else None
    except NoAnswer:
        raise
    except (OSError, BadInput):
        return None
