"""`audit`: a real atlas and generated cells in, what these betray of the training cells out."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cfgen_dist.evaluation.copies import find_copies, sentences_on
from cfgen_dist.evaluation.folder import check_output
from cfgen_dist.evaluation.inputs import open_inputs
from cfgen_dist.evaluation.outcome import finished_result, parts_of
from cfgen_dist.evaluation.sources import Cells, Source
from cfgen_dist.evaluation.stages import SHARD_SIZE
from cfgen_dist.evaluation.summary import plain
from cfgen_dist.privacy.attacks import Floor, Interval, measures, points, split_halves
from cfgen_dist.privacy.cohort import FEW, Cohort, Donors, donors_of, draw_cohort, held_out_whole
from cfgen_dist.privacy.nearest import Nearest, Queries
from cfgen_dist.privacy.planted import power
from cfgen_dist.privacy.scan import ALIKE, FLOOR, GENERATED, Scan, fit, scan, worker_setup
from cfgen_dist.privacy.verdict import judge, sentences, title_of
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.pool import open_pool
from data_loaders.errors import BadInput
from data_loaders.locks import alone
from data_loaders.records import Record
from data_loaders.seeds import Audit, check_seed, generator
from data_loaders.types import Ints, PathLike

log = logging.getLogger("cfgen_dist")
FORMAT = 1  # of audit.json, and of the parts
FEW_DONORS = 5
CELLS = 5000  # of training cells, and of held-out cells, that are asked about


class ResultForm(Record):
    """What is read of the `audit.json` of an earlier audit."""

    settings: dict[str, Any]
    verdict: list[str]
    generated: dict[str, dict[str, Any]]


@alone(remote=True)
def audit(
    real: Source, generated: Source, out: PathLike | None = None, *, by: str | None = None, label: str | None = None,
    cells: int = CELLS, seed: int = 0, shard_size: int = SHARD_SIZE, resume: bool = False, ray: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Ask what generated cells betray of the cells, and of the donors, that their model was trained on.

    All generated cells are compared with all real cells for exact copies. Then as many training as test cells of every
    type are asked about: is a generated cell nearer to those than to these, and can an attack tell them apart by it?
    The same is asked of real cells that are neither, in the place of the generated ones (the floor), and of generated
    cells with training cells planted among them, which shows what leak would have been seen.

    Generated cells are read in shards, each on one worker; what comes of a shard is committed to `OUT.parts`, which is
    removed when the report is there. Results do not depend on the workers.

    Parameters
    ----------
    real : path-like, Atlas or AnnData
        The atlas that the model was trained on, with an obs column `split`.
    generated : path-like, Atlas or AnnData
        Of a store that holds real cells as well (obs column `is_generated`) only the generated ones.
    out : path-like, optional
        Folder for `audit.json`, `audit.html` and `audit.png`; a new one, or that of an earlier audit, which is
        replaced. With Ray on a disk that all workers see, or in a bucket.
    by : str, optional
        obs column of the donors, or of whatever was held out whole: donors are attacked as well, and intervals are
        over donors.
    label : str, optional
        obs column of the types; by default `cell_type`, or the only label column. Without one all cells are of one
        type.
    cells : int
        Training cells, and as many held-out cells, that are asked about, at most. All generated cells are compared
        with them.
    seed : int
    shard_size : int
        Cells that a worker reads and commits at a time.
    resume : bool
        Finish an interrupted audit of the same cells and settings; a finished one is left as it is. AnnData in memory
        cannot be known to be the same.
    ray : {None, "auto", "local"} or str
        Where the workers are: None is threads of this process, else see `cfgen_dist.workers.cluster.connect`; the cells
        are then given as paths.
    workers : int, optional
        By default one a core.

    Returns
    -------
    dict
        What `audit.json` holds: `verdict`, `warnings` and `notes` (sentences), `copies` (see
        `cfgen_dist.evaluation.copies.Copies`), `generated` and `floor` (see `attacks.measures`; each of `generated`
        with a `verdict`, see `verdict.judge`, and `as_many`, its value for as many generated cells as the floor has),
        `check` (see `attacks.split_halves`), `power` (see `planted.power`), `cells` (how many of which kind), `by`,
        `label`, `seed`, `settings`, `provenance`, `seconds`.

    Raises
    ------
    BadInput
        No training or test cells, or too few of the same types; too few generated cells; other genes; `by` a column
        that was not held out whole; values that are not counts; an output that cannot be replaced, parts of another
        audit.
    """
    from cfgen_dist.privacy.report import OURS, write_report  # matplotlib, which workers do without

    started = time.monotonic()
    check_seed(seed)
    for name, value, least in (("cells", cells, FEW), ("shard_size", shard_size, 1)):
        if value < least:
            raise BadInput(f"`{name}`: {value}, expected {least} or more")
    if ray is not None and not all(isinstance(origin, str | Path) for origin in (real, generated)):
        raise BadInput("`ray`: workers open the cells themselves; expected paths, not cells in memory")
    if ray is not None and out is None:
        raise BadInput("`ray`: no output folder; expected one on a disk that all workers see, or in a bucket")
    if out is not None:
        check_output(out, OURS)
    inputs = open_inputs(real, [generated], label)
    atlas, made = inputs.scored()
    if len(made) < FEW:
        raise BadInput(f"{made.name}: {len(made)} generated cells; expected at least {FEW}")
    donors = None if by is None else donors_of(real, atlas, by)
    cohort = draw_cohort(atlas, donors, cells, len(made), seed)
    notes = inputs.notes + _notes(real, atlas, cohort, by)
    settings = {
        "format": FORMAT, "by": by, "label": atlas.label, "seed": seed, "shard_size": shard_size,
        "cells": [atlas.identity, made.identity], "cohort": _digest(cohort),
    }  # fmt: skip
    if resume and (finished := finished_result(out, "audit.json", ResultForm, settings)):
        log.info("%s is complete already: nothing to do", out)
        return finished
    copies = find_copies(atlas, [made])
    warnings, more = sentences_on(copies)
    for line in (*warnings, *more):
        log.info("%s", line)

    with open_pool(Workers(ray, workers)) as pool, parts_of(out, settings, resume, "audit") as folder:
        work = Scan(folder, hashlib.sha256(json.dumps(settings).encode()).hexdigest(), atlas, made)
        fit(work, cohort)
        setup = worker_setup(work, [real, generated], label, ray)
        sizes = {GENERATED: len(made)}
        if len(cohort.floor) >= FEW:
            sizes |= {FLOOR: len(cohort.floor), ALIKE: len(cohort.alike)}
        nearest = scan(work, pool, setup, sizes, shard_size)
        space, queries = work.fitted
        types = atlas.codes[cohort.rows]
        real_found = _measures(FLOOR, nearest, queries, cohort, types, seed, donors) if FLOOR in sizes else None
        floor = None
        if donors is not None and FLOOR in sizes:
            floor = Floor(nearest[FLOOR].overlap, len(made) / (len(made) + len(cohort.floor)))
        made_found = _measures(GENERATED, nearest, queries, cohort, types, seed, donors, floor)
        alike = points(nearest[ALIKE], queries, cohort.is_member) if ALIKE in sizes else {}
        judged = {}
        for name, row in made_found.items():
            as_many = alike.get(name) if name != "near_copies" else None
            judged[name] = (
                {"title": title_of(name)}
                | row
                | {"verdict": judge(name, row, real_found[name] if real_found else None, as_many)}
            )
            judged[name] |= {} if as_many is None else {"as_many": as_many}
        result: dict[str, Any] = {
            "format": FORMAT, "kind": "cfgen-dist audit", "label": atlas.label, "by": by, "seed": seed,
            "cells": _counts(atlas, made, cohort, donors is not None),
            "warnings": inputs.warnings + warnings,
            "copies": asdict(copies[0]),
            "generated": judged,
            "floor": real_found,
            "check": split_halves(
                nearest[GENERATED], queries, cohort.is_member, generator(seed, Audit.HALVES)
            ),
            "power": power(nearest[GENERATED], space, queries, cohort, made_found, floor, seed),
            "notes": notes + more,
            "settings": settings,
            "provenance": {"real": atlas.provenance, "generated": made.provenance},
        }  # fmt: skip
        result["verdict"] = sentences(result, copies[0])
        result["seconds"] = round(time.monotonic() - started, 1)
        result = plain(result)
        if out is not None:
            write_report(out, result)
    return result


def _measures(
    name: str, nearest: Mapping[str, Nearest], queries: Queries, cohort: Cohort, types: Ints, seed: int,
    donors: Donors | None, floor: Floor | None = None,
) -> dict[str, Interval]:  # fmt: skip
    """The measures of a set by name."""
    rng = generator(seed, Audit.BOOTSTRAP, (GENERATED, FLOOR).index(name))
    return measures(nearest[name], queries, cohort, types, rng, donors=donors is not None, floor=floor)


def _notes(real: Source, atlas: Cells, cohort: Cohort, by: str | None) -> list[str]:
    """What should be known of the cells that are asked about."""
    notes = []
    whole = [] if by else held_out_whole(real, atlas)
    if whole:
        notes.append(
            f"Whole categories of {', '.join(whole)} were held out: training and test cells differ by more than by "
            f"training, and what is above 0.5 may be due to that. `by='{whole[0]}'` takes it into account."
        )
    n_donors = min(len(np.unique(side)) for side in np.split(cohort.cluster, 2))
    if by and n_donors < FEW_DONORS:
        notes.append(
            f"Only {n_donors} values of {by} on one side: intervals say little; expected {FEW_DONORS} or more."
        )
    if len(cohort.floor) < FEW:
        notes.append(f"{len(cohort.floor)} training and validation cells are left for the floor: there is none.")
    for note in notes:
        log.info("%s", note)
    return notes


def _counts(atlas: Cells, made: Cells, cohort: Cohort, donors: bool) -> dict[str, Any]:
    """How many cells of which kind there are."""
    n = len(cohort.members)
    counts: dict[str, Any] = {
        "members": n, "held_out": n, "floor": len(cohort.floor), "generated": len(made),
        "train": len(atlas.rows_of("train")), "test": len(atlas.rows_of("test")),
    }  # fmt: skip
    if donors:
        sides = {"training": cohort.cluster[:n], "held_out": cohort.cluster[n:]}
        counts["donors"] = {side: len(np.unique(codes)) for side, codes in sides.items()}
    return counts


def _digest(cohort: Cohort) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(rows).tobytes() for rows in vars(cohort).values())).hexdigest()
