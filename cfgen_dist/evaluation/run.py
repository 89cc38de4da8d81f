"""`evaluate`: a real atlas and generated cells in, every metric with its floor out, and the report if wanted.

There is one evaluation: it works in shards, on threads or on Ray, through a folder of parts. Cells that fit in memory
are the case of one shard.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from cfgen_dist.evaluation import stages
from cfgen_dist.evaluation.control import write_control
from cfgen_dist.evaluation.metrics.catalogue import sentences
from cfgen_dist.evaluation.metrics.markers import read_markers
from cfgen_dist.evaluation.modalities import Comparison, compare_modalities
from cfgen_dist.evaluation.reference import PROTOCOLS
from cfgen_dist.evaluation.selection import attainable, floor_rows, generated_rows, plan_types, sets_in
from cfgen_dist.evaluation.sources import open_cells
from cfgen_dist.evaluation.summary import plain, subsampled, summarise_metrics, summarise_types
from cfgen_dist.evaluation.workspace import Workspace
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.parts import open_parts
from cfgen_dist.workers.pool import open_pool
from data_loaders.errors import BadInput, nearest
from data_loaders.seeds import check_seed

log = logging.getLogger("cfgen_dist")
FORMAT = 1
EMBEDDINGS = ("umap", "pca")
PACKAGES = ("cfgen-dist", "anndata", "numpy", "POT", "scanpy", "scikit-learn", "scikit-misc", "scipy", "umap-learn")


def evaluate(
    real, generated, out=None, *, label=None, protocol="centred", sets=3, floor_sets=5, control=False,
    embedding="umap", run=None, seed=0, markers=None, shard_size=stages.SHARD_SIZE, resume=False, ray=None,
    workers=None,
):  # fmt: skip
    """Compare generated cells with the test cells of a real atlas.

    Of each type as many generated cells are drawn as there are real test cells. The same metrics between training and
    test cells, drawn alike, are the floor. Cells are read in shards, each on one worker; what comes of a shard is
    committed to `OUT.parts`, which is removed when the report is there. Metrics do not depend on shards or workers
    beyond the rounding of sums.

    Parameters
    ----------
    real : path-like, Atlas or AnnData
        Raw counts, an obs column `split` with train and test cells, and the label column.
    generated : path-like, Atlas or AnnData, or a list of them
        Raw counts of the same genes and the label column. Each of several is one generated set; a single one is split
        into disjoint sets as far as its cells reach.
    out : path-like, optional
        Folder for `metrics.json`, `report.html` and the figures; a new one, or that of an earlier evaluation, which is
        replaced. With Ray on a disk that all workers see.
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
    markers : path-like, optional
        CSV with columns `type` and `feature`, for the correlation of marker levels by type. Of cells with several
        modalities it is given anyway, with markers found in the training cells.
    shard_size : int
        Cells that a worker reads and commits at a time.
    resume : bool
        Finish an interrupted evaluation of the same cells and settings; a finished one is left as it is. AnnData in
        memory cannot be known to be the same.
    ray : {None, "auto", "local"} or str
        Where the workers are: None is threads of this process, else see `cfgen_dist.workers.cluster.connect`; the cells
        are then given as paths.
    workers : int, optional
        By default one a core.

    Returns
    -------
    dict
        What `metrics.json` holds: `metrics` {name: {"generated", "floor", "control": {"mean", "sd", "sd_types"},
        "real", "verdict"}}, `types` (one dict per type), `sets` (the values of every set), `verdict` (sentences),
        `notes`, `protocol`, `label`, `seed`, `settings`, `provenance`, and `modalities` (see `compare_modalities`) of
        cells that have several, or with `markers`.

    Raises
    ------
    BadInput
        Genes that differ, a missing label column, unknown types, no test or train cells, no generated cells, values
        that are no counts, an output that cannot be replaced, parts of another evaluation.
    """
    from cfgen_dist.evaluation.plots import read_run  # matplotlib, which workers do without
    from cfgen_dist.evaluation.report import check_output, write_report

    started = time.monotonic()
    _check_options(protocol, embedding, sets, floor_sets, shard_size, seed)
    origins = [real, *(generated if isinstance(generated, list | tuple) else [generated])]
    if ray is not None and not all(isinstance(origin, str | Path) for origin in origins):
        raise BadInput("--ray: workers open the cells themselves; expected paths, not cells in memory")
    if ray is not None and out is None:
        raise BadInput("--ray: no output folder; expected one on a disk that all workers see")
    if out is not None:
        check_output(out)
    curves = None if run is None else read_run(run)
    markers = None if markers is None else read_markers(markers)
    real = open_cells(real, label, "real")
    sources = [_open_generated(origin, real, i) for i, origin in enumerate(origins[1:])]
    test, train = real.rows_of("test"), real.rows_of("train")
    if len(test) < 2:
        raise BadInput(f"{real.name}: {len(test)} test cells found, expected at least 2")
    wanted, n_sets, notes = _plan(real, sources, test, train, sets)
    names = {"generated": n_sets, "floor": floor_sets, "control": n_sets if control else 0}

    rows = {"test": test}
    plan = {"sets": {"test": 0}, "protocol": protocol, "seed": seed}
    plan |= {"n_types": len(real.types), "n_genes": len(real.genes)}
    for draw, (number, chosen) in enumerate(generated_rows(sources, wanted, n_sets, seed)):
        rows[f"generated-{draw}"], plan["sets"][f"generated-{draw}"] = chosen, 1 + number
    for draw, chosen in enumerate(floor_rows(real, train, wanted, floor_sets, seed)):
        rows[f"floor-{draw}"], plan["sets"][f"floor-{draw}"] = chosen, 0
    settings = {
        "format": FORMAT, "protocol": protocol, "label": real.label, "seed": seed, "shard_size": shard_size,
        "n_sets": names, "cells": [cells.identity for cells in (real, *sources)],
        "rows": hashlib.sha256(b"".join(chosen.tobytes() for chosen in rows.values())).hexdigest(),
    }  # fmt: skip
    if markers is not None:
        settings["markers"] = hashlib.sha256(markers.to_csv().encode()).hexdigest()
    if resume and (finished := _finished(out, settings)):
        log.info("%s is complete already: nothing to do", out)
        return finished
    plan["settings"] = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    comparison = Comparison(
        list(origins), [real, *sources], rows | {"train": train}, plan["sets"] | {"train": 0}, plan["settings"],
        markers, seed,
    )  # fmt: skip
    modalities = comparison.open()

    with open_pool(Workers(ray, workers)) as pool, _parts(out, settings, resume) as folder:
        controls = []
        for draw in range(names["control"]):
            path = folder / f"control-{draw}.zarr"
            if not path.exists():
                write_control(path, real, train, wanted, seed, draw)
            controls.append(open_cells(path, real.label).with_types_of(real))
            origins.append(path)
            rows[f"control-{draw}"], plan["sets"][f"control-{draw}"] = np.arange(len(controls[-1])), len(origins) - 1
        work = Workspace.create(folder, plan, [real, *sources, *controls], rows)
        # Threads share what is open; actors have processes and folders of their own.
        absolute = [origin if ray is None or "://" in str(origin) else Path(origin).absolute() for origin in origins]
        setup = (lambda: work) if ray is None else partial(Workspace.open, folder, absolute, real.label)
        stages.fit(work, pool, setup, shard_size)
        stages.scan(work, pool, setup, shard_size)
        scored = stages.score(work, pool, setup, real.types)
        scores = {kind: [scored[f"{kind}-{draw}"] for draw in range(n)] for kind, n in names.items()}
        reference = work.cell_set("test")
        metrics = summarise_metrics(scores, reference)
        result = {
            "format": FORMAT, "kind": "cfgen-dist evaluation", "protocol": protocol, "label": real.label, "seed": seed,
            "n_sets": names,
            "metrics": metrics,
            "types": summarise_types(scores, reference, real.types),
            "sets": {name: [values for values, _ in sets] for name, sets in scores.items()},
            "verdict": sentences(metrics), "notes": notes + subsampled(reference, wanted, real.types),
            "settings": settings,
            "provenance": {
                "real": real.provenance, "generated": [source.provenance for source in sources],
                "cells": {"test": len(test), "train": len(train), "generated": [len(source) for source in sources]},
                "n_genes": len(real.genes), "versions": _versions(),
            },
        }  # fmt: skip
        found, missing = compare_modalities(comparison, modalities, folder, pool, ray, shard_size)
        result |= {"modalities": found} if found else {}
        result["notes"] += missing
        result["seconds"] = round(time.monotonic() - started, 1)
        result = plain(result)
        if out is not None:
            shown = work.cell_set("generated-0")
            write_report(out, result, reference, shown, real.types, embedding=embedding, curves=curves)
    return result


def _check_options(protocol, embedding, sets, floor_sets, shard_size, seed):
    for name, value, valid in (("protocol", protocol, PROTOCOLS), ("embedding", embedding, EMBEDDINGS)):
        if value not in valid:
            raise BadInput(f"{name}: unknown {value!r}, {nearest(value, valid)}")
    check_seed(seed)
    for name, value in (("sets", sets), ("floor sets", floor_sets), ("shard size", shard_size)):
        if value < 1:
            raise BadInput(f"{name}: {value}, expected 1 or more")


def _open_generated(origin, real, number):
    """Open a generated set and check it against the real cells."""
    cells = open_cells(origin, real.label, f"generated set {number + 1}")
    if not len(cells):
        raise BadInput(f"{cells.name}: no cells in it")
    cards = [each.provenance["card"] for each in (real, cells)]
    if all(cards) and cards[0]["fingerprint"] == cards[1]["fingerprint"]:
        raise BadInput(f"{cells.name}: these are the real cells themselves; expected generated ones")
    return cells.in_order_of(real.genes).with_types_of(real)


def _plan(real, sources, test, train, sets):
    """Cells of each type in a set, the number of generated sets, and notes on what is missing."""
    asked, notes = plan_types(real, sources, test, train)
    n_sets = len(sources) if len(sources) > 1 else sets_in(sources[0], asked, sets)
    if len(sources) == 1 and n_sets < sets:
        notes.append(
            f"The generated cells suffice for {n_sets} of {sets} sets of as many cells per type as the test cells."
        )
    wanted = attainable(asked, sources, n_sets)
    short = [f"{real.types[code]} ({n} for {asked[code]})" for code, n in wanted.items() if n < asked[code]]
    if short:
        notes.append(f"Fewer generated than test cells, floor drawn alike: {', '.join(short)}.")
    return wanted, n_sets, notes


@contextmanager
def _parts(out, settings, resume):
    """The folder for parts: beside the output and kept when interrupted, or a temporary one without an output."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="cfgen-evaluate-") as folder:
            yield Path(folder)
        return
    folder = open_parts(out, settings, resume, "evaluation", "evaluation, or of other cells")
    try:
        yield folder
    except BadInput:  # what was read cannot be evaluated: there is nothing to finish
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _finished(out, settings):
    """The result in `out` if it is of these settings, else None."""
    try:
        result = json.loads((Path(out) / "metrics.json").read_text())
        return result if result["settings"] == settings else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _versions():
    return {name: importlib.metadata.version(name) for name in PACKAGES}
