"""`evaluate`: a real atlas and generated cells in, every metric with its floor out, and the report if wanted."""

import importlib.metadata
import time
from collections import Counter

import numpy as np

from cfgen_dist.evaluate.catalogue import METRICS, VERDICTS, judge, sentences
from cfgen_dist.evaluate.cells import open_cells
from cfgen_dist.evaluate.faithfulness import Profile
from cfgen_dist.evaluate.reference import (
    CONTROL,
    MATCH,
    PROTOCOLS,
    Reference,
    independent_genes,
    matched_rows,
    summarise,
)
from cfgen_dist.evaluate.structure import CORRELATION_CELLS
from data_loaders.errors import BadInput, nearest
from data_loaders.progress import progress

FORMAT = 1
FEW_CELLS = 10  # below this a type's own numbers are mostly noise: the report says so
CONTROL_CELLS = 5000  # training cells of a type that the control draws from
PACKAGES = ("cfgen-dist", "anndata", "numpy", "POT", "scanpy", "scikit-learn", "scikit-misc", "scipy", "umap-learn")
EMBEDDINGS = ("umap", "pca")


def evaluate(
    real, generated, out=None, *, label=None, protocol="centred", sets=3, floor_sets=5, control=False,
    embedding="umap", run=None, seed=0,
):  # fmt: skip
    """Compare generated cells with the test cells of a real atlas.

    Of each type as many generated cells are drawn as there are real test cells. The same metrics between training and
    test cells, drawn alike, are the floor.

    Parameters
    ----------
    real : path-like, Atlas or AnnData
        Raw counts, an obs column `split` with train and test cells, and the label column.
    generated : path-like, Atlas or AnnData, or a list of them
        Raw counts of the same genes and the label column. Each of several is one generated set; a single one is split
        into disjoint sets as far as its cells reach.
    out : path-like, optional
        Folder for `metrics.json`, `report.html` and the figures; a new one, or that of an earlier evaluation, which is
        replaced.
    label : str, optional
        obs column of the types; by default `cell_type`, or the only label column.
    protocol : {"centred", "paper"}
        See `Reference`.
    sets, floor_sets : int
        Generated sets to split one store into; sets of training cells for the floor.
    control : bool
        Also score cells whose genes were drawn independently inside each type (see `independent_genes`).
    embedding : {"umap", "pca"}
        For the figure of the cells.
    run : path-like, optional
        A training run, for its training curves.
    seed : int

    Returns
    -------
    dict
        What `metrics.json` holds: `metrics` {name: {"generated", "floor", "control": {"mean", "sd", "sd_types"},
        "real", "verdict"}}, `types` (one dict per type), `sets` (the values of every set), `verdict` (sentences),
        `notes`, `protocol`, `label`, `seed`, `provenance`.

    Raises
    ------
    BadInput
        Genes that differ, a missing label column, unknown types, no test or train cells, no generated cells, values
        that are no counts, an output that cannot be replaced.
    """
    from cfgen_dist.evaluate.plots import read_run
    from cfgen_dist.evaluate.report import check_output, write_report

    started = time.monotonic()
    for name, value, valid in (("protocol", protocol, PROTOCOLS), ("embedding", embedding, EMBEDDINGS)):
        if value not in valid:
            raise BadInput(f"{name}: unknown {value!r}, {nearest(value, valid)}")
    for name, value in (("sets", sets), ("floor sets", floor_sets)):
        if value < 1:
            raise BadInput(f"{name}: {value}, expected 1 or more")
    if out is not None:
        check_output(out)
    curves = None if run is None else read_run(run)
    real = open_cells(real, label, "real")
    sources = generated if isinstance(generated, list | tuple) else [generated]
    sources = [_open_generated(source, real, i) for i, source in enumerate(sources)]
    test, train = real.rows_of("test"), real.rows_of("train")
    reference = Reference.fit(real.read(test), real.labels[test], protocol=protocol, seed=seed)
    wanted, notes = _plan(real, sources, test, train)
    n_sets = len(sources) if len(sources) > 1 else _sets_in(sources[0], wanted, sets)
    if len(sources) == 1 and n_sets < sets:
        notes.append(
            f"The generated cells suffice for {n_sets} of {sets} sets of as many cells per type as the test cells."
        )
    test_cells, wanted = wanted, _attainable(wanted, sources, n_sets)
    short = [f"{kind} ({n} for {test_cells[kind]})" for kind, n in wanted.items() if n < test_cells[kind]]
    if short:
        notes.append(f"Fewer generated than test cells, floor drawn alike: {', '.join(short)}.")

    scores = {"generated": [], "floor": [], "control": []}
    with progress("evaluate", n_sets + floor_sets + (n_sets if control else 0)) as advance:
        shown = None
        for draw, (counts, labels) in enumerate(_generated_sets(reference, sources, wanted, n_sets)):
            scores["generated"].append(reference.compare(counts, labels, draw=draw))
            if draw == 0:
                shown = {
                    "labels": labels,
                    "pcs": reference.space.project(counts, centred=protocol == "centred"),
                    "profile": Profile.of(counts),
                }
            advance(1)
        for draw in range(floor_sets):
            rows = train[matched_rows(real.labels[train], wanted, 1, reference.rng(MATCH, 1, draw))[0]]
            scores["floor"].append(reference.compare(real.read(rows), real.labels[rows], draw=draw))
            advance(1)
        for draw in range(n_sets if control else 0):
            rng = reference.rng(CONTROL, draw)
            limit = dict.fromkeys(wanted, CONTROL_CELLS)
            rows = train[matched_rows(real.labels[train], limit, 1, rng)[0]]
            cells = independent_genes(real.read(rows), real.labels[rows], wanted, rng)
            scores["control"].append(reference.compare(*cells, draw=draw))
            advance(1)

    metrics = _metrics(scores, reference)
    result = {
        "format": FORMAT, "kind": "cfgen-dist evaluation", "protocol": protocol, "label": real.label, "seed": seed,
        "n_sets": {name: len(values) for name, values in scores.items()},
        "metrics": metrics,
        "types": _types(scores, reference),
        "sets": {name: [values for values, _ in sets] for name, sets in scores.items()},
        "verdict": sentences(metrics), "notes": notes,
        "provenance": {
            "real": real.provenance, "generated": [source.provenance for source in sources],
            "cells": {"test": len(test), "train": len(train), "generated": [len(source) for source in sources]},
            "n_genes": len(real.genes), "versions": _versions(),
        },
    }  # fmt: skip
    result["seconds"] = round(time.monotonic() - started, 1)
    result = _plain(result)
    if out is not None:
        write_report(out, result, reference, shown, embedding=embedding, curves=curves)
    return result


def _open_generated(source, real, number):
    """Open a generated set and check it against the real cells."""
    cells = open_cells(source, real.label, f"generated set {number + 1}")
    if not len(cells):
        raise BadInput(f"{cells.name}: no cells in it")
    cards = [each.provenance["card"] for each in (real, cells)]
    if all(cards) and cards[0]["fingerprint"] == cards[1]["fingerprint"]:
        raise BadInput(f"{cells.name}: these are the real cells themselves; expected generated ones")
    cells = cells.in_order_of(real.genes)
    known = np.unique(real.labels)
    unknown = np.setdiff1d(cells.labels, known).tolist()
    if unknown:
        raise BadInput(
            f"{cells.name}: obs column {real.label!r} has {unknown[0]!r}, which the real cells have not; "
            f"{nearest(unknown[0], known)}"
        )
    return cells


def _plan(real, sources, test, train):
    """Cells wanted of each type, and what the reader must know of types that are missing or small."""
    in_test, in_train = Counter(real.labels[test].tolist()), Counter(real.labels[train].tolist())
    made = [Counter(source.labels.tolist()) for source in sources]
    everywhere = {kind for kind in in_test if all(counts[kind] for counts in made)}
    wanted = {kind: n for kind, n in sorted(in_test.items()) if kind in everywhere and in_train[kind]}
    listed = (
        ("No test cells, so not evaluated", [kind for kind in np.unique(real.labels).tolist() if not in_test[kind]]),
        ("No generated cells, so left out of all comparisons per type", sorted(set(in_test) - everywhere)),
        ("No training cells, so without a floor and left out", sorted(k for k in everywhere if not in_train[k])),
        (f"Fewer than {FEW_CELLS} test cells, so mostly noise", [kind for kind in wanted if wanted[kind] < FEW_CELLS]),
        (
            f"Fewer than {CORRELATION_CELLS} test cells, so not part of the gene-gene correlation error",
            [kind for kind in wanted if wanted[kind] < CORRELATION_CELLS],
        ),
    )  # fmt: skip
    if not wanted:
        raise BadInput(f"{sources[0].name}: no type of {real.label!r} has generated, train and test cells alike")
    return wanted, [f"{what}: {', '.join(kinds)}." for what, kinds in listed if kinds]


def _sets_in(source, wanted, sets):
    """How many disjoint sets the cells of one store suffice for, at least 1."""
    have = Counter(source.labels.tolist())
    return max(1, min(sets, *(have[kind] // n for kind, n in wanted.items())))


def _attainable(wanted, sources, n_sets):
    """As `wanted`, but no more of a type than every set can have: floor and sets stay of equal size."""
    share = n_sets if len(sources) == 1 else 1
    made = [Counter(source.labels.tolist()) for source in sources]
    return {kind: min(n, *(counts[kind] // share for counts in made)) for kind, n in wanted.items()}


def _generated_sets(reference, sources, wanted, n_sets):
    """Counts and labels of each generated set."""
    for number, source in enumerate(sources):
        rng = reference.rng(MATCH, 0, number)
        for rows in matched_rows(source.labels, wanted, n_sets if len(sources) == 1 else 1, rng):
            yield source.read(rows), source.labels[rows]


def _metrics(scores, reference):
    """The summary of each metric: generated, floor and control, the real value where there is one, the verdict."""
    real = {"zeros": reference.profile.zeros}
    summary = {name: summarise([values for values, _ in sets]) for name, sets in scores.items() if sets}
    for name, sets in scores.items():
        if sets:
            by_type = sum(table for _, table in sets) / len(sets)
            for metric in summary[name].keys() & set(by_type.columns):
                summary[name][metric]["sd_types"] = float(by_type[metric].std(ddof=0))
    out = {}
    for metric in METRICS:
        row = {name: values[metric.key] for name, values in summary.items()}
        row["real"] = real.get(metric.key)
        row["verdict"] = judge(metric, row["generated"], row["floor"], row["real"])
        row["words"] = VERDICTS[row["verdict"]]
        out[metric.key] = row
    return out


def _types(scores, reference):
    """One dict per type: test cells, cells per set, and the mean over sets of each of its metrics."""
    in_test = Counter(reference.labels.tolist())
    means = {name: sum(table for _, table in sets) / len(sets) for name, sets in scores.items() if sets}
    rows = []
    for kind in sorted(in_test, key=lambda kind: (-in_test[kind], kind)):
        row = {"type": kind, "cells_test": in_test[kind]}
        for name, table in means.items():
            row[name] = table.loc[kind].to_dict() if kind in table.index else None
        rows.append(row)
    return rows


def _versions():
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _plain(value):
    """The same as JSON values: NumPy numbers become Python's, NaN becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
