"""What an evaluation is given, opened and checked: real cells, generated sets, and what must be said of them first."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from cfgen_dist.evaluation.sources import Cells, Source, open_cells
from data_loaders.errors import BadInput

log = logging.getLogger("cfgen_dist")


@dataclass(frozen=True)
class Inputs:
    """The cells of an evaluation; made by `open_inputs`.

    Attributes
    ----------
    real : Cells
    sources : list of Cells
        Of each generated set, with the genes of the real cells and their types; all without types (see
        `Cells.without_types`) when one of them has none.
    warnings : list of str
        What is said before any score.
    notes : list of str
    """

    real: Cells
    sources: list[Cells]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def pooled(self) -> bool:
        """Whether types are left aside."""
        return self.sources[0].pooled

    def scored(self) -> list[Cells]:
        """The real cells and the sources as they are scored: all of one type when they are pooled."""
        return [self.real.without_types() if self.pooled else self.real, *self.sources]


def open_inputs(real: Source, generated: Sequence[Source], label: str | None) -> Inputs:
    """Open and check real and generated cells.

    Parameters
    ----------
    real : path-like, Atlas or AnnData
    generated : list of them
    label : str, optional
        As in `evaluate`.

    Raises
    ------
    BadInput
        See `evaluate`.
    """
    cells = open_cells(real, label, "real", generated=False, labelled=label is not None)
    sources = [_open_generated(origin, cells, f"generated set {i}") for i, origin in enumerate(generated, 1)]
    untyped = [source.name for source in sources if source.pooled]
    warnings = []
    if untyped and cells.label:
        warnings.append(
            f"No {cells.label!r} in {', '.join(untyped)}: compared are all cells together, without looking at types."
        )
    elif untyped:
        warnings.append(f"{cells.name} has no label column: compared are all cells together, without types.")
    if untyped:
        sources = [source.without_types() for source in sources]
    notes = [
        f"{source.n_unlabelled:,} cells of {source.name} without a {cells.label}, so left out of all comparisons."
        for source in (cells, *sources)
        if source.n_unlabelled
    ]
    notes += [
        f"{source.n_others:,} {'generated' if source is cells else 'real'} cells of {source.name}, by its obs column "
        f"'is_generated', so left out of all comparisons."
        for source in (cells, *sources)
        if source.n_others
    ]
    for note in (*warnings, *notes):
        log.info("%s", note)
    return Inputs(cells, sources, warnings, notes)


def _open_generated(origin: Source, real: Cells, name: str) -> Cells:
    """Open a generated set and check it against the real cells."""
    cells = open_cells(origin, real.label, name, generated=True, labelled=False)
    if not len(cells):
        raise BadInput(f"{cells.name}: no cells in it")
    card, real_card = cells.provenance["card"], real.provenance["card"]
    if card and real_card and card["fingerprint"] == real_card["fingerprint"]:
        raise BadInput(f"{cells.name}: these are the real cells themselves; expected generated ones")
    cells = cells.in_order_of(real.genes)
    return cells if cells.pooled else cells.with_types_of(real)
