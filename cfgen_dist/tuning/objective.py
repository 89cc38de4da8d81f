"""What a flow is judged by: its cells beside validation cells, and beside the floor, not its loss."""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from cfgen_dist.bundle import CFGen
from cfgen_dist.config import Config
from cfgen_dist.evaluation.choice import Floor, Standing
from cfgen_dist.evaluation.reference import Reference
from cfgen_dist.evaluation.score import values_of_real
from cfgen_dist.evaluation.selection import matched_rows
from cfgen_dist.training.modalities import complete
from data_loaders.errors import BadInput
from data_loaders.reading.atlas import Atlas
from data_loaders.seeds import Tuning, generator
from data_loaders.types import Array, Bools, Ints

SETS, FLOOR_SETS = 3, 5  # generated sets for one value; sets of training cells for the floor
MOST_CELLS = 3000  # validation cells to score against: beyond, the distances work on subsamples anyway
WORST, AVERAGE = "worst", "average"  # distance to the floor, see `evaluation.choice`
NOTED = (WORST, AVERAGE, "w2", "mmd", "knn_f1", "correlation_error", "coverage", "zeros")  # kept beside the objective


class Scored(NamedTuple):
    """What `ValidationCells.score` finds.

    Attributes
    ----------
    mean, error : dict of str to float
        Metrics of `Reference.score`: the mean over sets and its standard error. With structure also `worst` and
        `average`, the largest and the mean distance to the floor in units of its spread.
    standing : Standing, optional
        Those distances in full; None without structure.
    """

    mean: dict[str, float]
    error: dict[str, float]
    standing: Standing | None = None


class ValidationCells:
    """The validation cells of an atlas, ready to score models against.

    Training never sees them (`refit` is off in a search), and test cells are not touched.

    Parameters
    ----------
    atlas : Atlas
    config : Config
        Settled.
    """

    def __init__(self, atlas: Atlas, config: Config) -> None:
        rows = complete(atlas, config.modalities, atlas.rows(split="val"))
        for name in config.labels or []:
            rows = rows[atlas.small_codes(name)[rows] >= 0]
        if len(rows) > MOST_CELLS:
            rng = generator(config.seed, Tuning.VALIDATION)
            rows = np.sort(rng.choice(rows, MOST_CELLS, replace=False))
        labels = self._table(atlas, config, rows)
        # A combination that no training cell has cannot be asked of the model.
        known = self._seen(atlas, config, labels)
        rows, labels = rows[known], labels[known]
        self.atlas, self.seed = atlas, config.seed
        self.train, self.train_types = self._training_cells(atlas, config)
        # As many cells of a type as both sides have: the floor and the generated sets are then of equal size.
        there = pd.Series(self.train_types).value_counts()
        order = generator(config.seed, Tuning.VALIDATION, 1).permutation(len(rows))
        types = self._types(labels, config)
        place = pd.Series(types[order]).groupby(types[order]).cumcount().to_numpy()
        kept = np.sort(order[place < there.reindex(types[order]).fillna(0).to_numpy()])
        rows, labels = rows[kept], labels.iloc[kept]
        if len(rows) < 2:
            raise BadInput(f"atlas {atlas.name}: {len(rows)} validation cells with labels that training cells have")
        self.types = self._types(labels, config)
        self.reference = Reference.fit(atlas.read(rows).to_scipy(), self.types, seed=config.seed)
        self.n = len(rows)
        self.table = labels.value_counts().rename("n").reset_index() if config.labels else None

    @functools.cached_property
    def floor(self) -> Floor:
        """What training cells score, drawn with as many cells of each type."""
        wanted = pd.Series(self.types).value_counts().to_dict()
        sets = []
        for draw in range(FLOOR_SETS):
            rng = generator(self.seed, Tuning.FLOOR, draw)
            chosen = matched_rows(self.train_types, wanted, 1, rng)[0]
            counts = self.atlas.read(self.train[chosen]).to_scipy()
            sets.append(self.reference.score(counts, self.train_types[chosen], draw=draw))
        return Floor.of(sets, values_of_real(self.reference.cells))

    def score(
        self, model: CFGen, *, guidance: float | None = None, steps: int | None = None, structure: bool = False
    ) -> Scored:
        """Metrics of generated cells with the labels of the validation cells.

        Every call draws the same noise, so that models differ by themselves and not by chance.

        Parameters
        ----------
        model : CFGen
        guidance : float, optional
            Weight of every attribute.
        steps : int, optional
            Of the solver; both by default as in the model's config.
        structure : bool
            Also the slower metrics of structure, and with them the distances to the floor.

        Returns
        -------
        Scored
        """
        weights = None if guidance is None else dict.fromkeys(model.labels, guidance)
        scores = []
        for draw in range(SETS):
            n = None if model.labels else self.n
            cells = model.generate(n, labels=self.table, guidance=weights, steps=steps, seed=draw)
            types = cells.obs[next(iter(model.labels))].to_numpy(str) if model.labels else np.full(self.n, "all")
            scores.append(self.reference.score(cells.X, types, draw=draw, structure=structure))
        table = pd.DataFrame(scores)
        mean, error = table.mean().to_dict(), (table.std() / np.sqrt(SETS)).to_dict()
        if not structure:
            return Scored(mean, error)
        standing = Standing.of(scores, self.floor)
        mean |= {WORST: standing.worst, AVERAGE: standing.average}
        error |= {WORST: standing.worst_error, AVERAGE: standing.average_error}
        return Scored(mean, error, standing)

    @classmethod
    def _training_cells(cls, atlas: Atlas, config: Config) -> tuple[Ints, Array]:
        """Rows of the training cells with all labels, and their types."""
        rows = complete(atlas, config.modalities, atlas.rows(split="train"))
        for name in config.labels or []:
            rows = rows[atlas.small_codes(name)[rows] >= 0]
        return rows, cls._types(cls._table(atlas, config, rows), config)

    @staticmethod
    def _types(labels: pd.DataFrame, config: Config) -> Array:
        """The first label of cells (n,), or "all"."""
        return labels.iloc[:, 0].to_numpy(str) if config.labels else np.full(len(labels), "all")

    def _seen(self, atlas: Atlas, config: Config, labels: pd.DataFrame) -> Bools:
        """Which rows of `labels` hold a combination that training cells have."""
        if not config.labels:
            return np.ones(len(labels), bool)
        train = complete(atlas, config.modalities, atlas.rows(split="train"))
        seen = pd.MultiIndex.from_frame(self._table(atlas, config, train))
        return pd.MultiIndex.from_frame(labels).isin(seen)

    @staticmethod
    def _table(atlas: Atlas, config: Config, rows: Ints) -> pd.DataFrame:
        """The labels of cells: a column for each of the model."""
        names = config.labels or []
        columns = {name: np.asarray([*atlas.categories(name), ""])[atlas.codes(name)[rows]] for name in names}
        return pd.DataFrame(columns, index=rows)  # "" of a cell without the label, which is no category's name
