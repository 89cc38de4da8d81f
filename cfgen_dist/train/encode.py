"""Stage 2: encode every cell once; the flow never sees counts."""

import torch

from data_loaders import CellStream, LatentWriter, open_atlas
from data_loaders.progress import progress

BATCH_SIZE = 1024


def encode(atlas, autoencoder, path, device="cpu"):
    """Write the latents of all cells of an atlas, unless they are there already.

    Parameters
    ----------
    atlas : Atlas
    autoencoder : Autoencoder
        In eval mode: BatchNorm must not see batch mates.
    path : path-like
        The store of latents; it appears whole or not at all.
    device : str
        Where the encoder runs.

    Returns
    -------
    Atlas
        The store, opened.
    """
    if not path.exists():
        autoencoder.to(device)
        with (
            torch.inference_mode(),
            progress("encode", atlas.n_cells) as advance,
            LatentWriter(path, atlas, autoencoder.latent_dim) as writer,
        ):
            for batch in CellStream(atlas, BATCH_SIZE, shuffle=False):
                batch = batch.to(device)
                z = autoencoder.encode(batch.counts["rna"].to_dense(device), batch.size_factor)
                writer.append(z.float().cpu().numpy(), batch.rows.cpu().numpy())
                advance(len(batch))
        autoencoder.cpu()
    return open_atlas(path)
