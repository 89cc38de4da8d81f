"""What a training will take: hours on this machine and on GPUs that are not at hand, memory, disk, reading."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cfgen_dist.config import Config, load_config
from cfgen_dist.training.costs import GPUS, Cost, estimated, measured, memory, networks
from cfgen_dist.training.modalities import atlas_card
from cfgen_dist.training.ranks import check_workers
from cfgen_dist.training.settle import settle
from data_loaders import open_atlas
from data_loaders.errors import BadInput, nearest

LATENT_BYTES = 8  # a dimension and cell: float32, in the parts and in the store that is put together from them
CHECKPOINT_BYTES = 3 * 16  # a parameter: weights, two moments and the average, in three checkpoints


@dataclass(frozen=True)
class DeviceForecast:
    """Costs of the three stages on one kind of device.

    Attributes
    ----------
    device : str
        The kind of GPU, or the name of what is here.
    measured : bool
        Whether steps were timed here; estimated from a data sheet otherwise.
    autoencoder, encode, flow : Cost
    """

    device: str
    measured: bool
    autoencoder: Cost
    encode: Cost
    flow: Cost

    @property
    def hours(self) -> float:
        """Hours in all."""
        return self.autoencoder.hours + self.encode.hours + self.flow.hours


@dataclass(frozen=True)
class Forecast:
    """What a training will take.

    Attributes
    ----------
    config : Config
        Settled for the atlas.
    cells, features, workers : int
    devices : list of DeviceForecast
        What is here first, then the kinds of GPUs.
    host_bytes, gpu_bytes : float
        Memory that each worker needs of its machine and of its GPU.
    latents_bytes, checkpoint_bytes : float
        Room on the disk beside the atlas: for latents while they are put together, and for checkpoints.
    cells_read, cells_needed : float
        Cells that reading gives here in a second, and cells that a worker as fast as this machine takes.
    """

    config: Config
    cells: int
    features: int
    workers: int
    devices: list[DeviceForecast]
    host_bytes: float
    gpu_bytes: float
    latents_bytes: float
    checkpoint_bytes: float
    cells_read: float
    cells_needed: float


def plan(
    atlas: str | Path,
    config: Config | None = None,
    *,
    gpus: int = 1,
    cells: int | None = None,
    kind: str | Sequence[str] | None = None,
    link: float = 10.0,
) -> Forecast:
    """Forecast a training: time a few steps here, estimate them for GPUs that are not at hand.

    Parameters
    ----------
    atlas : path-like
        An atlas store, or a small one of the same genes with `cells`.
    config : Config, optional
        The defaults if left out.
    gpus : int
        Workers, a GPU each.
    cells : int, optional
        As if the atlas had so many cells.
    kind : str or list of str, optional
        Kinds of GPUs to estimate, of `cfgen_dist.training.costs.GPUS`; all of them by default.
    link : float
        Gigabytes a second between workers.

    Returns
    -------
    Forecast

    Raises
    ------
    BadInput
        Unknown GPU, a number that is not positive, a store that was not ingested, more workers than a batch has cells.
    """
    kinds = list(GPUS) if kind is None else [kind] if isinstance(kind, str) else list(kind)
    for name in kinds:
        if name.lower() not in GPUS:
            raise BadInput(f"`kind`: unknown GPU {name!r}, {nearest(name, GPUS)}")
    for name, value in (("gpus", gpus), ("cells", cells), ("link", link)):
        if value is not None and not value > 0:
            raise BadInput(f"`{name}` is {value}, expected more than 0")
    source = open_atlas(atlas)
    atlas_card(source)  # refuses what is no atlas
    config = copy.deepcopy(config) if config else load_config()
    n_cells = cells or source.n_cells
    settle(config, source, here=False, n_cells=n_cells)
    sizes = {"autoencoder.batch_size": config.autoencoder.batch_size, "flow.batch_size": config.flow.batch_size}
    check_workers(gpus, sizes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    here = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    costs, reading = measured(source, config, gpus, n_cells, device)
    devices = [DeviceForecast(here, True, *costs)]
    for name in map(str.lower, kinds):
        devices.append(DeviceForecast(name, False, *estimated(source, config, gpus, n_cells, GPUS[name], link * 1e9)))
    autoencoder, _, n_features = networks(source, config)
    parameters = sum(p.numel() for p in autoencoder.parameters())
    host, on_gpu = memory(config, gpus, n_cells, n_features, parameters)
    return Forecast(
        config=config,
        cells=n_cells,
        features=n_features,
        workers=gpus,
        devices=devices,
        host_bytes=host,
        gpu_bytes=on_gpu,
        latents_bytes=n_cells * config.autoencoder.latent_dim * LATENT_BYTES,
        checkpoint_bytes=parameters * CHECKPOINT_BYTES,
        cells_read=1 / reading,
        cells_needed=config.autoencoder.batch_size / gpus / costs[0].seconds,
    )
