"""Several modalities of the same cells: which source holds which, and which row of it is which cell.

The sources of `rna` make the table of cells. Source i of another modality has the cells of source i of `rna`, matched
by name, so that barcodes may repeat between sources.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_loaders.errors import BadInput, nearest
from data_loaders.sources.mudata import h5mu_modalities
from data_loaders.sources.source import Source
from data_loaders.types import Bools, Ints, PathLike

MAIN = "rna"
CELLS = ("same", "shared", "rna")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
TAKEN = ("latent", "X_pca", "X_umap")

Paths = PathLike | Sequence[PathLike]  # one or many


class Matched(NamedTuple):
    """Which cell each row of a modality is.

    Attributes
    ----------
    rows_of : list of int64 arrays
        Cell of each row of each source, -1 for rows whose cell is not in rna.
    measured : bool (n_cells,)
        Which cells have the modality.
    notes : list of str
    """

    rows_of: list[Ints]
    measured: Bools
    notes: list[str]


def sources_by_modality(sources: Paths | Mapping[str, Paths]) -> dict[str, list[PathLike]]:
    """The paths of every modality.

    Parameters
    ----------
    sources : path, list of paths, or dict of str to either
        A dict names the modalities. An h5mu file stands for all its modalities, `FILE.h5mu:NAME` for one of them.

    Returns
    -------
    dict of str to list of paths
        `rna` first.

    Raises
    ------
    BadInput
        No modality is called rna, their numbers of sources differ, or h5mu files stand beside others.
    """
    if isinstance(sources, Mapping):
        named = {str(name): _listed(paths) for name, paths in sources.items()}
    else:
        paths = _listed(sources)
        whole = [path for path in paths if str(path).endswith(".h5mu")]
        if not whole:
            return {MAIN: paths}
        if len(whole) < len(paths):
            other = next(path for path in paths if path not in whole)
            raise BadInput(f"{other}: beside h5mu files; expected h5mu files only, or every source by name, rna=PATH")
        contents = {str(path): h5mu_modalities(path) for path in whole}
        if len(contents) < len(whole):
            twice = next(path for path in contents if list(map(str, whole)).count(path) > 1)
            raise BadInput(f"{twice}: given more than once; expected each source once")
        names = next(iter(contents.values()))
        for path, found in contents.items():
            if set(found) != set(names):
                raise BadInput(f"{path}: modalities {', '.join(found)}; {whole[0]} has {', '.join(names)}")
        named = {name: [f"{path}:{name}" for path in contents] for name in names}
    if MAIN not in named:
        raise BadInput(
            f"modalities {', '.join(named)}: none is called {MAIN!r}, the one that size factors and labels come from; "
            f"name its source, {MAIN}=PATH (FILE.h5mu:NAME for one modality of a file)"
        )
    for name, paths in named.items():
        if not NAME.fullmatch(name) or name in TAKEN:
            raise BadInput(f"modality {name!r}: expected letters, digits, '-' and '_', not {', '.join(TAKEN)}")
        if len(paths) != len(named[MAIN]):
            raise BadInput(
                f"modality {name!r} has {len(paths)} sources, {MAIN!r} {len(named[MAIN])}; expected as many, in the "
                "same order"
            )
    return {MAIN: named.pop(MAIN)} | named


def listed_paths(sources: Paths | Mapping[str, Paths]) -> list[PathLike] | dict[str, list[PathLike]]:
    """Sources as lists: one of paths, or one for each modality."""
    if isinstance(sources, Mapping):
        return {str(name): _listed(paths) for name, paths in sources.items()}
    return _listed(sources)


def _listed(paths: Paths) -> list[PathLike]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def match_cells(name: str, sources: Sequence[Source], firsts: Sequence[Source], cells: str) -> Matched:
    """Which cell each row of a modality is.

    Parameters
    ----------
    name : str
        Of the modality.
    sources, firsts : list of sources.Source
        Of this modality and of `rna`.
    cells : str
        `same`: both must have the same cells. `shared`: cells that one lacks are left out. `rna`: cells of rna that
        this modality lacks are kept, without counts in it.

    Returns
    -------
    Matched

    Raises
    ------
    BadInput
        Cells differ and `cells` is "same", no cell is shared, or `cells` is none of these.
    """
    if cells not in CELLS:
        raise BadInput(f"`cells={cells!r}`: {nearest(cells, CELLS)}")
    rows_of, notes, offset = [], [], 0
    measured = np.zeros(sum(len(first.obs) for first in firsts), bool)
    for source, first in zip(sources, firsts, strict=True):
        row_of = first.obs.index.get_indexer(source.obs.index)
        n_shared = int((row_of >= 0).sum())
        extra = int(
            (row_of < 0).sum() - source.obs.index.isin(first.cells_left_out).sum()
        )  # but those that rna left out
        lacking = len(first.obs) - n_shared
        if n_shared == 0:
            raise BadInput(
                f"{source.path}: none of its cells is in {first.path}: it has {str(source.obs.index[0])!r}, the other "
                f"{str(first.obs.index[0])!r}; expected the same names"
            )
        if lacking or extra:
            found = f"{source.path}: lacks {lacking:,} of the {len(first.obs):,} cells of {first.path}"
            found += f" and has {extra:,} others"
            if cells == "same":
                raise BadInput(
                    f"{found}; expected the same cells; `cells='shared'` keeps those that both have, "
                    f"`cells='rna'` also those without {name}"
                )
            notes.append(f"{found}; {'all cells of rna' if cells == MAIN else 'the shared cells'} are kept")
        row_of = np.where(row_of >= 0, row_of + offset, -1)
        measured[row_of[row_of >= 0]] = True
        rows_of.append(row_of)
        offset += len(first.obs)
    return Matched(rows_of, measured, notes)
