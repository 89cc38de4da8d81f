"""What a training would take: its steps, from the config, and seconds a step, estimated for GPUs not at hand.

Estimates (class `Gpu`) take a step to be as long as its arithmetic plus its memory traffic, each at half of what the
data sheet promises, plus the exchange of gradients:

- arithmetic: 6 operations a parameter and cell, forward and backward, in float32 without tensor cores
- traffic, autoencoder: 48 bytes a parameter (gradient, two moments, average, the weights) and 40 passes over cells x
  features float32 values (densify, logarithm, softmax, likelihood and their gradients)
- traffic, flow: the same 48 bytes a parameter, and 60 passes over cells x hidden width in each block
- gradients: 2 (W - 1) / W times the parameters' bytes over the slowest link between workers
- 3 milliseconds for starting kernels, whatever the size

On an H100 (28,000 genes, preset `hlca`) they say 12 ms for the autoencoder and 5 ms for the flow where 9 to 10 and 6
were measured, most of it spent by the CPU that starts kernels; other GPUs and links between workers were not checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cfgen_dist.config import Config
from cfgen_dist.model.build import build_velocity
from cfgen_dist.training.autoencoder import AutoencoderTask, untrained_autoencoder
from cfgen_dist.training.encode import BATCH_SIZE
from cfgen_dist.training.flow import VALIDATIONS, FlowTask
from cfgen_dist.training.held_out import MOST_CELLS
from cfgen_dist.training.modalities import atlas_card, model_features
from cfgen_dist.training.settings import RunSettings
from cfgen_dist.training.stages import label_categories
from data_loaders import Atlas

PARAMETER_BYTES, CELL_PASSES, BLOCK_PASSES, LAUNCH, EFFICIENCY = 48, 40, 60, 3e-3, 0.5
HOST_BYTES, WINDOWS, COLUMN_BYTES = 1.0e9, 3 * (128 << 20), 24  # libraries; windows read and shown; columns, a cell


@dataclass(frozen=True)
class Gpu:
    """Figures of a data sheet: float32 operations/s without tensor cores, bytes/s of its memory."""

    flops: float
    bandwidth: float


GPUS = {
    "l4": Gpu(30e12, 300e9),
    "l40s": Gpu(91e12, 864e9),
    "a100": Gpu(19.5e12, 2039e9),
    "h100": Gpu(67e12, 3350e9),
}


@dataclass(frozen=True)
class Cost:
    """One stage: steps, seconds each, and whether they were measured."""

    stage: str
    steps: int
    seconds: float

    @property
    def hours(self) -> float:
        """Hours in all."""
        return self.steps * self.seconds / 3600


class Tasks(NamedTuple):
    """The two training tasks of a config, and the number of features of all modalities."""

    autoencoder: AutoencoderTask
    flow: FlowTask
    n_features: int


def networks(atlas: Atlas, config: Config) -> Tasks:
    """The training tasks of a settled config, untrained."""
    labels = label_categories(atlas, config)
    autoencoder = untrained_autoencoder(atlas, config.autoencoder, config.modalities)
    n_categories = [len(categories) for categories in labels.values()]
    velocity = build_velocity(config.flow, config.autoencoder.latent_dim, n_categories, (0.0, 1.0))
    return Tasks(
        AutoencoderTask(autoencoder, config.autoencoder, atlas.n_cells, RunSettings.of(config).half_products),
        FlowTask(velocity, list(labels), config.flow),
        sum(len(table) for table in model_features(atlas, config.modalities).values()),
    )


def n_steps(config: Config, splits: Mapping[str, int], n_cells: int) -> tuple[int, int, int]:
    """Steps of each stage for `n_cells` cells that are split as `splits` (split -> cells) says; epochs at their limit.

    The flow's are `config.flow.max_steps`, as `cfgen_dist.training.settle.settle` leaves it. Early stopping usually
    ends the autoencoder sooner.
    """
    share = {name: n * n_cells / sum(splits.values()) for name, n in splits.items()}
    per_epoch = -(-share["train"] // config.autoencoder.batch_size)
    again = -(-(share["train"] + share["val"]) // config.autoencoder.batch_size) if config.refit else 0
    fit = int(config.autoencoder.max_epochs * (per_epoch + again))
    return fit, -(-n_cells // BATCH_SIZE), config.flow.max_steps or 0


def estimated(atlas: Atlas, config: Config, workers: int, n_cells: int, gpu: Gpu, link: float) -> list[Cost]:
    """Costs of the stages on GPUs of which only the data sheet is known; `link` bytes/s between workers."""
    autoencoder, flow, n_features = networks(atlas, config)
    seconds = []
    for task, batch_size, passes in (
        (autoencoder, config.autoencoder.batch_size, CELL_PASSES * n_features),
        (flow, config.flow.batch_size, BLOCK_PASSES * config.flow.hidden * config.flow.blocks),
    ):
        cells = batch_size / workers
        parameters = sum(p.numel() for p in task.parameters())
        traffic = PARAMETER_BYTES * parameters + 4 * passes * cells
        exchange = exchange_seconds(parameters, workers, link, 2 if config.all_reduce == "bfloat16" else 4)
        work = 6 * parameters * cells / gpu.flops + traffic / gpu.bandwidth
        seconds.append(work / EFFICIENCY + exchange + LAUNCH)
    encode = BATCH_SIZE / workers * 12 * n_features * 4 / gpu.bandwidth / EFFICIENCY + LAUNCH / workers
    return costs_of(config, atlas, n_cells, (seconds[0], encode, seconds[1]))


def exchange_seconds(parameters: int, workers: int, link: float, width: int = 4, latency: float = 0.0) -> float:
    """Seconds in which a ring of workers adds up its gradients.

    Parameters
    ----------
    parameters, workers : int
    link : float
        Bytes a second of the slowest connection between neighbours.
    width : int
        Bytes of a number that travels.
    latency : float
        Seconds of a message. A ring passes 2 (W - 1) on, each of 1 / W of the gradients (Patarasuk and Yuan 2009).
    """
    return 2 * (workers - 1) * (width * parameters / workers / link + latency)


def memory(config: Config, workers: int, n_cells: int, n_features: int, parameters: int) -> tuple[float, float]:
    """Bytes that each worker needs in its machine's memory, and on its GPU (the autoencoder's step)."""
    on_gpu = 20 * parameters + 4 * 12 * n_features * config.autoencoder.batch_size / workers
    return HOST_BYTES + WINDOWS + COLUMN_BYTES * n_cells, on_gpu + 1e9


def checks(config: Config, splits: Mapping[str, int], n_cells: int) -> tuple[int, int]:
    """Batches of held-out cells that the autoencoder and the flow are scored on, in training and at its end."""
    val = splits.get("val", 0) * n_cells / max(1, sum(splits.values()))
    batches = [-(-val // size) for size in (config.autoencoder.batch_size, config.flow.batch_size)]
    last = [-(-min(val, MOST_CELLS) // size) for size in (config.autoencoder.batch_size, config.flow.batch_size)]
    flow = 0 if config.refit else batches[1] * min(VALIDATIONS, config.flow.max_steps or 0) + last[1]
    return int(batches[0] * config.autoencoder.max_epochs + last[0]), int(flow)


def costs_of(config: Config, atlas: Atlas, n_cells: int, seconds: Sequence[float]) -> list[Cost]:
    """The three stages, of the seconds that a step of each takes."""
    steps = n_steps(config, atlas_card(atlas)["splits"], n_cells)
    return [Cost(*row) for row in zip(("autoencoder", "encode", "flow"), steps, seconds, strict=True)]
