"""Stage 4: a trained decoder's means compared with those of the training cells, category by category, and set right.

Every attribute in turn, on what is left after those before it. The cells are cut into parts, whose sums are shared out
over the ranks and added in the order of the parts: neither the number of ranks nor an interruption changes a byte.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse

from cfgen_dist.config import Config
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.calibration import Calibration, odds_offsets, share_offsets
from cfgen_dist.model.multimodal import JointAutoencoder, branches
from cfgen_dist.training.modalities import fitted_rows
from cfgen_dist.training.ranks import on_main, rank, world_size
from cfgen_dist.training.stream import IN_ORDER_BYTES
from cfgen_dist.workers.parts import Ledger
from data_loaders import Atlas, CellBatch, CellStream
from data_loaders.progress import progress
from data_loaders.storage import Place, place
from data_loaders.types import Array, Floats, Ints, PathLike

log = logging.getLogger("cfgen_dist")
BATCH_SIZE = 512
PART_ROWS, MOST_PARTS = 1 << 16, 32  # a part holds a table of sums: there must not be many
Sums = dict[str, Array]


def calibrate(
    atlas: Atlas,
    autoencoder: Autoencoder | JointAutoencoder,
    config: Config,
    folder: PathLike | Place,
    device: str = "cpu",
) -> Calibration:
    """The offsets of every attribute, feature and category, from the cells that the model learned from.

    All ranks call this together, and all get the result.

    Parameters
    ----------
    atlas : Atlas
    autoencoder : Autoencoder or JointAutoencoder
        In eval mode; it is left on the CPU.
    config : Config
        Settled; its labels are the attributes, in this order.
    folder : path-like or Place
        For the sums of finished parts; removed at the end.
    device : str
        Where the networks run. Sums are made on the CPU, in float64.
    """
    rows = fitted_rows(atlas, config.modalities, config.refit)
    size = max(PART_ROWS, -(-len(rows) // MOST_PARTS))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    found, weights = Calibration(), _digest(atlas, autoencoder, rows)
    labels = config.labels or []
    autoencoder.to(device)
    with progress("calibrate", len(rows) * len(labels), "cells") as advance:
        for label in labels:
            work = hashlib.sha256(weights.encode() + label.encode())
            for name, table in sorted(found.state().items()):
                work.update(name.encode() + table.numpy().tobytes())
            ledger = Ledger(folder, work.hexdigest())
            one = _Sums(atlas, autoencoder, label, found, device, advance)
            missing = on_main(partial(_missing, ledger, len(parts)))
            for part in missing[rank() :: world_size()]:
                ledger.commit(_name(part), one.of(parts[part]))
            if world_size() > 1:
                dist.barrier()
            tables = on_main(partial(_offsets, ledger, one, parts))
            found = found.joined(label, {name: torch.from_numpy(table) for name, table in tables.items()})
    autoencoder.cpu()
    on_main(place(folder).remove_tree)
    return found


class _Sums:
    """Sums over cells of one attribute's categories; see `of`."""

    def __init__(
        self,
        atlas: Atlas,
        autoencoder: Autoencoder | JointAutoencoder,
        label: str,
        before: Calibration,
        device: str,
        advance: Callable[[int], object],
    ) -> None:
        self.atlas, self.autoencoder, self.label = atlas, autoencoder, label
        self.before, self.device, self.advance = before.to(device), device, advance
        self.labels = list(dict.fromkeys([*next(iter(before.tables.values()), {}), label]))
        self.networks = branches(autoencoder)
        self.n_categories = len(atlas.categories(label))

    @torch.inference_mode()
    def of(self, rows: Ints) -> Sums:
        """Of the cells at `rows` that have the label.

        Returns
        -------
        dict of str to array
            `cells` (C,), and of each modality NAME `NAME.size` (C,), the sum of size factors, and `NAME.observed` and
            `NAME.expected` (C, F), sums of proportions, or of ones and their probabilities.
        """
        sums: Sums = {"cells": np.zeros(self.n_categories, np.int64)}
        for name, network in self.networks.items():
            sums[f"{name}.size"] = np.zeros(self.n_categories)
            for kind in ("observed", "expected"):
                sums[f"{name}.{kind}"] = np.zeros((self.n_categories, network.n_genes))
        stream = CellStream(
            self.atlas, BATCH_SIZE, rows=rows, labels=self.labels, unlabelled="keep", shuffle=False,
            buffer_bytes=IN_ORDER_BYTES,
        )  # fmt: skip
        for batch in stream:
            self._add(sums, batch)
            self.advance(len(batch))
        return sums

    def _add(self, sums: Sums, batch: CellBatch) -> None:
        codes = np.asarray(batch.labels[self.label])
        cells = np.flatnonzero(codes >= 0)
        present, place = np.unique(codes[cells], return_inverse=True)
        members = sparse.csr_matrix((np.ones(len(cells)), (place, cells)), shape=(len(present), len(codes)))
        sums["cells"][present] += np.bincount(place, minlength=len(present))
        there = batch.to(self.device)
        z = self.autoencoder.encode(self.autoencoder.dense(there.counts, self.device), there.size_factor)
        labels: Mapping[str, Any] = there.labels
        for name, network in self.networks.items():
            counts: Any = batch.counts[name]
            expected = network.expected(z, self.before.shift(name, labels)).double().cpu().numpy()
            observed, sizes = _observed(counts.to_scipy(), network.likelihood.scales_with_size_factor)
            sums[f"{name}.size"][present] += members @ sizes
            sums[f"{name}.observed"][present] += (members @ observed).toarray()
            sums[f"{name}.expected"][present] += members @ expected


def _observed(counts: sparse.csr_matrix, scales: bool) -> tuple[sparse.csr_matrix, Floats]:
    """Proportions of each cell (or ones, where counts do not scale with a size factor), and its size factor (B,)."""
    counts = counts.astype(np.float64)
    sizes = np.asarray(counts.sum(axis=1)).ravel()
    if scales:
        counts.data /= np.repeat(np.maximum(sizes, 1.0), np.diff(counts.indptr))
    else:
        counts.data = (counts.data > 0).astype(np.float64)
    return counts, sizes


def _offsets(ledger: Ledger, one: _Sums, parts: list[Ints]) -> dict[str, Floats]:
    """Modality → offsets (C, F), of the sums of all parts; one that is damaged is made again first."""
    total: Sums = {}
    for part, rows in enumerate(parts):
        arrays = ledger.whole_arrays(_name(part))
        if arrays is None:
            log.warning("part %d in %s is damaged: made again", part, ledger.folder)
            arrays = one.of(rows)
        for name, values in arrays.items():
            total[name] = total[name] + values if name in total else values
    cells, found = total["cells"], {}
    for name, network in one.networks.items():
        observed, expected = total[f"{name}.observed"], total[f"{name}.expected"]
        if network.likelihood.scales_with_size_factor:
            found[name] = share_offsets(observed, expected, total[f"{name}.size"] / np.maximum(cells, 1))
        else:
            found[name] = odds_offsets(observed, expected, cells)
    return found


def _digest(atlas: Atlas, autoencoder: Autoencoder | JointAutoencoder, rows: Ints) -> str:
    """Of what the sums depend on, beside the label and the offsets before it."""
    digest = hashlib.sha256(f"{atlas.fingerprint} {atlas.contents}".encode())
    digest.update(np.ascontiguousarray(rows, np.int64).tobytes())
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _missing(ledger: Ledger, n: int) -> list[int]:
    """Parts that are not there, by listing the folder: to look for a file on a shared disk may hide it later."""
    there = ledger.recorded()
    return [part for part in range(n) if _name(part) not in there or ledger.record(_name(part)) is None]


def _name(part: int) -> str:
    return f"part-{part:06d}"
