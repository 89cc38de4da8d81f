"""Markers: do generated cells of a type express, or open, what its real cells do?"""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

from cfgen_dist.evaluate.space import log_normalise
from data_loaders.errors import BadInput, nearest

N_MARKERS = 10  # a type
FEWEST_CELLS = 3  # of a type: markers and means of fewer are noise


def find_markers(counts, labels, features, *, binary=False, n=N_MARKERS):
    """The features that set each type apart from all others, by scanpy's t-test (`t-test_overestim_var`).

    Parameters
    ----------
    counts : scipy sparse (cells, features)
        Raw counts of training cells.
    labels : sequence (cells,)
    features : sequence of str
    binary : bool
        Compare shares of open cells in place of log-normalised counts.
    n : int
        Markers a type.

    Returns
    -------
    pandas.DataFrame
        Columns `type`, `feature`; types with fewer than three cells are left out.

    Raises
    ------
    BadInput
        Fewer than two types with enough cells.
    """
    labels = np.asarray(labels, dtype=str)
    kinds, sizes = np.unique(labels, return_counts=True)
    kinds = kinds[sizes >= FEWEST_CELLS]
    if len(kinds) < 2:
        raise BadInput(f"markers: {len(kinds)} types with at least {FEWEST_CELLS} cells, expected two or more")
    kept = np.isin(labels, kinds)
    cells = ad.AnnData(levels(counts[kept], binary).astype(np.float32), obs={"type": pd.Categorical(labels[kept])})
    cells.var_names = pd.Index(features).astype(str)
    with warnings.catch_warnings(), sc.settings.verbosity.override("error"):
        warnings.simplefilter("ignore")  # scanpy's, on folds of features without counts, and on zeros and ones
        sc.tl.rank_genes_groups(cells, "type", method="t-test_overestim_var", n_genes=n)
    names = pd.DataFrame(cells.uns["rank_genes_groups"]["names"])
    return names.melt(var_name="type", value_name="feature")[["type", "feature"]]


def read_markers(path):
    """A marker table: CSV with columns `type` and `feature`; BadInput when it is none."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    for name in ("type", "feature"):
        if name not in table:
            raise BadInput(f"{path}: no column {name!r}; {nearest(name, table.columns)}")
    if table.empty:
        raise BadInput(f"{path}: a table without markers; expected columns type and feature")
    return table[["type", "feature"]]


def marker_correlation(real, real_labels, other, other_labels, features, markers, *, binary=False):
    """Pearson correlation, type by type, of the mean levels of all markers in real and in other cells.

    The level of a gene is its mean log1p of counts scaled to 1e4 a cell; with `binary`, that of a peak is the share of
    cells in which it is open. Each type is compared over the markers of all types: its own must be high, the rest low.

    Parameters
    ----------
    real, other : scipy sparse (cells, features)
        Raw counts.
    real_labels, other_labels : sequence
    features : sequence of str
    markers : pandas.DataFrame
        Columns `type`, `feature`.
    binary : bool

    Returns
    -------
    pandas.DataFrame
        Index: types with at least three cells on both sides. Columns: `r` over the markers, `cells` (of the other set).

    Raises
    ------
    BadInput
        A marker that is not among the features.
    """
    features = pd.Index(features).astype(str)
    chosen = pd.unique(markers["feature"].astype(str))
    columns = features.get_indexer(chosen)
    if (columns < 0).any():
        unknown = chosen[columns < 0][0]
        raise BadInput(f"markers: no feature {unknown!r}, {nearest(unknown, features)}")
    means = [_means(*side, columns, binary) for side in ((real, real_labels), (other, other_labels))]
    shared = [kind for kind in means[0] if kind in means[1]]
    rows = {
        kind: {"r": _pearson(means[0][kind], means[1][kind]), "cells": int((np.asarray(other_labels) == kind).sum())}
        for kind in shared
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["r", "cells"])


def levels(counts, binary):
    """What is compared of counts, CSR: log-normalised, or 1 where open."""
    return counts.sign().astype(np.float64) if binary else log_normalise(counts)


def _means(counts, labels, columns, binary):
    values, labels = levels(counts, binary)[:, columns], np.asarray(labels, dtype=str)
    kinds, sizes = np.unique(labels, return_counts=True)
    kinds = kinds[sizes >= FEWEST_CELLS]
    return {kind: np.asarray(values[labels == kind].mean(axis=0)).ravel() for kind in kinds}


def _pearson(a, b):
    """NaN where one side does not vary."""
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
