"""`plan`: what commands will take on this machine, and training on GPUs that are not at hand; memory, disk, money."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cfgen_dist.config import Config, load_config
from cfgen_dist.forecasting import commands, machine
from cfgen_dist.forecasting.commands import CommandForecast
from cfgen_dist.forecasting.costs import GPUS, Cost, costs_of, estimated, memory, networks
from cfgen_dist.forecasting.steps import Seconds, measure
from cfgen_dist.training.modalities import atlas_card
from cfgen_dist.training.ranks import check_workers
from cfgen_dist.training.settle import settle
from data_loaders import Atlas, open_atlas
from data_loaders.errors import BadInput, nearest

LATENT_BYTES = 8  # a dimension and cell: float32, in the parts and in the store that is put together from them
HLCA_CELLS, HUNDRED_MILLION = 2_400_000, 100_000_000  # atlases whose price is told
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
    commands : list of CommandForecast
        `ingest`, `train`, `generate` and `evaluate` on this machine.
    prices : list of Price
        Of trainings, where a price an hour was given.
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
    commands: list[CommandForecast]
    prices: list["Price"]


@dataclass(frozen=True)
class Price:
    """What a training of an atlas with these genes costs on one kind of device.

    Attributes
    ----------
    device : str
    cells : int
    hours : float
        Of the command.
    price : float
        Hours times workers times what a worker costs an hour, in the currency of that.
    """

    device: str
    cells: int
    hours: float
    price: float


def plan(
    atlas: str | Path,
    config: Config | None = None,
    *,
    gpus: int = 1,
    cells: int | None = None,
    kind: str | Sequence[str] | None = None,
    link: float = 10.0,
    workers: int = 1,
    ray: bool = False,
    generate: int | None = None,
    price: float | None = None,
) -> Forecast:
    """Forecast `ingest`, `train`, `generate` and `evaluate`: rehearse them here, estimate GPUs that are not at hand.

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
        Gigabytes a second between GPU workers.
    workers : int
        Of the commands on this machine: processes that train together, threads or actors of `generate` and `evaluate`.
    ray : bool
        Whether `generate` and `evaluate` start Ray for them; several processes that train do anyway.
    generate : int, optional
        Cells to generate and to evaluate; as many as the atlas has by default.
    price : float, optional
        What a worker (a GPU, or this machine) costs an hour, in any currency.

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
    numbers = {"gpus": gpus, "cells": cells, "link": link, "workers": workers, "generate": generate, "price": price}
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise BadInput(f"`{name}` is {value}, expected more than 0")
    source = open_atlas(atlas)
    atlas_card(source)  # refuses what is no atlas
    config = copy.deepcopy(config) if config else load_config()
    n_cells = cells or source.n_cells
    settle(config, source, here=False, n_cells=n_cells)
    sizes = {"autoencoder.batch_size": config.autoencoder.batch_size, "flow.batch_size": config.flow.batch_size}
    check_workers(gpus, sizes)
    check_workers(workers, sizes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    here = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    each = measure(source, config, gpus, device)
    seconds = float(each.autoencoder[0]), float(each.encode[0]) / gpus, float(each.flow[0])
    devices = [DeviceForecast(here, True, *costs_of(config, source, n_cells, seconds))]
    for name in map(str.lower, kinds):
        devices.append(DeviceForecast(name, False, *estimated(source, config, gpus, n_cells, GPUS[name], link * 1e9)))
    autoencoder, _, n_features = networks(source, config)
    parameters = sum(p.numel() for p in autoencoder.parameters())
    host, on_gpu = memory(config, gpus, n_cells, n_features, parameters)
    apart = workers == 1 or device != "cpu"  # several share one GPU badly: their exchange is not measured
    together = each if workers == gpus == 1 else measure(source, config, workers, device, alone=apart)
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
        cells_read=1 / float(each.read[0]),
        cells_needed=config.autoencoder.batch_size / gpus / seconds[0],
        commands=_commands(source, config, n_cells, generate or n_cells, workers, ray, together),
        prices=[] if price is None else _prices(source, config, gpus, here, seconds, kinds, link, price),
    )


def _commands(
    atlas: Atlas, config: Config, n_cells: int, n_made: int, workers: int, ray: bool, each: Seconds
) -> list[CommandForecast]:
    """The four commands on this machine."""
    start, cores = machine.start(), len(os.sched_getaffinity(0))
    starts = {name: times * start for name, times in commands.STARTS.items()}
    for name, times in commands.RAY_STARTS.items():
        if ray or (name == "train" and workers > 1):
            starts[name] = times * start
    splits = atlas_card(atlas)["splits"]
    seconds = {
        "ingest": commands.rehearse_ingest(atlas, n_cells),
        "train": commands.train_seconds(config, splits, n_cells, workers, each, start, cores),
        "generate": commands.rehearse_generate(commands.untrained_model(atlas, config), n_made, workers),
        "evaluate": commands.evaluate_seconds(atlas, n_cells, n_made, workers),
    }
    sizes = {"ingest": (n_cells, 1), "train": (n_cells, workers)}
    return [
        CommandForecast(name, *sizes.get(name, (n_made, workers)), *(starts[name] + found).tolist())
        for name, found in seconds.items()
    ]


def _prices(
    atlas: Atlas, config: Config, workers: int, here: str, seconds: tuple[float, float, float], kinds: Sequence[str],
    link: float, price: float,
) -> list[Price]:  # fmt: skip
    """Prices of trainings on all devices, of atlases of well-known sizes."""
    found = []
    for n_cells in (HLCA_CELLS, HUNDRED_MILLION):
        settled = copy.deepcopy(config)
        settled.flow.max_steps = None
        settle(settled, atlas, here=False, n_cells=n_cells)
        rows = [DeviceForecast(here, True, *costs_of(settled, atlas, n_cells, seconds))]
        for name in map(str.lower, kinds):
            costs = estimated(atlas, settled, workers, n_cells, GPUS[name], link * 1e9)
            rows.append(DeviceForecast(name, False, *costs))
        found += [Price(row.device, n_cells, row.hours, row.hours * workers * price) for row in rows]
    return found
