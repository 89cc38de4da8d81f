"""The stages of an evaluation in shards: each a list of items for a pool of workers, then one sum over their parts.

An item is (kind, set, first cell, last cell); what it makes is a part of the workspace, a function of the plan and the
item alone. Items whose part is there already are left out: that is how an evaluation is resumed.
"""

import logging

import numpy as np

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.faithfulness import Profile
from cfgen_dist.evaluation.metrics.markers import LevelSums
from cfgen_dist.evaluation.score import PIECES, collect
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK, LogCovariance, fit_space
from cfgen_dist.evaluation.spaces.tf_idf import TfIdfCovariance, TfIdfProducts, fit_tf_idf
from cfgen_dist.evaluation.workspace import unpack
from data_loaders.files import write_whole
from data_loaders.progress import progress
from data_loaders.statistics.normalisation import LogSums
from data_loaders.statistics.sums import GeneMoments
from data_loaders.statistics.variable_genes import ClippedSums

log = logging.getLogger("cfgen_dist")
SHARD_SIZE = 16_384  # cells
WIDE_SHARDS = 16  # at most, of sums that are matrices (32 MB of 2,000 genes): all are kept until they are added up
WIDE = ("covariance", "tfidf", "products", "levels")
SUMS = {
    "moments": GeneMoments, "log": LogSums, "clipped": ClippedSums, "covariance": LogCovariance,
    "tfidf": TfIdfCovariance, "products": TfIdfProducts, "levels": LevelSums,
}  # fmt: skip
MADE_OF = {  # what empty sums are made of; the number of features otherwise
    "clipped": ("clip",), "covariance": ("genes",), "tfidf": ("idf",), "products": ("idf", "vectors"),
    "levels": ("n_types", "columns", "binary"),
}  # fmt: skip


def run_stage(work, pool, setup, items, what):
    """Do the items that are not done yet, on the workers of `pool`."""
    missing = [item for item in items if work.facts(part_name(item)) is None]
    if not missing:
        return
    if len(missing) < len(items):
        log.info("%s: %d of %d parts are there already", what, len(items) - len(missing), len(items))
    with progress(what, sum(stop - start for *_, start, stop in missing), "cells") as advance:
        for (*_, start, stop), _ in pool(do_item, missing, setup):
            advance(stop - start)


def part_name(item):
    """Name of the part that an item makes."""
    kind, name, start, stop = item
    return f"{kind}-{name}-{start}-{stop}"


def do_item(work, item):
    """Do one item in whatever process this runs, and commit its part."""
    kind, name, start, stop = item
    if kind in PIECES:
        options = {"paper": work.plan["protocol"] == "paper", "seed": work.plan["seed"]}
        draw = int(name.rpartition("-")[2])
        values = PIECES[kind](work.cell_set("test"), work.cell_set(name), draw=draw, **options)
        work.commit(part_name(item), values=values)
    elif kind == "scan":
        codes = np.asarray(work.codes(name)[start:stop])
        centred = name == "test" or work.plan["protocol"] != "paper"
        shard = CellSet.scan(
            work.reader(name, start), codes, work.plan["n_types"], work.space, work.plan["n_genes"], centred=centred
        )
        work.commit(part_name(item), {"pcs": shard.pcs, "sums": shard.sums, "cells": shard.cells} | vars(shard.profile))
    else:
        read, codes, sums = work.reader(name), work.codes(name), empty_sums(work, kind)
        for first in range(start, stop, BLOCK):
            positions = np.arange(first, min(first + BLOCK, stop))
            more = [np.asarray(codes[positions])] if isinstance(sums, LevelSums) else []
            sums.add(read(positions), *more)
        work.commit(part_name(item), vars(sums))


def empty_sums(work, kind):
    """Sums of a kind without any cells, as the driver committed them; `kind` is one of `SUMS`, `.` and a number."""
    made_of = work.arrays(f"empty-{kind}").values()
    return SUMS[kind.partition(".")[0]](*(each if each.ndim else each.item() for each in made_of))


def add_up(work, pool, setup, size, empty, kind):
    """Add all cells of some sets, shard by shard, in the order of the shards; the sums of a set are kept as one part.

    Parameters
    ----------
    work, pool, setup, size
        As everywhere here.
    empty : dict of str to sums
        Set → sums without cells, alike for all sets.
    kind : str
        As `empty_sums` takes it.

    Returns
    -------
    dict of str to sums
    """
    wide = kind.partition(".")[0] in WIDE
    items = {}
    for name in empty:
        n_cells = work.n_cells(name)
        if work.facts(f"sum-{kind}-{name}") is None:
            items[name] = shards(kind, name, n_cells, max(size, -(-n_cells // WIDE_SHARDS)) if wide else size)
    if items:
        made_of = MADE_OF.get(kind.partition(".")[0], ())
        sums = empty[next(iter(items))]
        values = [getattr(sums, each) for each in made_of] or [len(sums.total)]
        work.commit(f"empty-{kind}", {f"{i:02d}": value for i, value in enumerate(values)})
        run_stage(work, pool, setup, [item for name in items for item in items[name]], f"sums: {kind}")
    for name, sums in empty.items():
        if name not in items:
            unpack(sums, work.arrays(f"sum-{kind}-{name}"))
            continue
        for item in items[name]:
            sums.merge(unpack(empty_sums(work, kind), work.arrays(part_name(item))))
        work.commit(f"sum-{kind}-{name}", vars(sums))
        work.remove(map(part_name, items[name]))
    return empty


def shards(kind, name, n_cells, size):
    """Items over all cells of a set."""
    return [(kind, name, start, min(start + size, n_cells)) for start in range(0, n_cells, size)]


def fit(work, pool, setup, size):
    """Fit the space to the test cells and commit it as `space`."""
    if work.facts("space"):
        return
    passes = []

    def pass_over(sums, number=0):
        kind = next(kind for kind, cls in SUMS.items() if type(sums) is cls) + f".{number}"
        passes.extend([f"empty-{kind}", f"sum-{kind}-test"])
        return add_up(work, pool, setup, size, {"test": sums}, kind)["test"]

    fitted = fit_tf_idf if work.plan.get("space") == "TF-IDF" else fit_space
    work.commit("space", vars(fitted(work.plan["n_genes"], pass_over)))
    work.remove(passes)


def scan(work, pool, setup, size):
    """Project and sum the cells of all sets; each set becomes one part, its components one file."""
    names = [name for name in work.plan["sets"] if name != "train" and work.facts(f"set-{name}") is None]
    items = {name: shards("scan", name, work.n_cells(name), size) for name in names}
    run_stage(work, pool, setup, [item for name in names for item in items[name]], "read cells")
    for name in names:
        _put_together(work, name, items[name])


def _put_together(work, name, items):
    """Commit a set from its shards, one shard in memory at a time."""
    profile = Profile(work.plan["n_genes"])
    sums = cells = 0
    width = work.space.loadings.shape[1]

    def write(file):
        nonlocal sums, cells
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (work.n_cells(name), width)}
        )
        for item in items:
            part = work.arrays(part_name(item))
            file.write(np.ascontiguousarray(part["pcs"], "<f8").tobytes())
            profile.merge(unpack(Profile(work.plan["n_genes"]), part))
            sums, cells = sums + part["sums"], cells + part["cells"]

    write_whole(work.folder / f"{name}.pcs.npy", write)
    work.commit(f"set-{name}", {"sums": sums, "cells": cells} | vars(profile))
    work.remove(map(part_name, items))


def score(work, pool, setup, names, pieces=PIECES):
    """Metrics and table per type of each set of cells to compare, {name: (metrics, types)}; see `score.collect`.

    Parameters
    ----------
    names : array of str (K,)
        Of the types.
    pieces : collection of str
        Those of `score.PIECES` that are wanted.
    """
    sets = [name for name in work.plan["sets"] if name not in ("test", "train")]
    items = {(name, kind): (kind, name, 0, work.n_cells(name)) for name in sets for kind in pieces}
    run_stage(work, pool, setup, list(items.values()), "score")
    real = work.cell_set("test")
    scores = {}
    for name in sets:
        found = {kind: work.facts(part_name(items[name, kind]))["values"] for kind in pieces}
        scores[name] = collect(found, real, work.cell_set(name), names)
    return scores
