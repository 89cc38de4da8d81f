"""The scores of one set of cells against the test cells: three pieces of work that can be done apart, and their sum.

`distances`, `neighbours` and `structure` look at components and counts; each draws its own random numbers, so that it
does not matter where and in what order they are computed. `collect` adds what the profiles say.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluation.metrics.distances import mmd_linear_time, mmd_rbf, squared_length, subsample, wasserstein
from cfgen_dist.evaluation.metrics.faithfulness import faithfulness
from cfgen_dist.evaluation.metrics.structure import structure
from data_loaders.seeds import Evaluation, generator

CONDITIONAL = ("w1", "w2", "mmd", "mmd_rbf")
NEIGHBOURS = 10
FITTED_CELLS = 100_000  # test cells that the classifier is fitted on, at most
CLASSIFIED_CELLS = 2000  # cells of a type that are classified, at most


def distances(real, scored, *, paper, seed, draw):
    """Transport and MMD of each type that both sides have, in order of the codes, and of all cells at once (last).

    Parameters
    ----------
    real, scored : CellSet
    paper : bool
        The protocol: MMD is then the linear-time estimate.
    seed, draw : int
        `draw` is the number of the set.

    Returns
    -------
    list of dict
        `w1`, `w2`, `w1_sd`, `w2_sd`, `mmd`, `mmd_rbf`.
    """
    rng = generator(seed, Evaluation.DISTANCES, draw)
    rows = []
    for code in [*np.flatnonzero(scored.cells), None]:
        a, b = (cells.points(cells.of_type(code)) for cells in (real, scored))
        row = wasserstein(a, b, rng)
        row["mmd"] = mmd_linear_time(a, b) if paper else squared_length(real.mean(code) - scored.mean(code))
        rows.append(row | {"mmd_rbf": mmd_rbf(a, b, rng)})
    return rows


def neighbours(real, scored, *, paper, seed, draw):
    """F1 of a 10-NN classifier, fitted on test cells, for the types of the scored cells.

    Of a type with more than `CLASSIFIED_CELLS` cells so many are classified, and count for all of them.

    Returns
    -------
    dict
        `knn_f1`, macro over types; `types`, one per type of the scored cells in order of the codes. Under the paper's
        protocol both are computed inside each single type.
    """
    rng = generator(seed, Evaluation.CLASSIFY, draw)
    fitted = subsample(np.arange(len(real)), FITTED_CELLS, rng)
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(fitted))).fit(real.points(fitted)[:], real.codes[fitted])
    kinds = np.flatnonzero(scored.cells)
    chosen = [subsample(scored.of_type(code), CLASSIFIED_CELLS, rng) for code in kinds]
    sizes = np.array([len(positions) for positions in chosen])
    truth, weight = np.repeat(kinds, sizes), np.repeat(scored.cells[kinds] / sizes, sizes)
    found = classifier.predict(scored.points(np.concatenate(chosen))[:])

    def f1(mine, **options):
        return f1_score(truth[mine], found[mine], sample_weight=weight[mine], zero_division=0, **options)

    if paper:
        types = [float(f1(truth == code, average="macro")) for code in kinds]
        return {"knn_f1": float(np.mean(types)), "types": types}
    types = f1(slice(None), average=None, labels=kinds).tolist()
    return {"knn_f1": float(f1(slice(None), average="macro")), "types": types}


def structures(real, scored, *, paper, seed, draw):
    """The metrics of `structure`, which are the same under both protocols."""
    return structure(real, scored, generator(seed, Evaluation.STRUCTURE, draw))


PIECES = {"distances": distances, "neighbours": neighbours, "structure": structures}


def collect(pieces, real, scored, names):
    """The metrics of a set, overall and per type, from its pieces.

    Parameters
    ----------
    pieces : dict
        Name of `PIECES` → what it returned; `structure` may be missing.
    real, scored : CellSet
        Of which the profiles and the numbers of cells are used.
    names : array of str (K,)
        Of the types.

    Returns
    -------
    metrics : dict of str to float
    types : pandas.DataFrame
        See `Reference.compare`.
    """
    *by_type, overall = pieces["distances"]
    kinds = np.flatnonzero(scored.cells)
    types = pd.DataFrame(by_type, index=names[kinds].tolist())
    types.insert(0, "cells", scored.cells[kinds])
    types["knn_f1"] = pieces["neighbours"]["types"]
    metrics = {name: float(types[name].mean()) for name in CONDITIONAL}
    metrics |= {f"{name}_all": overall[name] for name in CONDITIONAL}
    metrics["knn_f1"] = pieces["neighbours"]["knn_f1"]
    metrics |= faithfulness(real.profile, scored.profile)
    return metrics | pieces.get("structure", {}), types
