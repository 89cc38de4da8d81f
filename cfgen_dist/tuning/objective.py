"""What a flow is judged by: distances between generated and validation cells, not its loss."""

import numpy as np
import pandas as pd

from cfgen_dist.evaluation import Reference
from cfgen_dist.training.modalities import complete
from data_loaders.errors import BadInput
from data_loaders.seeds import Tuning, generator

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

    def __init__(self, atlas, config):
        rows = complete(atlas, config.modalities, atlas.rows(split="val"))
        if len(rows) > MOST_CELLS:
            rng = generator(config.seed, Tuning.VALIDATION)
            rows = np.sort(rng.choice(rows, MOST_CELLS, replace=False))
        names = {name: np.asarray(atlas.categories(name)) for name in config.labels}
        labels = pd.DataFrame({name: names[name][atlas.codes(name)[rows]] for name in config.labels}, index=rows)
        # A combination that no training cell has cannot be asked of the model.
        known = self._seen(atlas, config, labels)
        rows, labels = rows[known], labels[known]
        if len(rows) < 2:
            raise BadInput(f"atlas {atlas.name}: {len(rows)} validation cells with labels that training cells have")
        self.types = labels.iloc[:, 0].to_numpy(str) if config.labels else np.full(len(rows), "all")
        self.reference = Reference.fit(atlas.read(rows).to_scipy(), self.types, seed=config.seed)
        self.n = len(rows)
        self.table = labels.value_counts().rename("n").reset_index() if config.labels else None

    def score(self, model, *, guidance=None, steps=None, structure=False):
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
            options = {"guidance": weights, "steps": steps, "seed": draw}
            cells = model.generate(None if model.labels else self.n, labels=self.table, **options)
            types = cells.obs[next(iter(model.labels))].to_numpy(str) if model.labels else np.full(self.n, "all")
            scores.append(self.reference.score(cells.X, types, draw=draw, structure=structure))
        scores = pd.DataFrame(scores)
        return scores.mean().to_dict(), (scores.std() / np.sqrt(SETS)).to_dict()

    def _seen(self, atlas, config, labels):
        if not config.labels:
            return np.ones(len(labels), bool)
        train = complete(atlas, config.modalities, atlas.rows(split="train"))
        codes = {name: np.asarray(atlas.categories(name))[atlas.codes(name)[train]] for name in config.labels}
        seen = pd.MultiIndex.from_frame(pd.DataFrame(codes))
        return pd.MultiIndex.from_frame(labels).isin(seen)
