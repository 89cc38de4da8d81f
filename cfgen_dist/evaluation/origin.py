"""What a generated store says of where its cells come from: the plan and the model, in `uns["generation"]`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
from anndata.io import read_elem
from pydantic import Field

from data_loaders.errors import BadInput
from data_loaders.reading.atlas import Atlas
from data_loaders.reading.checked import open_checked
from data_loaders.records import Record, parse_json
from data_loaders.storage import is_remote


class Generated(Record):
    """The form of `uns["generation"]`."""

    plan: dict[str, Any]
    labels: dict[str, list[str]] = Field(default={})
    model: dict[str, Any] = Field(default={})
    sha256: str = ""


def generation_of(atlas: Atlas) -> dict[str, Any] | None:
    """What `generate` noted in a store: the plan and the model's provenance; None in any other."""
    name, path = atlas.name, Path(atlas.name)
    if is_remote(name):
        text = atlas.uns("generation")
        return None if text is None else parse_generation(str(text), name, atlas.card is not None)
    if not path.exists():  # several stores as one
        return None
    with ExitStack() as stack:
        root = open_checked(path)[0] if path.is_dir() else stack.enter_context(h5py.File(path, "r"))
        if "uns/generation" not in root:
            return None
        return parse_generation(str(read_elem(root["uns/generation"])), name, "uns/atlas_card" in root)


def parse_generation(text: str, name: str, ours: bool) -> dict[str, Any] | None:
    """`uns["generation"]` of a store; None of one that this project did not write and that is something else."""
    try:
        note: dict[str, Any] = parse_json(text, Generated, f"{name}: uns/generation")
        return note
    except BadInput:
        if ours:
            raise
        return None
