"""`evaluate`: a real atlas and generated cells in, every metric with its floor out, and the report if wanted.

There is one evaluation: it works in shards, on threads or on Ray, through a folder of parts. Cells that fit in memory
are the case of one shard.
"""

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cfgen_dist.evaluation import stages
from cfgen_dist.evaluation.attributes import choose_groupings
from cfgen_dist.evaluation.audited import read_audit
from cfgen_dist.evaluation.by_attribute import score_attributes
from cfgen_dist.evaluation.ceiling import ceiling_in_words, ceiling_sets, write_ceiling
from cfgen_dist.evaluation.control import is_written, write_control
from cfgen_dist.evaluation.copies import find_copies, sentences_on
from cfgen_dist.evaluation.folder import check_output
from cfgen_dist.evaluation.groups import Running, score_apart
from cfgen_dist.evaluation.inputs import open_inputs
from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.markers import read_markers
from cfgen_dist.evaluation.modalities import Comparison, compare_modalities
from cfgen_dist.evaluation.outcome import finished_result, parts_of
from cfgen_dist.evaluation.protocol import name_figures, said
from cfgen_dist.evaluation.reference import PROTOCOLS
from cfgen_dist.evaluation.selection import Selection, cells_of_types, select
from cfgen_dist.evaluation.sources import Cells, Source, open_cells
from cfgen_dist.evaluation.summary import Scores, plain, subsampled, summarise_metrics, summarise_types
from cfgen_dist.evaluation.verdict import needs_types, sentences
from cfgen_dist.evaluation.workspace import Workspace
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.pool import open_pool
from data_loaders.errors import BadInput, nearest
from data_loaders.locks import alone
from data_loaders.records import Record
from data_loaders.seeds import check_seed
from data_loaders.types import Ints, PathLike

log = logging.getLogger("cfgen_dist")
FORMAT = 1  # of metrics.json
EMBEDDINGS = ("umap", "pca")
PACKAGES = ("cfgen-dist", "anndata", "numpy", "POT", "scanpy", "scikit-learn", "scikit-misc", "scipy", "umap-learn")


class ResultForm(Record):
    """What is read of the `metrics.json` of an earlier evaluation."""

    settings: dict[str, Any]
    verdict: list[str]
    metrics: dict[str, dict[str, Any]]


@alone(remote=True)
def evaluate(
    real: Source, generated: Source | Sequence[Source], out: PathLike | None = None, *, label: str | None = None,
    protocol: str = "centred", sets: int = 3, floor_sets: int = 5, control: bool = False, ceiling: bool = True,
    embedding: str = "umap", run: PathLike | None = None, audit: PathLike | None = None, seed: int = 0,
    markers: PathLike | None = None,
    shard_size: int = stages.SHARD_SIZE, resume: bool = False, ray: str | None = None, workers: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare generated cells with the test cells of a real atlas.

    Of each type as many generated cells are drawn as there are test cells, or training cells where they are fewer. The
    same metrics between training and test cells, drawn to the same sizes, are the floor: it depends on the real cells
    alone. A type that was not generated is named, and puts the metrics that it touches off the floor. Cells are also
    compared by the other labels that they share, and by combinations of two (see `attributes.choose_groupings`).

    Cells are read in shards, each on one worker; what comes of a shard is committed to `OUT.parts`, which is removed
    when the report is there. Metrics do not depend on shards or workers beyond the rounding of sums.

    Parameters
    ----------
    real : path-like, Atlas or AnnData
        Raw counts, an obs column `split` with train and test cells, and the label column. Cells that the obs column
        `is_generated` calls generated are left out.
    generated : path-like, Atlas or AnnData, or a list of them
        Raw counts of the same genes and the label column. Each of several is one generated set; a single one is split
        into disjoint sets as far as its cells reach. Where `is_generated` tells generated from real cells (an augmented
        atlas), the generated ones alone are scored. Without the label column, or without values in it, all cells are
        compared at once, by the metrics that need no types.
    out : path-like, optional
        Folder for `metrics.json`, `report.html` and the figures; a new one, or that of an earlier evaluation, which is
        replaced. With Ray on a disk that all workers see, or in a bucket.
    label : str, optional
        obs column of the types; by default `cell_type`, or the only label column. An atlas without label columns is
        compared without types.
    protocol : {"centred", "paper"}
        See `Reference`.
    sets, floor_sets : int
        Generated sets to split one store into; sets of training cells for the floor.
    control : bool
        Also score cells whose genes were drawn independently inside each type (see `independent_genes`).
    ceiling : bool
        Also score what a perfect model would make that knows as many training cells (see `evaluation.ceiling`): three
        sets, or one where a set has more than 5,000 cells.
    embedding : {"umap", "pca"}
        For the figure of the cells.
    run : path-like, optional
        A training run, for its training curves.
    audit : path-like, optional
        Folder that `audit` wrote of the same cells, to be shown in the report.
    seed : int
    markers : path-like, optional
        CSV with columns `type` and `feature`, for the correlation of marker levels by type. Of cells with several
        modalities it is given anyway, with markers found in the training cells.
    shard_size : int
        Cells that a worker reads and commits at a time.
    resume : bool
        Finish an interrupted evaluation of the same cells, settings and metrics; a finished one is left as it is.
        AnnData in memory cannot be known to be the same.
    ray : {None, "auto", "local"} or str
        Where the workers are: None is threads of this process, else see `cfgen_dist.workers.cluster.connect`; the cells
        are then given as paths.
    workers : int, optional
        By default one a core.

    Returns
    -------
    dict
        What `metrics.json` holds: `metrics` {name: {"generated", "floor", "control", "ceiling": {"mean", "sd",
        "sd_types"}, "real", "verdict", "title", "meaning"}}, `protocol_says` (sentences: how the figures of the
        protocol differ from the default's), `ceiling_says` (sentences: the ceiling of some measures; `n_ceiling` sets),
        `types` (one dict per type, see `summary.summarise_types`), `lacking` (see `selection.Lacking`), `attributes`
        (one dict per label and combination, see `score_attributes`), `sets` (the values of every set), `audit` (see
        `audited.read_audit`), `warnings` (sentences: what is said before any score), `copies` (of each source, see
        `copies.Copies`), `verdict` (sentences), `notes`, `protocol`, `label`, `seed`, `settings`, `provenance`, and
        `modalities` (see `compare_modalities`) of cells that have several, or with `markers`.

    Raises
    ------
    BadInput
        Genes that differ, no such label column in the real cells, unknown types, no test or train cells, no generated
        cells, values that are not counts, an output that cannot be replaced, parts of another evaluation.
    """
    from cfgen_dist.evaluation.plots import read_run  # matplotlib, which workers do without
    from cfgen_dist.evaluation.report import OURS, write_report

    started = time.monotonic()
    _check_options(protocol, embedding, sets, floor_sets, shard_size, seed)
    origins: list[Source] = [real, *(generated if isinstance(generated, list | tuple) else [generated])]
    if ray is not None and not all(isinstance(origin, str | Path) for origin in origins):
        raise BadInput("`ray`: workers open the cells themselves; expected paths, not cells in memory")
    if ray is not None and out is None:
        raise BadInput("`ray`: no output folder; expected one on a disk that all workers see, or in a bucket")
    if out is not None:
        check_output(out, OURS)
    curves = None if run is None else read_run(run)
    marker_table = None if markers is None else read_markers(markers)
    inputs = open_inputs(real, origins[1:], label)
    if inputs.pooled and marker_table is not None:
        raise BadInput(f"`markers`: {inputs.warnings[0]} Expected cells with types")
    scored_cells = inputs.scored()
    cells, sources = inputs.real, inputs.sources
    audited = None if audit is None else read_audit(audit, cells, sources)
    test, train = cells.rows_of("test"), cells.rows_of("train")
    if len(test) < 2:
        raise BadInput(f"{cells.name}: {len(test)} test cells found, expected at least 2")
    chosen = select(cells, sources, test, train, sets=sets, floor_sets=floor_sets, control=control, seed=seed)
    groupings, unseen = choose_groupings(inputs, test, train, n_sets=chosen.n_sets, seed=seed)
    n_sets, n_ceiling = chosen.n_sets, ceiling_sets(chosen.wanted, ceiling)
    rows, source_of = dict(chosen.rows), dict(chosen.source_of)
    settings: dict[str, Any] = {
        "catalogue": catalogue.digest(), "protocol": protocol, "label": cells.label, "seed": seed,
        "shard_size": shard_size, "n_sets": n_sets, "cells": [source.identity for source in (cells, *sources)],
        "ceiling": n_ceiling, "rows": chosen.digest(), "attributes": [grouping.digest() for grouping in groupings],
    }  # fmt: skip
    if audited is not None:
        settings["audit"] = hashlib.sha256(json.dumps(audited).encode()).hexdigest()
    if marker_table is not None:
        settings["markers"] = hashlib.sha256(marker_table.to_csv().encode()).hexdigest()
    if resume and (finished := finished_result(out, "metrics.json", ResultForm, settings)):
        log.info("%s is complete already: nothing to do", out)
        return finished
    copies = find_copies(cells, sources)
    warnings, notes = sentences_on(copies)
    for line in (*warnings, *notes):
        log.info("%s", line)
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    comparison = Comparison(
        list(origins), list(scored_cells), rows | {"train": train}, source_of | {"train": 0}, digest, marker_table, seed
    )
    modalities = comparison.open()
    measured = [metric for metric in catalogue.metrics_of() if not (inputs.pooled and needs_types(metric))]
    types, wanted = scored_cells[0].types, {0: sum(chosen.wanted.values())} if inputs.pooled else chosen.wanted

    with open_pool(Workers(ray, workers)) as pool, parts_of(out, settings, resume, "evaluation") as folder:
        made_here = (("control", write_control, n_sets["control"]), ("ceiling", write_ceiling, n_ceiling))
        for kind, write, n in made_here:
            for draw in range(n):
                name = f"{kind}-{draw}"
                path = str(folder / f"{name}.zarr")
                if not is_written(path):
                    write(path, cells, train, chosen.wanted, seed, draw)
                drawn = open_cells(path, cells.label, labelled=bool(cells.label))
                scored_cells.append(drawn.without_types() if inputs.pooled else drawn.with_types_of(cells))
                origins.append(path)
                rows[name], source_of[name] = np.arange(len(drawn)), len(origins) - 1
        plan = {
            "sets": source_of, "protocol": protocol, "seed": seed, "n_types": len(types),
            "n_genes": len(cells.genes), "settings": digest, "pooled": inputs.pooled,
        }  # fmt: skip
        work = Workspace.create(folder, plan, scored_cells, rows)
        setup = stages.worker_setup(work, origins, ray)
        stages.fit(work, pool, setup, shard_size)
        stages.scan(work, pool, setup, shard_size)
        scored = stages.score(work, pool, setup, types, measured)
        scores = {
            kind: [scored[f"{kind}-{draw}"] for draw in range(n)]
            for kind, n in (n_sets | {"ceiling": n_ceiling}).items()
        }
        reference = work.matched() or work.cell_set("test")
        metrics = summarise_metrics(scores, reference, measured, chosen.lacking)
        name_figures(metrics, protocol)
        running = Running(work, origins, pool, ray, shard_size)
        by_type = [] if inputs.pooled else _by_type(scores, chosen, cells, test, running)
        by_attribute = score_attributes(groupings, cells, train, seed, running, control)
        by_modality, missing = compare_modalities(comparison, modalities, folder, pool, ray, shard_size)
        result = {
            "format": FORMAT, "kind": "cfgen-dist evaluation", "protocol": protocol, "label": cells.label, "seed": seed,
            "protocol_says": said(protocol),
            "n_ceiling": n_ceiling,
            "ceiling_says": ceiling_in_words(metrics, len(train)),
            "n_sets": n_sets,
            "warnings": inputs.warnings + warnings,
            "copies": [asdict(found) for found in copies],
            "metrics": metrics,
            "types": by_type,
            "attributes": by_attribute,
            "lacking": asdict(chosen.lacking),
            "sets": {kind: [values for values, _ in of_kind] for kind, of_kind in scores.items()},
            "verdict": sentences(metrics, chosen.lacking, by_attribute),
            "notes": [
                *chosen.notes, *inputs.notes, *notes, *unseen, *subsampled(reference, wanted, types, measured), *missing
            ],
            "settings": settings,
            "provenance": {
                "real": cells.provenance, "generated": [source.provenance for source in sources],
                "cells": {"test": len(test), "train": len(train), "generated": [len(source) for source in sources]},
                "n_genes": len(cells.genes), "versions": _versions(),
            },
        }  # fmt: skip
        result |= {"modalities": by_modality} if by_modality else {}
        result |= {"audit": audited} if audited else {}
        result["seconds"] = round(time.monotonic() - started, 1)
        result = plain(result)
        if out is not None:
            shown = work.cell_set("generated-0")
            write_report(out, result, reference, shown, types, embedding=embedding, curves=curves)
    return result


def _by_type(scores: Scores, chosen: Selection, cells: Cells, test: Ints, running: Running) -> list[dict[str, Any]]:
    """The table of types, those without a floor among them, which are scored for it."""
    all_scores = {kind: list(of_kind) for kind, of_kind in scores.items()}
    if chosen.apart:
        metrics = [metric for metric in catalogue.metrics_of() if metric.scorer.needs == "points"]
        source_of = {name: chosen.source_of[name] for name in chosen.apart}
        found = score_apart(running, "without-floor", chosen.apart, source_of, cells.types, metrics)
        all_scores["generated"] += list(found.values())
    in_test = dict(zip(cells.types.tolist(), cells_of_types(cells, test).tolist(), strict=True))
    wanted = {str(cells.types[code]): n for code, n in chosen.wanted.items()}
    return summarise_types(all_scores, in_test, wanted, chosen.lacking)


def _check_options(protocol: str, embedding: str, sets: int, floor_sets: int, shard_size: int, seed: int) -> None:
    for name, choice, valid in (("protocol", protocol, PROTOCOLS), ("embedding", embedding, EMBEDDINGS)):
        if choice not in valid:
            raise BadInput(f"`{name}`: unknown {choice!r}, {nearest(choice, valid)}")
    check_seed(seed)
    for name, value in (("sets", sets), ("floor_sets", floor_sets), ("shard_size", shard_size)):
        if value < 1:
            raise BadInput(f"`{name}`: {value}, expected 1 or more")


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
