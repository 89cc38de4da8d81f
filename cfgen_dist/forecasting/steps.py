"""Seconds of training steps on this machine: in this process for one worker, in a process each for several.

Several are measured together, because they share memory bandwidth and wait for each other: each is a rank of a gloo
group that does what a training's step does (loss, gradients, their exchange, optimiser, averaging) on its share of a
batch. `python -m cfgen_dist.forecasting.steps FILE` is such a rank.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.distributed as dist

from cfgen_dist.config import Config
from cfgen_dist.forecasting.costs import Tasks, networks
from cfgen_dist.forecasting.machine import Times, times
from cfgen_dist.model.flow_matching import flow_matching_loss
from cfgen_dist.training.autoencoder import AutoencoderTask, autoencoder_loss
from cfgen_dist.training.batch_norm import over_all_ranks
from cfgen_dist.training.encode import BATCH_SIZE
from cfgen_dist.training.flow import FlowTask
from data_loaders import Atlas, CellBatch, CellStream
from data_loaders.errors import WorkFailed

ENOUGH = 1.0  # seconds of a kind of step that are watched, and at least so many calls
CALLS = 4
PATIENCE = 600  # seconds for all ranks to be done
WORDS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Seconds:
    """What a training consists of: seconds by the clock, and CPU seconds of all workers, see `machine.Times`.

    Attributes
    ----------
    autoencoder, flow : float (2,)
        A step of optimisation.
    encode : float (2,)
        A batch of `encode.BATCH_SIZE` cells on one worker, CPU seconds of that one.
    check_autoencoder, check_flow : float (2,)
        A batch of held-out cells, scored.
    read : float (2,)
        A cell from the atlas, when nothing else is done; CPU seconds of one reader.
    """

    autoencoder: Times
    flow: Times
    encode: Times
    check_autoencoder: Times
    check_flow: Times
    read: Times


def measure(atlas: Atlas, config: Config, workers: int, device: str, *, alone: bool = True) -> Seconds:
    """Time the steps of a settled config.

    Parameters
    ----------
    atlas : Atlas
    config : Config
    workers : int
        Each works on its share of the batches.
    device : str
    alone : bool
        Whether a single process is timed, as if its peers were elsewhere and their exchange took no time.
    """
    if workers == 1 or alone:
        return _measure(atlas, config, workers, device)
    with TemporaryDirectory(prefix="cfgen-plan-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        work = Path(folder) / "work"
        work.write_bytes(pickle.dumps((atlas, config, device)))
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        environment |= {"WORLD_SIZE": str(workers)}
        command = [sys.executable, "-m", "cfgen_dist.forecasting.steps", str(work)]
        ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(workers)]
        try:
            failed = [rank.wait(PATIENCE) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        if any(failed):
            raise WorkFailed(f"{workers} processes could not be timed together: see their messages above")
        found = json.loads((Path(folder) / "found").read_text())
        return Seconds(**{name: np.array(value) for name, value in found.items()})


def _measure(atlas: Atlas, config: Config, workers: int, device: str) -> Seconds:
    tasks: Tasks = networks(atlas, config)
    autoencoder, flow = tasks.autoencoder.to(device), tasks.flow.to(device)
    if dist.is_initialized():
        over_all_ranks(autoencoder)
        over_all_ranks(flow)
    share = max(1, round(Fraction(config.autoencoder.batch_size, workers)))
    batch, read = _read(atlas, config, share)
    batch = batch.to(device)

    def fit() -> torch.Tensor:
        loss = autoencoder_loss(autoencoder, batch)
        return loss + config.autoencoder.gene_penalty / atlas.n_cells * autoencoder.autoencoder.gene_penalty()

    def encode() -> None:
        with torch.inference_mode():
            counts = autoencoder.autoencoder.dense(batch.counts, device)
            autoencoder.autoencoder.encode(counts, batch.size_factor)

    def check() -> None:
        with torch.no_grad():
            autoencoder_loss(autoencoder, batch)

    n = max(1, round(Fraction(config.flow.batch_size, workers)))
    z = torch.randn(n, config.autoencoder.latent_dim, device=device)
    codes, sizes = torch.zeros(n, len(flow.labels), dtype=torch.long, device=device), torch.rand(n, device=device)

    def match() -> torch.Tensor:
        return flow_matching_loss(flow.velocity, z, codes, sizes)

    def check_match() -> None:
        with torch.no_grad():
            match()

    n_ranks = dist.get_world_size() if dist.is_initialized() else 1
    of_all = np.array([1.0, n_ranks])
    step, match_step = (
        seconds_of(_step(loss, task, config), device) * of_all for loss, task in ((fit, autoencoder), (match, flow))
    )
    for task in (autoencoder, flow):
        task.eval()
    encoding, checking, checking_match = (seconds_of(function, device) for function in (encode, check, check_match))
    return Seconds(
        autoencoder=step, flow=match_step, encode=encoding * BATCH_SIZE / len(batch),
        check_autoencoder=checking * of_all, check_flow=checking_match * of_all, read=read,
    )  # fmt: skip


def _read(atlas: Atlas, config: Config, share: int) -> tuple[CellBatch, Times]:
    """A batch, and what reading a cell takes."""
    labels = [name for name in [config.autoencoder.theta_covariate] if name]
    stream = CellStream(atlas, share, labels=labels, seed=config.seed)
    first = next(iter(stream))  # compiles, and opens files
    before, cells, taken = times(), 0, np.zeros(2)
    for batch in CellStream(atlas, share, labels=labels, seed=config.seed + 1):
        cells += len(batch)
        taken = times() - before
        if taken[0] > ENOUGH:
            break
    return first, taken / max(cells, 1)


def _step(loss: Callable[[], torch.Tensor], task: AutoencoderTask | FlowTask, config: Config) -> Callable[[], None]:
    """A function that does one optimiser step with exchange and averaging, as training does."""
    optimizer = task.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    parameters: list[torch.Tensor] = list(task.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    width = WORDS["bfloat16" if config.all_reduce == "bfloat16" else "float32"]

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        if dist.is_initialized():
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients]).to(width)
            dist.all_reduce(flat)
            at = 0
            for gradient in gradients:
                gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient) / dist.get_world_size())
                at += gradient.numel()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 0.1)

    return step


def seconds_of(function: Callable[[], object], device: str) -> Times:
    """What a call takes, the median of some after two to warm up; several ranks agree on their number."""

    def call() -> Times:
        before = times()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        return times() - before

    call()
    once = torch.tensor([call()[0]])
    if dist.is_initialized():
        dist.all_reduce(once, dist.ReduceOp.MAX)
    found: Times = np.median([call() for _ in range(int(np.clip(ENOUGH / float(once), CALLS, 200)))], axis=0)
    return found


def _as_rank(path: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    atlas, config, device = pickle.loads(path.read_bytes())
    found = _measure(atlas, config, dist.get_world_size(), device)
    if dist.get_rank() == 0:
        path.with_name("found").write_text(json.dumps({name: value.tolist() for name, value in vars(found).items()}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _as_rank(Path(sys.argv[1]))
