"""From any source of counts to an atlas store, out of core.

1. Open the sources: shapes, obs and var only. Refuse what can be refused without reading counts.
2. Read every count once: check it, and set it aside on disk in buckets (`data_loaders.spill`).
3. Sum over the buckets what the choice of genes needs, choose the genes, find the cells left empty.
4. Split the cells into train, val and test; write the buckets in order.

Memory: one block of the source and one bucket, beside the obs table. Disk: about the size of the atlas, beside it and
only while this runs.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from data_loaders import seurat_v3
from data_loaders.counts import as_counts
from data_loaders.csr import add_row_sums, choose_columns
from data_loaders.errors import BadInput, nearest
from data_loaders.files import refuse_existing, temporary_folder
from data_loaders.genes import column_map, join_genes, parse_hvg, read_gene_list
from data_loaders.obs_table import merge_obs
from data_loaders.parallel import ordered_map, reduce_items
from data_loaders.progress import progress
from data_loaders.sources import open_source
from data_loaders.spill import Spill
from data_loaders.splits import check_seed, holdout_split, random_split
from data_loaders.statistics import GeneMoments
from data_loaders.writer import AtlasWriter

SHUFFLE = 2  # purpose of the seed


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
    sources : path or list of paths
        h5ad files, AnnData-Zarr stores, 10x HDF5 files, 10x Matrix Market folders, SOMA experiments (path or URI).
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
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    refuse_existing(out)
    check_seed(seed)
    _check_options(paths, min_cells, test_fraction, val_fraction, holdout, join)
    genes = None if genes is None else str(genes)
    n_hvg = parse_hvg(genes) if genes else None
    with ExitStack() as files:
        folder = files.enter_context(temporary_folder(beside=out))
        chosen = {"layer": layer, "raw": raw, "measurement": measurement, "obs_filter": obs_filter}
        opened = _open(files, paths, chosen, obs_files)
        var = join_genes(opened, join)
        listed = read_gene_list(genes, var.index) if genes and n_hvg is None else None
        obs, notes = merge_obs(opened, labels, also=[holdout[0]] if holdout else [])
        if holdout and len(obs[holdout[0]].cat.categories) < 2:
            raise BadInput(f"--holdout {holdout[0]}: the column has a single category; expected two or more")

        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SHUFFLE,)))
        position = np.arange(len(obs)) if keep_order else rng.permutation(len(obs))
        spill = Spill(folder, position, sum(source.matrix.n_values for source in opened), len(var))
        looked = "" if layer or raw else "; name another matrix by --layer NAME or --raw"
        _set_aside(opened, var.index, spill, looked)
        moments, totals = _sum_up(spill, len(obs))
        kept_genes, too_rare = _choose_genes(moments, totals, spill, min_cells, n_hvg, listed)
        kept_cells = _nonempty(spill, totals, kept_genes, len(var)) > 0
        _refuse_empty(kept_cells, obs, opened, drop_empty)
        held_out = _split(obs, kept_cells, labels, test_fraction, holdout, val_fraction, seed)
        options = {
            "labels": list(labels),
            "min_cells": min_cells,
            "genes": genes,
            "join": join,
            "drop_empty": drop_empty,
            "in_order": keep_order,
            **({"obs_filter": obs_filter} if obs_filter else {}),
            "seed": seed,
            "val_fraction": val_fraction,
            **({"holdout": list(holdout), "held_out": held_out} if holdout else {"test_fraction": test_fraction}),
        }
        provenance = {
            "sources": [
                {"path": s.path, "counts": s.counts_from, "n_cells": len(s.obs), "n_genes": len(s.var)} for s in opened
            ],
            "options": options,
            "dropped": {
                "empty_cells": int((~kept_cells).sum()),
                "genes_below_min_cells": too_rare,
                "genes_not_chosen": len(var) - too_rare - len(kept_genes),
            },
            "notes": [note for source in opened for note in source.notes] + notes,
            "statistics": "var mean and variance and the size-factor law are over the training cells; n_cells over all",
        }
        return _write(out, spill, var, obs, kept_genes, kept_cells, labels, provenance)


def _check_options(paths, min_cells, test_fraction, val_fraction, holdout, join):
    if not paths:
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


def _set_aside(opened, genes, spill, looked):
    """Read all counts once: check them, rename their columns, add them to the buckets."""
    offset = 0
    with progress("read", sum(source.matrix.n_values for source in opened)) as advance:
        for source in opened:
            columns = column_map(source, genes)

            def checked(item, source=source, columns=columns, offset=offset):
                rows, block = item
                n_values = block.nnz
                block = as_counts(block, rows, source, looked)
                block = choose_columns(block, columns, len(genes))
                return spill.encode(rows + offset, block), n_values

            for pieces, n_values in ordered_map(checked, source.matrix.blocks()):
                spill.write(pieces)
                advance(n_values)
            offset += len(source.obs)


def _sum_up(spill, n_rows):
    """Gene moments over all cells, and the total of each cell."""
    totals, one = np.zeros(n_rows), np.ones(spill.n_columns)

    def moments(number):
        sums = GeneMoments(spill.n_columns)
        for rows, lengths, columns, counts in spill.frames(number):
            sums.add(counts, columns, np.append(0, np.cumsum(lengths)))
            add_row_sums(rows, lengths, columns, counts, one, totals)
        return sums

    merged = reduce_items(moments, range(spill.n_buckets), GeneMoments.merge)
    merged.n_cells = int((totals > 0).sum())
    return merged, totals


def _choose_genes(moments, totals, spill, min_cells, n_hvg, listed):
    """Positions of the chosen genes, and how many were seen in too few cells."""
    if listed is not None:
        return listed, 0
    enough = np.flatnonzero(moments.nonzero >= min_cells)
    too_rare = len(moments.nonzero) - len(enough)
    if len(enough) == 0:
        raise BadInput(
            f"--min-cells {min_cells}: no gene is left of {len(moments.nonzero):,}; the most common one has counts in "
            f"{int(moments.nonzero.max()):,} of {len(totals):,} cells"
        )
    if n_hvg is None:
        return enough, too_rare
    if n_hvg > len(enough):
        raise BadInput(f"--genes hvg:{n_hvg}: only {len(enough):,} genes have counts in {min_cells} cells or more")
    mean, variance, n = moments.mean()[enough], moments.variance()[enough], moments.n_cells
    try:
        expected = seurat_v3.expected_variance(mean, variance)
    except ValueError as error:
        raise BadInput(
            f"--genes hvg:{n_hvg}: the loess curve cannot be fitted ({' '.join(str(error).split())})"
        ) from error
    clip = np.full(len(moments.nonzero), np.inf)
    clip[enough] = seurat_v3.clip_at(mean, expected, n)

    def clipped(number):
        sums = np.zeros((2, len(clip)))
        for _, _, columns, counts in spill.frames(number):
            seurat_v3.add_clipped(columns, counts, clip, sums[0], sums[1])
        return sums

    total, squares = reduce_items(clipped, range(spill.n_buckets), np.add)[:, enough]
    score = seurat_v3.standardised_variance(mean, expected, n, total, squares)
    return enough[seurat_v3.top(score, n_hvg)], too_rare


def _nonempty(spill, totals, kept_genes, n_genes):
    """Total of each cell over the chosen genes."""
    if len(kept_genes) == n_genes:
        return totals
    chosen = np.zeros(n_genes)
    chosen[kept_genes] = 1.0
    left = np.zeros_like(totals)

    def add(number):
        for rows, lengths, columns, counts in spill.frames(number):
            add_row_sums(rows, lengths, columns, counts, chosen, left)
        return 0

    reduce_items(add, range(spill.n_buckets), lambda a, b: 0)
    return left


def _refuse_empty(kept_cells, obs, opened, drop_empty):
    n_empty = int((~kept_cells).sum())
    if n_empty == len(kept_cells):
        raise BadInput(f"{opened[0].path}: no cell has counts in the chosen genes")
    if n_empty and not drop_empty:
        row = int(np.flatnonzero(~kept_cells)[0])
        ends = np.cumsum([len(source.obs) for source in opened])
        source = opened[int(np.searchsorted(ends, row, side="right"))]
        raise BadInput(
            f"{source.path}: cell {str(obs.index[row])!r} has no counts in the chosen genes, nor have {n_empty - 1:,} "
            "others; --drop-empty leaves them out"
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


def _write(out, spill, var, obs, kept_genes, kept_cells, labels, provenance):
    """Write the buckets in order."""
    columns = np.full(len(var), -1, np.int64)
    columns[kept_genes] = np.arange(len(kept_genes))
    for name in labels:
        used = obs[name][kept_cells].cat.remove_unused_categories().cat.categories
        obs[name] = obs[name].cat.set_categories(used)
    with AtlasWriter(out, var.iloc[kept_genes], labels=labels) as writer:
        with progress("write", int(kept_cells.sum())) as advance:
            for number in range(spill.n_buckets):
                rows, block = spill.assemble(number)
                kept = kept_cells[rows]
                block = choose_columns(block[kept], columns, len(kept_genes))
                writer.append(block, obs.iloc[rows[kept]])
                advance(int(kept.sum()))
        return writer.close(provenance=provenance)
