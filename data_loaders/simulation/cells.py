"""Synthetic atlases of any size with a known truth.

The model, cell by cell: type and donor are drawn from uneven proportions; the depth l is log-normal with a mean that
depends on the donor; programme scores z are standard normal; and

    rho = softmax(base + marker[type] + batch[donor] + loadings z),   x_g ~ NB(mean l rho_g, inverse dispersion theta_g)

Programmes act within types, so genes are correlated inside a type. Cells are made in fixed blocks, each from its own
random stream: cell i is the same whatever the number of workers.

The negative binomial is drawn as a compound Poisson, which is the same law: theta log(1 + mu/theta) expected events of
logarithmic size with parameter mu/(theta + mu). Events of all genes of a cell are one Poisson process along the genes,
so random numbers are drawn per count and not per gene.
"""

import json
from typing import Any, TypedDict

import numba
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from data_loaders.errors import BadInput
from data_loaders.identity import id_of
from data_loaders.ingestion.splits import random_split
from data_loaders.locks import alone
from data_loaders.parallel import ordered_map
from data_loaders.progress import progress
from data_loaders.seeds import Simulation, check_seed, generator
from data_loaders.simulation.bisection import bisect
from data_loaders.simulation.peaks import draw_peaks, make_peak_truth, peak_table
from data_loaders.types import Array, Floats, Ints, PathLike
from data_loaders.uniforms import uniform_to_one
from data_loaders.writing.writer import AtlasWriter

BLOCK = 1024  # cells made from one random stream; part of the definition of the data
STRIP = 64  # cells computed together: their dense rates stay in the processor's cache
N_PROGRAMMES = 8
DEPTH_SD = 0.4  # of log depth within a donor


class Truth(TypedDict):
    """The parameters of an atlas."""

    theta: Floats  # float32 (G,), inverse dispersions
    type_log_profile: Floats  # float32 (G, types)
    donor_log_effect: Floats  # float32 (G, donors)
    programme_loadings: Floats  # float32 (G, programmes)
    type_share: Floats  # (types,), sums to 1
    donor_share: Floats  # (donors,), sums to 1
    mean_log_depth: Floats  # (donors,)
    sd_log_depth: float


@alone(remote=True)
def simulate(
    out: PathLike,
    *,
    cells: int,
    genes: int,
    types: int = 8,
    donors: int = 4,
    peaks: int = 0,
    density: float = 0.07,
    seed: int = 0,
    in_order: bool = False,
) -> dict[str, Any]:
    """Write a synthetic atlas.

    Parameters
    ----------
    out : path-like
        Store to write; must not exist.
    cells, genes : int
    types, donors : int
        Categories of the label columns `cell_type` and `donor`. The k-th type is about 1 / (k + 1) as frequent as the
        first.
    peaks : int
        Peaks of accessible chromatin, the modality `atac`; none by default. See `data_loaders.simulation.peaks`.
    density : float
        Expected share of non-zero counts, and of open peaks.
    seed : int
    in_order : bool
        Put cells of one type together, as in atlases concatenated from studies, in place of a random order.

    Returns
    -------
    dict
        The card. The truth is in `var["theta"]`, `varm["type_log_profile"]` (G, types), `varm["donor_log_effect"]`
        (G, donors), `varm["programme_loadings"]` (G, programmes) and `uns["truth"]` (proportions of types and donors,
        mean log depth per donor, its standard deviation); `obs["depth"]` is the drawn l of each cell.

    Raises
    ------
    BadInput
        For numbers that make no atlas, or when `out` exists.
    """
    for name, value in {"cells": cells, "genes": genes, "types": types, "donors": donors}.items():
        if value < 1:
            raise BadInput(f"`{name}={value}`: expected at least 1")
    if peaks < 0:
        raise BadInput(f"`peaks={peaks}`: expected 0 or more")
    check_seed(seed)
    if not 0 < density <= 0.5:
        raise BadInput(f"`density={density}`: expected a share above 0 and at most 0.5")
    if max(types, donors) > cells:
        raise BadInput(f"`cells={cells}`: expected at least as many as types ({types}) and donors ({donors})")
    truth = make_truth(genes, types, donors, density, seed)
    type_of, donor_of = (
        generator(seed, Simulation.LABELS, column).choice(len(share), size=cells, p=share).astype(np.int16)
        for column, share in enumerate([truth["type_share"], truth["donor_share"]])
    )
    if in_order:
        type_of.sort()
    split = random_split(type_of, test_fraction=0.2, val_fraction=0.1, seed=seed)
    columns = {
        "cell_type": pd.Categorical.from_codes(type_of, [f"type_{k}" for k in range(types)]),
        "donor": pd.Categorical.from_codes(donor_of, [f"donor_{k}" for k in range(donors)]),
        "split": split,
    }

    def block(number: int) -> tuple[csr_matrix, pd.DataFrame, dict[str, csr_matrix]]:
        rows = slice(number * BLOCK, min((number + 1) * BLOCK, cells))
        counts, depth = make_cells(truth, type_of[rows], donor_of[rows], seed, number)
        obs = {name: column[rows] for name, column in columns.items()} | {"depth": depth}
        scores = _scores(_stream(seed, number), len(depth))  # those that the counts were drawn with
        others = {"atac": draw_peaks(of_peaks, type_of[rows], scores, seed, number)} if of_peaks else {}
        return counts, pd.DataFrame(obs, index=[f"cell_{i:08d}" for i in range(rows.start, rows.stop)]), others

    var = pd.DataFrame({"theta": truth["theta"]}, index=[f"gene_{g:05d}" for g in range(genes)])
    varm = {name: truth[name] for name in ("type_log_profile", "donor_log_effect", "programme_loadings")}
    known = {name: truth[name] for name in ("type_share", "donor_share", "mean_log_depth", "sd_log_depth")}
    options = {"cells": cells, "genes": genes, "types": types, "donors": donors, "density": density, "seed": seed}
    options |= {"peaks": peaks} if peaks else {}
    of_peaks = make_peak_truth(peaks, types, N_PROGRAMMES, density, seed) if peaks else None
    modalities = {"atac": peak_table(of_peaks)} if of_peaks else None
    plan = id_of(f"simulated {json.dumps(options | {'in_order': in_order})}")  # the arguments are the plan
    with AtlasWriter(
        out, var, labels=["cell_type", "donor"], varm=varm, modalities=modalities, identity=plan
    ) as writer:
        with progress("simulate", cells, "cells") as advance:
            for counts, obs, others in ordered_map(block, range(-(-cells // BLOCK))):
                writer.append(counts, obs, others)
                advance(len(obs))
        return writer.close(
            uns={"truth": known},
            provenance={"sources": ["simulated"], "options": options | {"in_order": in_order}},
        )


def make_truth(genes: int, types: int, donors: int, density: float, seed: int) -> Truth:
    """Draw the parameters of an atlas."""
    rng = generator(seed, Simulation.TRUTH)
    base = rng.normal(0.0, 1.7, genes)
    markers = rng.normal(0.0, 1.5, (genes, types)) * (rng.random((genes, types)) < 0.1)
    batch = rng.normal(0.0, 0.15, (genes, donors))
    loadings = rng.normal(0.0, 0.4, (genes, N_PROGRAMMES)) * (rng.random((genes, N_PROGRAMMES)) < 0.2)
    theta = np.exp(rng.normal(np.log(4.0), 0.7, genes))
    type_share = 1.0 / np.arange(1, types + 1)
    donor_share = rng.uniform(0.5, 1.5, donors)
    truth: Truth = {
        "theta": theta.astype(np.float32),
        "type_log_profile": (base[:, None] + markers).astype(np.float32),
        "donor_log_effect": batch.astype(np.float32),
        "programme_loadings": loadings.astype(np.float32),
        "type_share": type_share / type_share.sum(),
        "donor_share": donor_share / donor_share.sum(),
        "mean_log_depth": rng.normal(0.0, 0.2, donors),
        "sd_log_depth": DEPTH_SD,
    }
    truth["mean_log_depth"] = truth["mean_log_depth"] + _centre_for(density, truth, rng)
    return truth


def make_cells(truth: Truth, type_of: Ints, donor_of: Ints, seed: int, number: int) -> tuple[csr_matrix, Floats]:
    """Draw one block of cells.

    Parameters
    ----------
    truth : Truth
    type_of, donor_of : int (n,)
        n <= BLOCK; the draws of a cell do not depend on how many follow it.
    seed, number : int
        Atlas seed and number of the block.

    Returns
    -------
    scipy.sparse.csr_matrix (n, G), float32 (n,)
        Counts (int32) and depths.
    """
    rng = _stream(seed, number)
    n = len(type_of)
    scores = _scores(rng, n)
    noise = rng.standard_normal(BLOCK)[:n]
    seeds = rng.integers(0, 2**63, BLOCK).astype(np.uint64)[:n]
    depth = np.exp(truth["mean_log_depth"][donor_of] + truth["sd_log_depth"] * noise).astype(np.float32)
    profile = np.ascontiguousarray(truth["type_log_profile"].T)
    batch = np.ascontiguousarray(truth["donor_log_effect"].T)
    loadings = np.ascontiguousarray(truth["programme_loadings"].T)
    mean = np.empty((STRIP, len(truth["theta"])), np.float32)
    events = np.empty_like(mean)
    strips = []
    for start in range(0, n, STRIP):
        rows = slice(start, min(start + STRIP, n))
        mean, events = mean[: rows.stop - start], events[: rows.stop - start]
        _log_rates(profile, batch, loadings, type_of[rows], donor_of[rows], scores[rows], mean)
        np.exp(mean, out=mean)
        mean *= (depth[rows] / mean.sum(1))[:, None]
        np.divide(mean, truth["theta"], out=events)
        np.log1p(events, out=events)
        events *= truth["theta"]
        strips.append(csr_matrix(_draw_counts(mean, events, truth["theta"], seeds[rows]), shape=mean.shape))
    return vstack(strips, format="csr"), depth


def _stream(seed: int, number: int) -> np.random.Generator:
    """The random numbers of a block."""
    return generator(seed, Simulation.CELLS, number)


def _scores(rng: np.random.Generator, n: int) -> Floats:
    """Programme scores (n, programmes) of a block's first n cells, the first numbers of its stream."""
    return rng.standard_normal((BLOCK, N_PROGRAMMES))[:n].astype(np.float32)


def _centre_for(density: float, truth: Truth, rng: np.random.Generator) -> float:
    """What to add to the mean log depths for an expected share `density` of non-zeros: bisection on sample cells."""
    n = 256
    kinds = rng.choice(len(truth["type_share"]), n, p=truth["type_share"])
    donors = rng.choice(len(truth["donor_share"]), n, p=truth["donor_share"])
    logits = (truth["type_log_profile"].T[kinds] + truth["donor_log_effect"].T[donors]).astype(np.float64)
    logits += rng.standard_normal((n, N_PROGRAMMES)) @ truth["programme_loadings"].T
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    spread = np.exp(truth["mean_log_depth"][donors, None] + DEPTH_SD * rng.standard_normal((n, 1)))

    def is_too_low(log_depth: float) -> bool:
        nonzero = -np.expm1(-truth["theta"] * np.log1p(np.exp(log_depth) * spread * share / truth["theta"]))
        return bool(nonzero.mean() < density)

    return bisect(-10.0, 30.0, is_too_low)


@numba.njit(nogil=True, cache=True)
def _log_rates(
    profile: Floats, batch: Floats, loadings: Floats, type_of: Ints, donor_of: Ints, scores: Floats, out: Floats
) -> None:
    """Log expression (n, G) before normalisation, each row on its own so that it does not depend on its neighbours."""
    for row in range(len(type_of)):
        out[row] = profile[type_of[row]] + batch[donor_of[row]]
        for programme in range(len(loadings)):
            out[row] += scores[row, programme] * loadings[programme]


@numba.njit(nogil=True, cache=True)
def _draw_counts(mean: Floats, events: Floats, theta: Floats, seeds: Ints) -> tuple[Ints, Ints, Ints]:
    """Draw the counts of a block: `mean` and expected `events` (n, G), `theta` (G,), one seed per cell."""
    n, n_genes = mean.shape
    expected = 0.0
    for row in range(n):
        for gene in range(n_genes):
            expected += events[row, gene]
    capacity = int(expected) + 64
    data = np.empty(capacity, np.int32)
    indices = np.empty(capacity, np.int32)
    indptr = np.zeros(n + 1, np.int64)
    k = 0
    for row in range(n):
        seed, drawn = seeds[row], 1
        u = uniform_to_one(seed, 0)
        gap = -np.log(u)  # to the next event of the unit Poisson process along the genes
        for gene in range(n_genes):
            gap -= events[row, gene]
            if gap > 0:
                continue
            p = mean[row, gene] / (mean[row, gene] + theta[gene])
            log_q = np.log1p(-p)
            count = 0
            while gap <= 0:
                # size of the event: logarithmic distribution, by Kemp's algorithm LK (1981)
                u = uniform_to_one(seed, drawn)
                drawn += 1
                size = 1
                if u < p:
                    v = uniform_to_one(seed, drawn)
                    drawn += 1
                    q = -np.expm1(log_q * v)
                    if u <= q * q:
                        size = int(1.0 + np.log(u) / np.log(q))
                    elif u <= q:
                        size = 2
                count += size
                u = uniform_to_one(seed, drawn)
                drawn += 1
                gap -= np.log(u)
            if k == capacity:
                capacity += capacity // 2
                data, indices = _grown(data, capacity), _grown(indices, capacity)
            data[k] = count
            indices[k] = gene
            k += 1
        if k == indptr[row]:  # a cell without counts is no cell: one count of its most expressed gene
            if k == capacity:
                capacity += capacity // 2
                data, indices = _grown(data, capacity), _grown(indices, capacity)
            data[k] = 1
            indices[k] = np.argmax(mean[row])
            k += 1
        indptr[row + 1] = k
    return data[:k].copy(), indices[:k].copy(), indptr


@numba.njit(nogil=True, cache=True)
def _grown(array: Array, capacity: int) -> Array:
    larger = np.empty(capacity, array.dtype)
    larger[: len(array)] = array
    return larger
