"""The folder `OUT.parts` of work under way: parts committed one by one, and a note of whose they are."""

import json
from pathlib import Path

from data_loaders.errors import BadInput
from data_loaders.files import write_whole


def open_parts(out, note, resume, what="generation", same="plan"):
    """Make the folder of the parts with its note, or check that the one there is of the same work.

    Parameters
    ----------
    out : path-like
        What will be made; the folder is beside it.
    note : dict
        JSON that tells works apart.
    resume : bool
    what, same : str
        For messages: what is made, and what must be the same.

    Returns
    -------
    Path
        Absolute.

    Raises
    ------
    BadInput
        There is such a folder and `resume` was not asked for, or it has another note.
    """
    out = Path(out).absolute()
    parts = out.with_name(out.name + ".parts")
    file = parts / "note.json"
    if not out.parent.is_dir():
        raise BadInput(f"{out}: its folder {out.parent} does not exist")
    if parts.exists() and not resume:
        raise BadInput(f"{parts} holds an interrupted {what}: --resume finishes it, or remove that folder")
    if file.exists():
        if file.read_text() != json.dumps(note):
            raise BadInput(f"{parts} holds shards of another {same}: give the same arguments, or remove that folder")
        return parts
    parts.mkdir(exist_ok=True)
    write_whole(file, lambda target: target.write(json.dumps(note).encode()))
    return parts
