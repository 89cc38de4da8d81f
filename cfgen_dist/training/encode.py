"""Stage 2: encode every cell once; the flow never sees counts."""

import hashlib
import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed as dist

from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.training.ranks import on_main, rank, world_size
from cfgen_dist.training.stream import IN_ORDER_BYTES
from cfgen_dist.workers.parts import Ledger, parts_place
from data_loaders import Atlas, CellStream, LatentWriter, open_atlas
from data_loaders.identity import id_of
from data_loaders.manifest import ROOT
from data_loaders.progress import progress
from data_loaders.storage import Place, place
from data_loaders.types import Floats, Ints, PathLike

log = logging.getLogger("cfgen_dist")
BATCH_SIZE = 1024
PART_ROWS = 1 << 16


def encode(
    atlas: Atlas, autoencoder: Autoencoder | JointAutoencoder, path: PathLike | Place, device: str = "cpu"
) -> Atlas:
    """Write the latents of all cells of an atlas, unless they are there already.

    The rows are cut into parts of 65,536. The ranks share the parts that are not there yet, and rank 0 puts all parts
    together in order. The latents do not depend on the number of ranks or on interruptions.

    Parameters
    ----------
    atlas : Atlas
    autoencoder : Autoencoder or JointAutoencoder
        In eval mode: BatchNorm must not see batch mates.
    path : path-like or Place
        The store of latents, on a disk that all ranks see or in a bucket; it appears whole or not at all. Parts lie
        beside it until then.
    device : str
        Where the encoder runs.

    Returns
    -------
    Atlas
        The store, opened.
    """
    target = place(path)
    ledger = Ledger(parts_place(target), _work(atlas, autoencoder))
    if not on_main((target / ROOT).is_file):
        missing = on_main(lambda: _missing(atlas, ledger))
        mine = missing[rank() :: world_size()]
        autoencoder.to(device)
        n_cells = sum(len(_rows(atlas, part)) for part in mine)
        with torch.inference_mode(), progress("encode", n_cells, "cells") as advance:
            for part in mine:
                _write_part(atlas, autoencoder, part, ledger, device, advance)
        autoencoder.cpu()
        if world_size() > 1:
            dist.barrier()
        on_main(lambda: _put_together(atlas, autoencoder, ledger, target, device))
    on_main(ledger.folder.remove_tree)
    return open_atlas(str(target))


def _encoded(
    atlas: Atlas,
    autoencoder: Autoencoder | JointAutoencoder,
    rows: Ints,
    device: str,
    advance: Callable[[int], object],
) -> Iterator[Floats]:
    """Yield latents (B, D), batch by batch, in the order of `rows`."""
    for batch in CellStream(atlas, BATCH_SIZE, rows=rows, shuffle=False, buffer_bytes=IN_ORDER_BYTES):
        batch = batch.to(device)
        z = autoencoder.encode(autoencoder.dense(batch.counts, device), batch.size_factor)
        advance(len(batch))
        yield z.float().cpu().numpy()


def _rows(atlas: Atlas, part: int) -> Ints:
    return np.arange(part * PART_ROWS, min((part + 1) * PART_ROWS, atlas.n_cells))


def _name(part: int) -> str:
    return f"part-{part:06d}"


def _work(atlas: Atlas, autoencoder: Autoencoder | JointAutoencoder) -> str:
    """Digest of what the latents depend on: parts of other cells or weights do not count."""
    digest = hashlib.sha256(f"{atlas.fingerprint} {atlas.contents}".encode())
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _missing(atlas: Atlas, ledger: Ledger) -> list[int]:
    """Parts that are not there, by listing the folder: to look for a file on a shared disk may hide it later."""
    there = ledger.recorded()
    parts = range(-(-atlas.n_cells // PART_ROWS))
    return [part for part in parts if _name(part) not in there or ledger.record(_name(part)) is None]


def _write_part(
    atlas: Atlas,
    autoencoder: Autoencoder | JointAutoencoder,
    part: int,
    ledger: Ledger,
    device: str,
    advance: Callable[[int], object],
) -> None:
    latents = np.concatenate(list(_encoded(atlas, autoencoder, _rows(atlas, part), device, advance)))
    ledger.commit(_name(part), {"latents": latents})


def _put_together(
    atlas: Atlas, autoencoder: Autoencoder | JointAutoencoder, ledger: Ledger, path: Place, device: str
) -> None:
    """Write the parts in their order; one whose bytes are not those that were written is made again first."""
    with LatentWriter(str(path), atlas, autoencoder.latent_dim, id_of(_work(atlas, autoencoder))) as writer:
        for part in range(-(-atlas.n_cells // PART_ROWS)):
            arrays = ledger.whole_arrays(_name(part))
            if arrays is None:
                log.warning("part %d in %s is damaged: made again", part, ledger.folder.shown)
                autoencoder.to(device)
                with torch.inference_mode():
                    _write_part(atlas, autoencoder, part, ledger, device, lambda n: None)
                autoencoder.cpu()
                arrays = ledger.arrays(_name(part))
            writer.append(arrays["latents"], _rows(atlas, part))
