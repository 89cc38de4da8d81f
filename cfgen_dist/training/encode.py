"""Stage 2: encode every cell once; the flow never sees counts."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.training.ranks import on_main, rank, world_size
from cfgen_dist.training.stream import IN_ORDER_BYTES
from data_loaders import Atlas, CellStream, LatentWriter, open_atlas
from data_loaders.files import write_whole
from data_loaders.progress import progress
from data_loaders.types import Floats, Ints

BATCH_SIZE = 1024
PART_ROWS = 1 << 16


def encode(atlas: Atlas, autoencoder: Autoencoder | JointAutoencoder, path: Path, device: str = "cpu") -> Atlas:
    """Write the latents of all cells of an atlas, unless they are there already.

    The rows are cut into parts of 65,536. The ranks share the parts that are not there yet, and rank 0 puts all parts
    together in order. The latents do not depend on the number of ranks or on interruptions.

    Parameters
    ----------
    atlas : Atlas
    autoencoder : Autoencoder or JointAutoencoder
        In eval mode: BatchNorm must not see batch mates.
    path : Path
        The store of latents; it appears whole or not at all. Parts lie beside it until then.
    device : str
        Where the encoder runs.

    Returns
    -------
    Atlas
        The store, opened.
    """
    parts = path.with_name(path.name + ".parts")
    if not on_main(path.exists):
        missing = on_main(lambda: _missing(atlas, parts))
        mine = missing[rank() :: world_size()]
        autoencoder.to(device)
        n_cells = sum(len(_rows(atlas, part)) for part in mine)
        with torch.inference_mode(), progress("encode", n_cells, "cells") as advance:
            for part in mine:
                latents = np.concatenate(list(_encoded(atlas, autoencoder, _rows(atlas, part), device, advance)))
                write_whole(_file(parts, part), lambda file, latents=latents: np.save(file, latents))
        autoencoder.cpu()
        if world_size() > 1:
            dist.barrier()
        on_main(lambda: _put_together(atlas, autoencoder.latent_dim, parts, path))
    on_main(lambda: shutil.rmtree(parts, ignore_errors=True))
    return open_atlas(path)


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


def _file(parts: Path, part: int) -> Path:
    return parts / f"part-{part:06d}.npy"


def _missing(atlas: Atlas, parts: Path) -> list[int]:
    """Parts that are not there, by listing the folder: to look for a file on a shared disk may hide it later."""
    parts.mkdir(exist_ok=True)
    there = {int(match[1]) for name in os.listdir(parts) if (match := re.fullmatch(r"part-(\d+)\.npy", name))}
    return [part for part in range(-(-atlas.n_cells // PART_ROWS)) if part not in there]


def _put_together(atlas: Atlas, latent_dim: int, parts: Path, path: Path) -> None:
    with LatentWriter(path, atlas, latent_dim) as writer:
        for part in range(-(-atlas.n_cells // PART_ROWS)):
            writer.append(np.load(_file(parts, part)), _rows(atlas, part))
