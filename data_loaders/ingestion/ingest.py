"""From any source of counts to an atlas store, out of core.

1. Open the sources: shapes, obs and var only. Refuse what can be refused without reading counts.
2. Read every count once: check it, and set it aside on disk in buckets (`data_loaders.ingestion.buckets`).
3. Sum over the buckets what the choice of genes needs, choose the genes, find the cells left empty.
4. Split the cells into train, val and test; write the buckets in order.

Memory: one block of the source and one bucket, beside the obs table. Disk: about the size of the atlas, beside it and
only while this runs.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.files import refuse_existing, temporary_folder
from data_loaders.ingestion.buckets import Spill
from data_loaders.ingestion.cells import merge_obs
from data_loaders.ingestion.gather import gather
from data_loaders.ingestion.genes import join_genes, parse_hvg, read_gene_list
from data_loaders.ingestion.modalities import MAIN, match_cells, sources_by_modality
from data_loaders.ingestion.splits import holdout_split, random_split
from data_loaders.progress import progress
from data_loaders.seeds import Ingestion, check_seed, generator
from data_loaders.sources.open import open_source
from data_loaders.writing.writer import AtlasWriter


def ingest(
    sources,
    out,
    *,
    labels=(),
    min_cells=20,
    genes=None,
    test_fraction=0.2,
    holdout=None,
    val_fraction=0.1,
    layer=None,
    raw=False,
    join=None,
    cells="same",
    obs_files=None,
    drop_empty=False,
    keep_order=False,
    measurement=None,
    obs_filter=None,
    seed=0,
):
    """Write an atlas from one or many sources of counts.

    Parameters
    ----------
    sources : path or list of paths, or dict of str to either
        h5ad and h5mu files, AnnData-Zarr stores, 10x HDF5 files, 10x Matrix Market folders, SOMA experiments (path or
        URI). An h5mu file is all its modalities, `FILE.h5mu:NAME` one of them; a dict names the modality of each
        path. `rna` must be among several: labels and size factors are its own, and `genes`, `layer` and `raw` choose
        within it.
    out : path-like
        Store to write; must not exist.
    labels : sequence of str
        obs columns to condition on; kept as categories. The first one stratifies the split.
    min_cells : int
        Genes with counts in fewer cells, over all cells, are dropped. Not applied to a list of genes.
    genes : str, optional
        "hvg:N" for the N most variable genes by Seurat 3's method among those that pass `min_cells`, over all cells
        with counts; or a text file of gene names, one a line, which are taken in the file's order.
    test_fraction : float
        Share of test cells, random within each category of the first label.
    holdout : tuple of (str, float), optional
        In place of `test_fraction`: an obs column (donor) and the share of its categories that are held out to test on.
    val_fraction : float
        Share of the other cells that validate, random within each category of the first label.
    layer, raw : str, bool
        Where the counts of AnnData sources are; by default the first of X, layers["counts"] and raw that holds whole
        numbers, or else the only other layer that does. `layer` names an X layer of SOMA experiments too.
    join : {None, "inner", "outer"}
        What to do when sources differ in their genes: refuse, keep the shared ones, or keep all (missing means zero).
    cells : {"same", "shared", "rna"}
        What to do when modalities differ in their cells: refuse, keep those that all have, or keep all cells of rna,
        without counts where another modality lacks them.
    obs_files : path or list of paths, optional
        CSV or TSV tables of obs columns, cell names first: one for all sources, or one for each.
    drop_empty : bool
        Drop cells without counts in the chosen genes, and count them in the card; they are refused otherwise.
    keep_order : bool
        Keep the cells in the order of the sources. By default they are shuffled once here, so that the reads of a
        shuffled stream can be large and contiguous and every batch is still a random sample; `obs["source_row"]` has
        the original rows.
    measurement : str, optional
        Of SOMA experiments; the only one, or RNA, by default.
    obs_filter : str, optional
        Value filter of SOMA experiments, such as `tissue == "lung"`: only these cells are read.
    seed : int
        Of the split and the shuffle.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    BadInput
        For anything about the sources or options that the user has to change; nothing is written then.
    """
    paths = sources_by_modality(sources)
    refuse_existing(out)
    check_seed(seed)
    _check_options(paths, min_cells, test_fraction, val_fraction, holdout, join)
    genes = None if genes is None else str(genes)
    n_hvg = parse_hvg(genes) if genes else None
    with ExitStack() as files:
        folder = files.enter_context(temporary_folder(beside=out))
        chosen = {"layer": layer, "raw": raw, "measurement": measurement, "obs_filter": obs_filter}
        opened = _open(files, paths[MAIN], chosen, obs_files)
        others = {name: _open(files, paths[name], {}, None) for name in paths if name != MAIN}
        for source in (source for part in others.values() for source in part):
            source.choices = ""  # --layer and --raw choose within rna
        var = join_genes(opened, join)
        listed = read_gene_list(genes, var.index) if genes and n_hvg is None else None
        obs, notes = merge_obs(opened, labels, also=[holdout[0]] if holdout else [])
        if holdout and len(obs[holdout[0]].cat.categories) < 2:
            raise BadInput(f"--holdout {holdout[0]}: the column has a single category; expected two or more")

        rng = generator(seed, Ingestion.SHUFFLE)
        position = np.arange(len(obs)) if keep_order else rng.permutation(len(obs))
        # The same number for all modalities: then their buckets hold the same cells.
        n_values = sum(source.matrix.n_values for source in [*opened, *(s for part in others.values() for s in part)])
        ends = np.cumsum([len(source.obs) for source in opened])
        rows_of = [np.arange(end - len(source.obs), end) for source, end in zip(opened, ends, strict=True)]
        rna = gather(
            opened, rows_of, var, Spill(folder, position, n_values, len(var)),
            min_cells=min_cells, n_hvg=n_hvg, listed=listed,
        )  # fmt: skip
        kept_cells = rna.totals > 0
        _refuse_empty(kept_cells, obs, opened, drop_empty)
        gathered = {}
        for name, part in others.items():
            rows_of, measured, found = match_cells(name, part, opened, cells)
            notes += found
            features = join_genes(part, join)
            own = folder / name
            own.mkdir()
            gathered[name] = gather(
                part, rows_of, features, Spill(own, position, n_values, len(features)),
                min_cells=min_cells, what=f"feature of modality {name!r}",
            )  # fmt: skip
            if cells != "rna":
                kept_cells = kept_cells & measured
                _refuse_empty((gathered[name].totals > 0) | ~kept_cells, obs, opened, drop_empty, f"{name} ")
                kept_cells = kept_cells & (gathered[name].totals > 0)
        held_out = _split(obs, kept_cells, labels, test_fraction, holdout, val_fraction, seed)
        options = {
            "labels": list(labels),
            "min_cells": min_cells,
            "genes": genes,
            "join": join,
            **({"cells": cells} if others else {}),
            "drop_empty": drop_empty,
            "in_order": keep_order,
            **({"obs_filter": obs_filter} if obs_filter else {}),
            "seed": seed,
            "val_fraction": val_fraction,
            **({"holdout": list(holdout), "held_out": held_out} if holdout else {"test_fraction": test_fraction}),
        }
        provenance = {
            "sources": [
                {"path": s.path, "counts": s.counts_from, "n_cells": len(s.obs), "n_genes": len(s.var)}
                for part in [opened, *others.values()]
                for s in part
            ],
            "options": options,
            "dropped": {
                "empty_cells": int((rna.totals == 0).sum()),
                **({"cells_without_all_modalities": int((~kept_cells & (rna.totals > 0)).sum())} if others else {}),
                "genes_below_min_cells": rna.dropped()[0],
                "genes_not_chosen": rna.dropped()[1],
                **{f"{name}_features_below_min_cells": part.dropped()[0] for name, part in gathered.items()},
            },
            "notes": [note for part in [opened, *others.values()] for s in part for note in s.notes]
            + notes
            + rna.notes,
            "statistics": "var mean and variance and the size-factor law are over the training cells; n_cells over all",
        }
        return _write(out, rna, gathered, obs, kept_cells, labels, provenance)


def _check_options(paths, min_cells, test_fraction, val_fraction, holdout, join):
    if not paths[MAIN]:
        raise BadInput("no sources; expected at least one")
    if min_cells < 0:
        raise BadInput(f"--min-cells {min_cells}: expected 0 or more")
    fractions = {"--test-fraction": test_fraction, "--val-fraction": val_fraction}
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise BadInput(f"{name} {value}: expected a share of at least 0 and below 1")
    if holdout and not 0 < holdout[1] < 1:
        raise BadInput(f"--holdout {holdout[0]}={holdout[1]}: expected a share above 0 and below 1")
    if join not in (None, "inner", "outer"):
        raise BadInput(f"--join {join}: {nearest(join, ['inner', 'outer'])}")


def _open(files, paths, chosen, obs_files):
    tables = [obs_files] if isinstance(obs_files, str | Path) else list(obs_files or [None])
    if len(tables) == 1:
        tables *= len(paths)
    if len(tables) != len(paths):
        raise BadInput(f"--obs: {len(tables)} tables for {len(paths)} sources; expected one, or one for each")
    seen = set()
    for path in paths:
        if (place := Path(path).resolve()) in seen:
            raise BadInput(f"{path}: given more than once; expected each source once")
        seen.add(place)
    opened = []
    for path, table in zip(paths, tables, strict=True):
        opened.append(open_source(path, obs_file=table, **chosen))
        files.callback(opened[-1].close)
    return opened


def _refuse_empty(kept_cells, obs, opened, drop_empty, of=""):
    n_empty = int((~kept_cells).sum())
    if n_empty == len(kept_cells):
        raise BadInput(f"{opened[0].path}: no cell has {of}counts in the chosen genes")
    if n_empty and not drop_empty:
        row = int(np.flatnonzero(~kept_cells)[0])
        ends = np.cumsum([len(source.obs) for source in opened])
        source = opened[int(np.searchsorted(ends, row, side="right"))]
        raise BadInput(
            f"{source.path}: cell {str(obs.index[row])!r} has no {of}counts in the chosen genes, one of {n_empty:,} "
            "such cells; --drop-empty leaves them out"
        )


def _split(obs, kept_cells, labels, test_fraction, holdout, val_fraction, seed):
    """Add the split column; returns the names held out."""
    cells = obs[kept_cells]
    strata = cells[labels[0]].cat.codes.to_numpy() if labels else np.zeros(len(cells), np.int8)
    held_out = []
    if holdout:
        groups = cells[holdout[0]].cat.remove_unused_categories().array
        split, held_out = holdout_split(groups, holdout[1], strata, val_fraction=val_fraction, seed=seed)
    else:
        split = random_split(strata, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed)
    codes = np.full(len(obs), -1, np.int8)
    codes[kept_cells] = split.codes
    obs["split"] = pd.Categorical.from_codes(codes, dtype=split.dtype)
    return held_out


def _write(out, rna, others, obs, kept_cells, labels, provenance):
    """Write the buckets in order."""
    for name in labels:
        used = obs[name][kept_cells].cat.remove_unused_categories().cat.categories
        obs[name] = obs[name].cat.set_categories(used)
    features = {name: part.var.iloc[part.chosen] for name, part in others.items()}
    with AtlasWriter(out, rna.var.iloc[rna.chosen], labels=labels, modalities=features) as writer:
        with progress("write", int(kept_cells.sum()), "cells") as advance:
            for number in range(rna.spill.n_buckets):
                rows, block = rna.read(number, kept_cells)
                beside = {name: part.read(number, kept_cells)[1] for name, part in others.items()}
                writer.append(block, obs.iloc[rows], beside)
                advance(len(rows))
        return writer.close(provenance=provenance)
