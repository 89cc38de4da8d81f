"""What a flow is judged by: distances between generated and validation cells, not its loss."""

import numpy as np
import pandas as pd

from cfgen_dist.bundle import CFGen
from cfgen_dist.config import Config
from cfgen_dist.evaluation.reference import Reference
from cfgen_dist.training.modalities import complete
from data_loaders.errors import BadInput
from data_loaders.reading.atlas import Atlas
from data_loaders.seeds import Tuning, generator
from data_loaders.types import Bools, Ints

SETS = 3  # generated sets for one value
MOST_CELLS = 3000  # validation cells to score against: beyond, the distances work on subsamples anyway
NOTED = ("w2", "mmd", "knn_f1", "zeros")  # kept beside the objective


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
        if len(rows) < 2:
            raise BadInput(f"atlas {atlas.name}: {len(rows)} validation cells with labels that training cells have")
        self.types = labels.iloc[:, 0].to_numpy(str) if config.labels else np.full(len(rows), "all")
        self.reference = Reference.fit(atlas.read(rows).to_scipy(), self.types, seed=config.seed)
        self.n = len(rows)
        self.table = labels.value_counts().rename("n").reset_index() if config.labels else None

    def score(
        self, model: CFGen, *, guidance: float | None = None, steps: int | None = None, structure: bool = False
    ) -> tuple[dict[str, float], dict[str, float]]:
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
            Also the slower metrics of structure.

        Returns
        -------
        mean, error : dict of str to float
            Metrics of `Reference.score`: the mean over sets and its standard error.
        """
        weights = None if guidance is None else dict.fromkeys(model.labels, guidance)
        scores = []
        for draw in range(SETS):
            n = None if model.labels else self.n
            cells = model.generate(n, labels=self.table, guidance=weights, steps=steps, seed=draw)
            types = cells.obs[next(iter(model.labels))].to_numpy(str) if model.labels else np.full(self.n, "all")
            scores.append(self.reference.score(cells.X, types, draw=draw, structure=structure))
        table = pd.DataFrame(scores)
        return table.mean().to_dict(), (table.std() / np.sqrt(SETS)).to_dict()

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
