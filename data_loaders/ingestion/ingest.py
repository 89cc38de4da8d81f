"""From any source of counts to an atlas store, out of core.

1. Open the sources: shapes, obs and var only. Refuse what can be refused without reading counts.
2. Read every count once: check it, and set it aside on disk in buckets (`data_loaders.ingestion.buckets`).
3. Split the cells into train, val and test.
4. Sum over the buckets what the choice of genes needs, test cells left aside; choose the genes (`choice`), find the
   cells left empty.
5. Write the buckets in order.

Memory: one block of the source and one bucket, beside the obs table. Disk: about the size of the atlas, beside it and
only while this runs.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.features.feature_types import left_out_notes, refuse_copies
from data_loaders.features.gene_names import one_for_each
from data_loaders.features.shared_names import MIN_SHARED
from data_loaders.files import temporary_folder
from data_loaders.ingestion.buckets import Spill
from data_loaders.ingestion.cells import merge_obs
from data_loaders.ingestion.choice import Kept, choose_features, keep_listed
from data_loaders.ingestion.copies import Copies
from data_loaders.ingestion.equal_cells import equal_cells
from data_loaders.ingestion.gather import gather
from data_loaders.ingestion.genes import join_genes, parse_hvg, read_gene_list
from data_loaders.ingestion.holdout import Holdout, check_holdout, check_share, held_columns, hold_out
from data_loaders.ingestion.left_out import leave_out_empty
from data_loaders.ingestion.modalities import MAIN, Paths, listed_paths, match_cells, sources_by_modality
from data_loaders.ingestion.opening import Check, Refusals, open_all
from data_loaders.ingestion.paths import expand
from data_loaders.ingestion.provenance import described, dropped, rounding_notes, used_options
from data_loaders.ingestion.splits import random_split
from data_loaders.labels import check_unlabelled, parse_missing
from data_loaders.locks import one_at_a_time
from data_loaders.progress import progress
from data_loaders.seeds import Ingestion, check_seed, generator
from data_loaders.sources.counts import same_sums_note
from data_loaders.sources.open import open_source
from data_loaders.sources.source import Options, Source
from data_loaders.types import Bools, Ints, PathLike
from data_loaders.writing.building import check_new
from data_loaders.writing.writer import AtlasWriter


@dataclass(frozen=True)
class Splitting:
    """How cells are split: the arguments of `ingest` of these names."""

    test_fraction: float
    holdout: Holdout
    val_fraction: float
    seed: int


def ingest(
    sources: Paths | Mapping[str, Paths],
    out: PathLike,
    *,
    labels: Sequence[str] = (),
    min_cells: int = 20,
    genes: PathLike | None = None,
    test_fraction: float = 0.2,
    holdout: Holdout = None,
    val_fraction: float = 0.1,
    layer: str | None = None,
    raw: bool = False,
    genes_in: str | None = None,
    genes_table: PathLike | None = None,
    join: str | None = None,
    cells: str = "same",
    obs_files: Paths | None = None,
    drop_empty: bool = False,
    keep_order: bool = False,
    organism: str | None = None,
    measurement: str | None = None,
    obs_filter: str | None = None,
    var_names: str | Sequence[str] | None = None,
    min_shared: float = MIN_SHARED,
    missing_values: str | Sequence[str] = (),
    unlabelled: str = "refuse",
    drop_copies: bool = False,
    round_counts: bool = False,
    skip_refused: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write an atlas from one or many sources of counts.

    Parameters
    ----------
    sources : path or list of paths, or dict of str to either
        h5ad and h5mu files, AnnData-Zarr stores, 10x HDF5 files, 10x Matrix Market folders, SOMA experiments (path or
        URI), tables of counts, Parquet with a row a cell (a file, a folder or a pattern of parts). An h5mu file is all
        its modalities, `FILE.h5mu:NAME` one of them; a dict names the modality of each path. `rna` must be among
        several: labels and size factors are its own, and `genes`, `layer`, `raw` and `var_names` choose within it.
        Where a source tells the types of its features, a modality gets those of its own
        (`data_loaders.features.feature_types`), so the same path may be given for several.
        A pattern (`folder/*.h5ad`), a folder of sources, and a text file of paths, one a line, stand for many; see
        `data_loaders.ingestion.paths`. Addresses are read in place or copied, see `data_loaders.ingestion.copies`.
    out : path-like or address
        Store to write; must not exist.
    labels : sequence of str
        obs columns to condition on; kept as categories. The first one stratifies the split.
    min_cells : int
        Genes with counts in fewer cells that train or validate are dropped. Not applied to a list of genes.
    genes : str, optional
        "hvg:N" for the N most variable genes by Seurat 3's method among those that pass `min_cells`, over the cells
        that train or validate: test cells never choose. Or a text file of gene names, one a line, which are taken in
        the file's order.
    test_fraction : float
        Share of test cells, random within each category of the first label.
    holdout : tuple of (str, float), or dict of str to str, optional
        In place of `test_fraction`: an obs column (donor) and the share of its categories that are held out to test on.
        Or a combination, obs column → category (`{"cell_type": "CD4 T cells", "condition": "stim"}`): the cells that
        have all of it are the test cells.
    val_fraction : float
        Share of the other cells that validate, random within each category of the first label.
    layer, raw : str, bool
        Where the counts of AnnData sources are; by default the first of X, layers["counts"] and raw that holds whole
        numbers, or else the only other layer that does. `layer` names an X layer of SOMA experiments too, and the list
        of values of Parquet files.
    genes_in : {None, "rows", "columns"}
        Which axis of text tables is the genes; by default their names tell, or the table is refused.
    genes_table : path-like, optional
        Of Parquet files of cells: the table of the genes that tokens stand for, Parquet or text. By default the only
        one beside the files, see `data_loaders.sources.gene_tokens`.
    join : {None, "inner", "outer"}
        What to do when sources differ in their genes: refuse, keep the shared ones, or keep all (missing means zero).
    cells : {"same", "shared", "rna"}
        What to do when modalities differ in their cells: refuse, keep those that all have, or keep all cells of rna,
        without counts where another modality lacks them.
    obs_files : path or list of paths, optional
        Tables of obs columns, cell names first, as `data_loaders.tables` reads them (CSV, TSV, Parquet, ...): one for
        all sources, or one for each. A cell that a table lacks has no label in it; rows of no cell are ignored.
    drop_empty : bool
        Drop cells without counts in the chosen genes, and count them in the card; they are refused otherwise.
    keep_order : bool
        Keep the cells in the order of the sources. By default they are shuffled once here, so that the reads of a
        shuffled stream can be large and contiguous and every batch is still a random sample; `obs["source_row"]` has
        the original rows.
    organism : str, optional
        Of a CELLxGENE Census, such as "homo_sapiens"; its primary cells alone are taken, unless `obs_filter` names
        `is_primary_data`.
    measurement : str, optional
        Of SOMA experiments; the only one, or RNA, by default.
    obs_filter : str, optional
        Which cells to take, an expression over obs such as `tissue == "lung" and n_genes > 500`, see
        `data_loaders.obs_filter`. The others are counted in the card.
    var_names : str or sequence of str, optional
        The var column with the gene names (`index`: the index of var), one for all sources or one for each. When left
        out, by the rule of `data_loaders.features.gene_names`.
    min_shared : float
        Sources are joined when at least this share of the genes of the smaller list is in both; 0 joins them whatever
        their names.
    missing_values : sequence of str, or str with commas
        Texts that are no label, such as "nan" and "unknown", whatever their case. Missing values and empty text are
        none anyway.
    unlabelled : {"refuse", "drop", "keep"}
        What to do with cells that have no value in a label column: refuse, leave them out and count them in the card,
        or keep them with the code -1: a model trains on them with that attribute absent.
    drop_copies : bool
        Leave out cells whose `is_primary_data` is False, and cells with exactly the counts of an earlier one in all
        genes. They are counted and noted otherwise.
    round_counts : bool
        Round fractional counts, such as those that SoupX and DecontX correct; the card has how many and by how much.
        Values that are whole but for the error of floats (1e-6) are counts anyway, normalised ones never.
    skip_refused : bool
        Leave out sources that cannot be used, and note their reasons; all are read once more beforehand. Otherwise
        the first step that meets refused sources names all of them.
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
    arguments = dict(locals())  # as they were given, for the card
    found: list[str] = []
    given = expand(listed_paths(sources), found)
    check_new(out)
    check_seed(seed)
    how_to_split = Splitting(test_fraction, holdout, val_fraction, seed)
    genes = None if genes is None else str(genes)
    n_hvg = parse_hvg(genes) if genes else None
    missing_values = parse_missing(missing_values)
    check_unlabelled(unlabelled)
    with ExitStack() as files:
        local = Copies(files)
        files.enter_context(local.by_address())
        paths = sources_by_modality(local.of_all(given))
        _check_options(paths, min_cells, how_to_split, join, skip_refused)
        files.enter_context(one_at_a_time(out))
        folder = files.enter_context(temporary_folder(beside=out))
        also = held_columns(holdout)
        refusals = Refusals(skip_refused)
        may_lack = "refuse" if unlabelled == "refuse" else "keep"  # a check leaves no cell out

        def check(source: Source) -> None:
            merge_obs([source], labels, also, missing_values=missing_values, unlabelled=may_lack)

        table = None if genes_table is None else str(genes_table)
        options_of_rna = Options(layer, raw, measurement, obs_filter, round_counts, genes_in, table, organism)
        opened = _open(files, local, paths[MAIN], options_of_rna, obs_files, refusals, check, var_names=var_names)
        refused = refusals.notes()
        further = Options(round_counts=round_counts)
        others = {
            name: _open(files, local, paths[name], further, None, Refusals(False), modality=name)
            for name in paths
            if name != MAIN
        }
        refuse_copies({MAIN: opened} | others)
        every = [*opened, *(source for part in others.values() for source in part)]
        for source in every[len(opened) :]:
            source.choices = ""  # `layer` and `raw` choose within rna
        var, lost = join_genes(opened, join, min_shared)
        listed = read_gene_list(genes, var.index) if genes and n_hvg is None else None
        obs, notes, left_out = merge_obs(
            opened, labels, also,
            missing_values=missing_values, unlabelled=unlabelled, drop_copies=drop_copies,
        )  # fmt: skip
        notes += left_out_notes({MAIN: opened} | others) + lost
        check_holdout(holdout, obs)

        rng = generator(seed, Ingestion.SHUFFLE)
        position = np.arange(len(obs)) if keep_order else rng.permutation(len(obs))
        # The same number for all modalities: then their buckets hold the same cells.
        n_values = sum(source.matrix.n_values for source in every)
        ends = np.cumsum([len(source.obs) for source in opened])
        rows_of = [np.arange(end - len(source.obs), end) for source, end in zip(opened, ends, strict=True)]
        rna = gather(opened, rows_of, var, Spill(folder, position, n_values, len(var)))
        notes += same_sums_note(rna.identity.totals)
        kept = {} if listed is None else {MAIN: keep_listed(rna, listed)}
        kept_cells = np.ones(len(obs), bool)
        if not kept and not rna.identity.totals.any():
            choose_features(rna, kept_cells, min_cells=min_cells)  # refuses, unless genes without counts may stay
        leave_out = functools.partial(leave_out_empty, kept_cells, obs, opened, drop_empty)
        n_empty = leave_out(kept[MAIN].totals if kept else rna.identity.totals)
        n_incomplete = 0
        gathered = {}
        for name, part in others.items():
            matched = match_cells(name, part, opened, cells)
            notes += matched.notes
            features, lost = join_genes(part, join, min_shared, f"{name} features")
            notes += lost
            buckets = folder / name
            buckets.mkdir()
            gathered[name] = gather(part, matched.rows_of, features, Spill(buckets, position, n_values, len(features)))
            if cells != "rna":
                n_incomplete += int((kept_cells & ~matched.measured).sum())
                kept_cells &= matched.measured
                n_incomplete += leave_out(gathered[name].identity.totals, f"{name} ")
        copies = equal_cells(rna.identity, kept_cells, ends)
        notes += copies.notes(drop_copies)
        if drop_copies:
            kept_cells &= ~copies.rows
            left_out["cells_equal_to_others"] = copies.n_cells
        n_filtered = sum(source.n_filtered for source in opened)
        left_out |= {"cells_filtered_out": n_filtered} if obs_filter else {}
        notes += rounding_notes(every)
        held_out = _split(obs, kept_cells, labels, how_to_split)
        choosing = kept_cells & (obs["split"] != "test").to_numpy()
        if not kept:
            kept[MAIN] = choose_features(rna, choosing, min_cells=min_cells, n_hvg=n_hvg)
            notes += kept[MAIN].notes
        for name in gathered:
            what = f"feature of modality {name!r}"
            kept[name] = choose_features(gathered[name], choosing, min_cells=min_cells, what=what)
        n_empty += leave_out(kept[MAIN].totals)
        if cells != "rna":
            n_incomplete += sum(leave_out(kept[name].totals, f"{name} ") for name in gathered)
        choosers = {"splits": ["train", "val"], "n_cells": int(choosing.sum())}
        provenance = {
            "sources": described(every),
            "options": used_options(arguments, has_others=bool(others), held_out=held_out),
            "dropped": dropped(kept, n_empty, n_incomplete) | left_out,
            "notes": found + [note for source in every for note in source.notes] + notes + refused,
            "statistics": "var mean and variance and the size-factor law are over the training cells; n_cells over all",
            **({"genes_chosen_by": choosers} if listed is None or gathered else {}),
        }
        return _write(out, kept, obs, kept_cells, labels, provenance)


def _check_options(
    paths: Mapping[str, Sequence[PathLike]], min_cells: int, split: Splitting, join: str | None, skip_refused: bool
) -> None:
    """Refuse options that make no atlas, before anything is read."""
    if not paths[MAIN]:
        raise BadInput("no sources; expected at least one")
    if min_cells < 0:
        raise BadInput(f"`min_cells={min_cells}`: expected 0 or more")
    for name in ("test_fraction", "val_fraction"):
        if not 0 <= (value := getattr(split, name)) < 1:
            raise BadInput(f"`{name}={value}`: expected a share of at least 0 and below 1")
    check_share(split.holdout)
    if skip_refused and len(paths) > 1:
        raise BadInput("`skip_refused=True` with several modalities; expected it with one: a cell needs all of its own")
    if join not in (None, "inner", "outer"):
        raise BadInput(f"`join={join!r}`: {nearest(join, ['inner', 'outer'])}")


def _open(
    files: ExitStack,
    local: Copies,
    paths: Sequence[PathLike],
    options: Options,
    obs_files: Paths | None,
    refusals: Refusals,
    check: Check | None = None,
    *,
    modality: str = MAIN,
    var_names: str | Sequence[str] | None = None,
) -> list[Source]:
    """Open the sources of one modality but for those refused; they are closed with `files`."""
    tables: list[PathLike | None] = [None]
    if obs_files:
        tables = [obs_files] if isinstance(obs_files, str | os.PathLike) else list(obs_files)
    if len(tables) == 1:
        tables *= len(paths)
    if len(tables) != len(paths):
        raise BadInput(f"`obs_files`: {len(tables)} tables for {len(paths)} sources; expected one, or one for each")
    seen = set()
    for path in paths:
        if (place := Path(path).resolve()) in seen:
            raise BadInput(f"{path}: given more than once; expected each source once")
        seen.add(place)
    columns = one_for_each(var_names, len(paths))

    def open_one(number: int) -> Source:
        return local.named(
            open_source(paths[number], options, obs_file=tables[number], modality=modality, var_names=columns[number])
        )

    opened = open_all(files, paths, open_one, refusals, check)
    refusals.settle()
    table_of = {local.said(str(path)): table for path, table in zip(paths, tables, strict=True)}
    for table in dict.fromkeys(table for table in tables if table is not None):
        sharing = [source for source in opened if table_of.get(source.path) == table]
        if not sharing:
            continue
        unmatched = functools.reduce(pd.Index.intersection, [source.unmatched for source in sharing])
        if len(unmatched):
            where = "any source" if len(sharing) > 1 else sharing[0].path
            sharing[0].notes.append(
                f"{table}: {len(unmatched):,} rows are of no cell of {where}, such as {str(unmatched[0])!r}; ignored"
            )
    return opened


def _split(obs: pd.DataFrame, kept_cells: Bools, labels: Sequence[str], how: Splitting) -> list[str]:
    """Add the split column; returns the names held out."""
    cells = obs[kept_cells]
    strata: Ints = cells[labels[0]].cat.codes.to_numpy() if labels else np.zeros(len(cells), np.int8)
    held_out: list[str] = []
    if how.holdout:
        split, held_out = hold_out(cells, how.holdout, strata, val_fraction=how.val_fraction, seed=how.seed)
    else:
        split = random_split(strata, test_fraction=how.test_fraction, val_fraction=how.val_fraction, seed=how.seed)
    codes = np.full(len(obs), -1, np.int8)
    codes[kept_cells] = split.codes
    obs["split"] = pd.Categorical.from_codes(codes, dtype=split.dtype)
    return held_out


def _write(
    out: PathLike,
    kept: Mapping[str, Kept],
    obs: pd.DataFrame,
    kept_cells: Bools,
    labels: Sequence[str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the buckets in order."""
    for name in labels:
        used = obs[name][kept_cells].cat.remove_unused_categories().cat.categories
        obs[name] = obs[name].cat.set_categories(used)
    features = {name: part.part.var.iloc[part.features] for name, part in kept.items()}
    rna, others = kept[MAIN], {name: part for name, part in kept.items() if name != MAIN}
    with AtlasWriter(out, features.pop(MAIN), labels=labels, modalities=features) as writer:
        with progress("write", int(kept_cells.sum()), "cells") as advance:
            for number in range(rna.part.spill.n_buckets):
                rows, block = rna.read(number, kept_cells)
                beside = {name: part.read(number, kept_cells)[1] for name, part in others.items()}
                writer.append(block, obs.iloc[rows], beside)
                advance(len(rows))
        return writer.close(provenance=provenance)
