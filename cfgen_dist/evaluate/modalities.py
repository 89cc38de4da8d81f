"""The modalities of a multi-modal evaluation: each in a space of its own beside its floor, and markers by type.

In memory, on the cells of the sets that are compared: as many as there are test cells, at most `MOST_CELLS` of them.
"""

import numpy as np
import pandas as pd

from cfgen_dist.evaluate.chromatin import ChromatinReference
from cfgen_dist.evaluate.markers import find_markers, marker_correlation
from cfgen_dist.evaluate.reference import Reference
from cfgen_dist.evaluate.summary import summarise
from data_loaders.card import ACCESSIBILITY
from data_loaders.errors import BadInput, nearest

MOST_CELLS = 20_000
MAIN = "rna"


def compare_modalities(stores, rows, store_of, labels, train, *, markers=None, seed=0):
    """Score the modalities that the real and all generated stores have.

    Parameters
    ----------
    stores : list of Atlas
        The real one first.
    rows : dict of str to int array
        Set → rows of its store: `test`, `floor-K`, `generated-K`.
    store_of : dict of str to int
        Set → number of its store.
    labels : dict of str to array of str
        Set → type of each of its cells.
    train : (rows, labels)
        Real training cells, for markers.
    markers : pandas.DataFrame, optional
        Columns `type`, `feature`; found in the training cells when left out.
    seed : int

    Returns
    -------
    dict of str to dict
        Modality → `space`, `binary`, `metrics` {name: {"generated", "floor": {"mean", "sd"}}} (not of rna, whose
        metrics are those of the evaluation), `markers` {type: {"generated", "floor": r}}, means over sets. Empty when
        there is one modality only and no markers are given.

    Raises
    ------
    BadInput
        Features that differ between stores, or a marker that no modality has.
    """
    shared = [name for name in _described(stores[0]) if all(name in _described(store) for store in stores)]
    if len(shared) < 2 and markers is None:
        return {}
    rows, labels = _at_most(rows, labels, seed)
    features = {name: _features(stores, name) for name in shared}
    _refuse_unknown(markers, features)
    return {
        name: _compare(name, stores, rows, store_of, labels, train, features[name], markers, seed) for name in shared
    }


def _described(store):
    """Modalities that the store's card tells of: other matrices in obsm may be anything."""
    return (store.card or {}).get("modalities", {MAIN: None})


def _compare(name, stores, rows, store_of, labels, train, features, markers, seed):
    def read(number, chosen):
        block = stores[number].read(chosen, name)
        return block.to_scipy()[:, stores[number].features(name).index.get_indexer(features)]

    counts, labels = {key: read(store_of[key], chosen) for key, chosen in rows.items()}, dict(labels)
    for key, matrix in counts.items():  # cells without counts lack the modality
        there = np.diff(matrix.indptr) > 0
        counts[key], labels[key] = matrix[there], labels[key][there]
    made = [key for key in counts if key.startswith("generated")]
    accessible = name in ACCESSIBILITY
    binary = accessible and all(counts[key].data.max(initial=1) == 1 for key in made)
    found = {"space": "TF-IDF" if accessible else "log-normalised", "binary": binary}
    kinds = {"generated": made, "floor": [key for key in counts if key.startswith("floor")]}
    if name != MAIN:
        found["metrics"] = _metrics(counts, labels, kinds, accessible, binary, seed)
    own = _markers_of(name, read, train, features, markers, accessible)
    found["markers"] = {}
    if len(own):
        r = _correlations(counts, labels, kinds, features, own, accessible)
        found["markers"] = r.astype(object).where(r.notna(), None).to_dict("index")
    return found


def _metrics(counts, labels, kinds, accessible, binary, seed):
    if accessible:
        reference, options = ChromatinReference.fit(counts["test"], labels["test"], binary=binary, seed=seed), {}
    else:
        reference, options = Reference.fit(counts["test"], labels["test"], seed=seed), {"structure": False}
    scores = {
        kind: summarise(
            [reference.score(counts[key], labels[key], draw=draw, **options) for draw, key in enumerate(keys)]
        )
        for kind, keys in kinds.items()
    }
    return {metric: {kind: scores[kind][metric] for kind in kinds} for metric in scores["generated"]}


def _correlations(counts, labels, kinds, features, markers, accessible):
    """Table of types by `generated` and `floor`: mean over sets of the correlation of marker levels."""

    def correlation(key):
        real = counts["test"], labels["test"]
        return marker_correlation(*real, counts[key], labels[key], features, markers, binary=accessible)["r"]

    return pd.DataFrame({kind: sum(map(correlation, keys)) / len(keys) for kind, keys in kinds.items()})


def _markers_of(name, read, train, features, markers, accessible):
    if markers is not None:
        return markers[markers["feature"].isin(features)]
    train_rows, train_labels = train
    return find_markers(read(0, train_rows), train_labels, features, binary=accessible)


def _features(stores, name):
    """The features of the real store; BadInput when another store has others."""
    features = stores[0].features(name).index
    for store in stores[1:]:
        others = store.features(name).index
        differing = features.symmetric_difference(others)
        if len(differing):
            raise BadInput(
                f"{store.name}: its {len(others)} features of modality {name!r} are not the real cells' "
                f"{len(features)}, such as {str(differing[0])!r}; expected the same"
            )
    return features


def _refuse_unknown(markers, features):
    if markers is None:
        return
    known = pd.Index(np.concatenate(list(features.values())))
    unknown = markers["feature"][~markers["feature"].isin(known)]
    if len(unknown):
        raise BadInput(f"markers: no feature {unknown.iloc[0]!r}, {nearest(unknown.iloc[0], known)}")


def _at_most(rows, labels, seed):
    """The same sets with at most `MOST_CELLS` cells each, drawn at random."""
    kept, names = {}, {}
    for number, (key, chosen) in enumerate(rows.items()):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7, number)))
        some = np.arange(len(chosen))
        if len(some) > MOST_CELLS:
            some = np.sort(rng.choice(len(chosen), MOST_CELLS, replace=False))
        kept[key], names[key] = chosen[some], labels[key][some]
    return kept, names
