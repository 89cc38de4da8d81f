"""One rank among several: shares of batches, positions, statistics and means do not depend on how many there are."""

import os
import socket
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

import cfgen_dist.training.stream as training_stream
from cfgen_dist.model.autoencoder import BatchNorm
from cfgen_dist.training.batch_norm import over_all_ranks
from cfgen_dist.training.metrics import mean_over_ranks
from cfgen_dist.training.ranks import check_workers, on_main
from cfgen_dist.training.stream import TrainingStream
from data_loaders import CellStream, open_atlas
from data_loaders.errors import BadInput


def streams(atlas, batch_size, world_size, n_cells=500):
    rows = np.arange(n_cells) + 50
    return [
        TrainingStream(atlas, batch_size, rows=rows, labels=["donor"], seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]


@settings(max_examples=40, deadline=None)
@given(
    batch_size=st.integers(20, 130),
    n_cells=st.integers(140, 500),
    worlds=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 6)), min_size=1, max_size=7),
    windows=st.sampled_from([{}, {"buffer_bytes": 2000, "block_rows": 4}, {"buffer_bytes": 20_000, "block_rows": 32}]),
)
def test_an_epoch_continued_on_any_ranks_shows_every_cell_once(tiny_atlas, batch_size, n_cells, worlds, windows):
    """Some batches on some ranks, a checkpoint of rank 0, some on others, and so on to the end of the next epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_stream, "CellStream", partial(CellStream, **windows))
        check_continued(open_atlas(tiny_atlas), batch_size, n_cells, worlds)


def check_continued(atlas, batch_size, n_cells, worlds):
    n_batches = len(streams(atlas, batch_size, 1, n_cells)[0])
    shown, state = {0: [], 1: []}, None
    for world_size, wanted in [*worlds, (2, 10**6)]:
        ranks = streams(atlas, batch_size, world_size, n_cells)
        for stream in ranks:
            assert len(stream) == n_batches, "steps an epoch do not depend on the ranks"
            if state is not None:
                stream.load_state_dict(state)
        epoch = state["epoch"] if state else 0
        taken = 0
        while taken < wanted and epoch < 2:
            for step in zip(*ranks, strict=True):
                shown[epoch].append([batch.rows for batch in step])
                taken += 1
                states = [stream.state_dict() for stream in ranks]
                assert all(other == states[0] for other in states), "rank 0's position is everyone's"
                state = states[0]
                if taken == wanted:
                    break
            epoch = state["epoch"]
        if epoch == 2:
            break
    for steps in shown.values():
        assert len(steps) == n_batches
        assert sorted(np.concatenate([rows for step in steps for rows in step])) == list(range(50, 50 + n_cells))
        of_a_step = [sum(map(len, step)) for step in steps]
        assert max(of_a_step) <= batch_size + 8, "a cell a rank more"
        assert min(of_a_step) >= n_cells // n_batches - 8, "steps are equal, whoever does them"
        assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in steps)


def test_a_position_of_other_cells_is_refused(tiny_atlas):
    atlas = open_atlas(tiny_atlas)
    state = streams(atlas, 64, 1)[0].state_dict()
    for other in (streams(atlas, 32, 1)[0], streams(atlas, 64, 1, n_cells=499)[0]):
        with pytest.raises(BadInput, match=r"the checkpoint's position is of other cells, batch size or seed"):
            other.load_state_dict(state)


def test_more_workers_than_cells_of_a_batch():
    check_workers(8, {"autoencoder.batch_size": 8})
    with pytest.raises(BadInput, match=r"workers is 9, but autoencoder.batch_size is 8: expected at most 8, a cell"):
        check_workers(9, {"autoencoder.batch_size": 8})
    with pytest.raises(BadInput, match=r"workers is 0, expected at least 1"):
        check_workers(0, {})


def test_one_cell_that_is_no_number_is_not_passed_over():
    mean = mean_over_ranks()
    mean.update(torch.tensor(1.0), weight=30)
    mean.update(torch.tensor(torch.nan), weight=1)
    assert mean.compute() == torch.inf


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def as_rank(rank, world_size, port, folder):
    """One process of a gloo group: BatchNorm, gradients and the held-out mean of its part of 31 cells."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    network, x = network_and_cells()
    over_all_ranks(network)
    mine = torch.tensor_split(x, world_size)[rank]
    y = network(mine)
    # A rank's loss is the sum over its cells; over ranks they add up to that of the whole batch.
    y.square().sum().backward()
    for parameter in network.parameters():
        dist.all_reduce(parameter.grad)
    mean = mean_over_ranks()
    mean.update(mine.mean(), weight=len(mine))
    found = {
        "y": y.detach(),
        "gradients": [p.grad for p in network.parameters()],
        "buffers": dict(network.named_buffers()),
        "mean": mean.compute(),
        "said": on_main(lambda: f"rank {rank}"),
        "few": [few_cells(x[:n] if rank == 0 else x[:0], over_all_ranks) for n in (0, 1)],
        "eval": network.eval()(mine).detach(),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def network_and_cells():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.ELU(), torch.nn.BatchNorm1d(4, affine=False)
    )
    return network, torch.randn(31, 5) * 3 + 100  # a mean far from zero shows cancellation


def few_cells(x, change=lambda network: None):
    """Output, gradients and buffers of a batch of one cell or none, as when a modality is rare."""
    network = torch.nn.Sequential(BatchNorm(5))
    network[0].running_mean += 2
    change(network)
    y = network(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad for p in network.parameters()), *network.buffers()]


@pytest.mark.heavy
def test_batch_norm_and_means_over_ranks_are_those_of_the_whole_batch(tmp_path):
    """Two processes with 16 and 15 cells against torch's BatchNorm1d on all 31."""
    torch.multiprocessing.spawn(as_rank, (2, free_port(), tmp_path), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    network, x = network_and_cells()
    y = network(x)
    y.square().sum().backward()
    near = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([part["y"] for part in found]), y.detach(), **near)
    for part in found:
        for gradient, parameter in zip(part["gradients"], network.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-3)
        for name, value in network.named_buffers():
            torch.testing.assert_close(part["buffers"][name], value, **near)
        assert part["said"] == "rank 0"
        for n, few in enumerate(part["few"]):
            for got, expected in zip(few[3:], few_cells(x[:n])[3:], strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=0)  # the buffers are as they were
        torch.testing.assert_close(part["mean"], x.double().mean(), rtol=1e-6, atol=0)
    for n, few in enumerate(found[0]["few"]):
        torch.testing.assert_close(few, few_cells(x[:n]), **near)
    torch.testing.assert_close(torch.cat([part["eval"] for part in found]), network.eval()(x).detach(), **near)
