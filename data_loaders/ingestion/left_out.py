"""Which cells an atlas leaves out: cells without a label, those marked as copies, and those without counts."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.labels import as_label, check_unlabelled, doubtful
from data_loaders.sources.source import Source
from data_loaders.types import Bools, Floats

PRIMARY = "is_primary_data"  # CELLxGENE: False in a cell that another data set published first


def settle_cells(
    sources: Sequence[Source],
    tables: Sequence[pd.DataFrame],
    labels: Sequence[str],
    also: Sequence[str],
    unlabelled: str,
    drop_copies: bool,
) -> tuple[list[Bools], list[str], dict[str, int]]:
    """Decide which cells of each source stay, by obs.

    Parameters
    ----------
    sources, tables : list of sources.Source, list of pandas.DataFrame
        Each source with its obs, the columns of `labels` and `also` categorical.
    labels, also, unlabelled, drop_copies
        As `ingestion.cells.merge_obs` takes them.

    Returns
    -------
    list of bool (n_cells,), list of str, dict of str to int
        Cells that stay; notes; how many are left out, and why.

    Raises
    ------
    BadInput
        Cells lack a label and `unlabelled` is "refuse"; they lack one of `also`, and "keep"; or none is left.
    """
    check_unlabelled(unlabelled)
    wanted = list(dict.fromkeys([*labels, *also]))
    kept = [np.ones(len(table), bool) for table in tables]
    notes: list[str] = []
    dropped: dict[str, int] = {}
    for source, table, stays in zip(sources, tables, kept, strict=True):
        marked = ~_primary(table)
        n_marked = int(marked.sum())
        if n_marked:
            found = (
                f"{source.path}: {n_marked:,} of {len(table):,} cells are marked {PRIMARY} False: copies of cells of "
            )
            found += "other data sets"
            notes.append(found + (", left out" if drop_copies else "; `drop_copies=True` leaves them out"))
        if drop_copies:
            stays &= ~marked
            dropped["cells_marked_as_copies"] = dropped.get("cells_marked_as_copies", 0) + n_marked
    lacking = {name: [stays & (table[name].cat.codes < 0).to_numpy() for table, stays in zip(tables, kept, strict=True)]
               for name in wanted}  # fmt: skip
    gaps = {name: masks for name, masks in lacking.items() if any(mask.any() for mask in masks)}
    n_cells = sum(int(stays.sum()) for stays in kept)
    if gaps and unlabelled == "refuse":
        raise _refused(sources, tables, gaps, n_cells)
    for name in gaps:
        if name in also and name not in labels and unlabelled == "keep":
            n = _number(gaps[name])
            raise BadInput(
                f"`holdout` names {name!r}, which {n:,} of {n_cells:,} cells have no value in; expected one for every "
                "cell, or `unlabelled='drop'`, which leaves them out"
            )
    for name, masks in gaps.items():
        how = "they are left out" if unlabelled == "drop" else "they are kept, and train without it"
        notes.append(f"{_number(masks):,} of {n_cells:,} cells have no {name!r}; {how}")
    if unlabelled == "drop":
        for masks in gaps.values():
            for stays, mask in zip(kept, masks, strict=True):
                stays &= ~mask
        dropped["unlabelled_cells"] = n_cells - sum(int(stays.sum()) for stays in kept)
    if not any(stays.any() for stays in kept):
        raise BadInput(f"{sources[0].path}: no cell is left: {'; '.join(notes)}")
    for name in labels:
        notes += _doubts(name, tables, kept)
        if all(not (stays & (table[name].cat.codes >= 0)).any() for table, stays in zip(tables, kept, strict=True)):
            raise BadInput(f"{sources[0].path}: no cell has a value in obs column {name!r}; expected a label in some")
    return kept, notes, dropped


def _refused(
    sources: Sequence[Source], tables: Sequence[pd.DataFrame], gaps: dict[str, list[Bools]], n_cells: int
) -> BadInput:
    """The error about cells without labels: how many for each column, and the first one."""
    first = next(iter(gaps.values()))
    number = next(i for i, mask in enumerate(first) if mask.any())
    row = int(np.flatnonzero(first[number])[0])
    of = f" of {n_cells:,}"
    parts = [f"obs column {name!r} has no value in {_number(masks):,}{of} cells" for name, masks in gaps.items()]
    parts[0] += f", the first is row {row} ({str(tables[number].index[row])!r})"
    return BadInput(
        f"{sources[number].path}: {'; '.join(parts)}; expected a label for every cell, or `unlabelled='drop'`, which "
        "leaves such cells out, or `unlabelled='keep'`, which trains on them without it"
    )


def _number(masks: Collection[Bools]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _doubts(name: str, tables: Sequence[pd.DataFrame], kept: Sequence[Bools]) -> list[str]:
    """Notes on categories that are called like "no label"."""
    found: dict[str, int] = {}
    for table, stays in zip(tables, kept, strict=True):
        for text, n in doubtful(table[name][stays].array).items():
            found[text] = found.get(text, 0) + n
    return [
        f"{n:,} cells have the {name} {text!r}, taken as a category of that name; `missing_values={text.strip()!r}` "
        "takes it as no label"
        for text, n in found.items()
    ]


def _primary(table: pd.DataFrame) -> Bools:
    """Which cells are not marked as copies, bool (n,)."""
    if PRIMARY not in table:
        return np.ones(len(table), bool)
    marks = as_label(table[PRIMARY])
    is_copy = np.array([text.casefold() in ("false", "0") for text in marks.categories] + [False], bool)
    primary: Bools = ~is_copy[marks.codes]
    return primary


def leave_out_empty(
    kept_cells: Bools, obs: pd.DataFrame, opened: Sequence[Source], drop_empty: bool, totals: Floats, of: str = ""
) -> int:
    """Take the cells whose total is zero out of `kept_cells`, in place; returns how many.

    Parameters
    ----------
    kept_cells : bool (n_cells,)
        Cells that are still in the atlas; changed.
    obs, opened
        All cells, and the sources that they come from.
    drop_empty : bool
        As `ingest` takes it.
    totals : float64 (n_cells,)
        Counts of each cell in the features of a modality.
    of : str
        The modality, with a space; empty for rna.

    Raises
    ------
    BadInput
        Such cells may not be dropped, or no other would be left.
    """
    empty = kept_cells & (totals == 0)
    n_empty = int(empty.sum())
    if n_empty == kept_cells.sum():
        raise BadInput(f"{opened[0].path}: no cell has {of}counts in the chosen genes")
    if n_empty and not drop_empty:
        row = int(np.flatnonzero(empty)[0])
        ends = np.cumsum([len(source.obs) for source in opened])
        source = opened[int(np.searchsorted(ends, row, side="right"))]
        raise BadInput(
            f"{source.path}: cell {str(obs.index[row])!r} has no {of}counts in the chosen genes, one of {n_empty:,} "
            "such cells; `drop_empty=True` leaves them out"
        )
    kept_cells &= ~empty
    return n_empty
