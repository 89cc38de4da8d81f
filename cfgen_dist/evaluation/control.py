"""The control: cells whose genes were drawn independently inside each type, right in every gene, wrong between them."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.evaluation.selection import matched_rows
from cfgen_dist.evaluation.sources import Cells
from data_loaders.manifest import ROOT
from data_loaders.seeds import Evaluation, generator
from data_loaders.storage import place
from data_loaders.types import Array, Ints, PathLike
from data_loaders.writing.writer import AtlasWriter

SOURCE_CELLS = 5000  # training cells of a type that the control draws from
DRAWN_CELLS = 5000  # cells drawn at a time
STEP = 512  # genes made dense at a time


def independent_genes(
    counts: sparse.csr_matrix, labels: Array, wanted: Mapping[str, int], rng: np.random.Generator
) -> tuple[sparse.csr_matrix, Array]:
    """The control without gene-gene structure: every gene drawn independently from real cells of the type.

    Each count of a new cell is that of a random real cell of its type, drawn anew for every gene, so all means,
    variances and dropouts are right within types and everything between genes is lost.

    Parameters
    ----------
    counts : scipy CSR (n, G)
        Real training cells.
    labels : array of str (n,)
    wanted : dict of str to int
        Type → cells to draw; a type without real cells is left out.
    rng : numpy.random.Generator

    Returns
    -------
    counts : scipy CSR (m, G)
    labels : array of str (m,)
    """
    rows: list[sparse.csr_matrix] = []
    names: list[Array] = []
    for kind, n in sorted(wanted.items()):
        source = counts[np.flatnonzero(labels == kind)]
        if source.shape[0]:
            rows += _drawn(source, n, rng)
            names.append(np.repeat(kind, n))
    return sparse.vstack(rows, format="csr"), np.concatenate(names)


def write_control(
    path: PathLike, real: Cells, train: Ints, wanted: Mapping[int, int], seed: int, draw: int,
    strata: Ints | None = None,
) -> None:  # fmt: skip
    """Write a control set as an atlas, a type at a time.

    Parameters
    ----------
    path : path-like
    real : Cells
    train : int array
        Rows of its training cells.
    wanted : dict of int to int
        Code of a type → cells to draw.
    seed, draw : int
    strata : int array (n,), optional
        Of all real cells: what `wanted` goes by in place of types, and genes are drawn independently in. All cells of a
        stratum are of one type.
    """
    rng = generator(seed, Evaluation.CONTROL, draw)
    strata = real.codes if strata is None else strata
    chosen = train[matched_rows(strata[train], dict.fromkeys(wanted, SOURCE_CELLS), 1, rng)[0]]
    made = 0
    with AtlasWriter(path, pd.DataFrame(index=real.genes), labels=[real.label] if real.label else []) as writer:
        for code, n in sorted(wanted.items()):
            rows = chosen[strata[chosen] == code]
            for block in _drawn(real.read(rows), n, rng):
                names = [f"control-{made + i}" for i in range(block.shape[0])]
                labels = pd.Categorical.from_codes(np.full(len(names), real.codes[rows[0]]), categories=real.types)
                obs = pd.DataFrame({real.label: labels} if real.label else {}, index=names)
                writer.append(block.astype(np.uint32), obs)
                made += len(names)
        writer.close(provenance={"notes": ["control: genes drawn independently inside types"]})


def is_written(path: PathLike) -> bool:
    """Whether there is a whole set at a path or an address."""
    return (place(path) / ROOT).is_file()


def _drawn(source: sparse.csr_matrix, n: int, rng: np.random.Generator) -> Iterator[sparse.csr_matrix]:
    """Yield `n` cells drawn from `source` (CSR), in blocks."""
    source = source.tocsc()
    for first in range(0, n, DRAWN_CELLS):
        size, blocks = min(DRAWN_CELLS, n - first), []
        for start in range(0, source.shape[1], STEP):
            dense = source[:, start : start + STEP].toarray()
            picks = rng.integers(len(dense), size=(size, dense.shape[1]))
            blocks.append(sparse.csr_matrix(np.take_along_axis(dense, picks, axis=0)))
        yield sparse.hstack(blocks, format="csr")
