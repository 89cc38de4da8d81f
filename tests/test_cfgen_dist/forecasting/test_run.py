"""The planner of trainings: steps as training takes them, estimates that follow their formula, mistakes."""

import pandas as pd
import pytest
from conftest import TINY

from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.training.costs import GPUS, estimated, memory, n_steps, networks
from cfgen_dist.training.settle import settle
from data_loaders import open_atlas


@pytest.fixture
def settled(tiny_atlas):
    atlas, config = open_atlas(tiny_atlas), load_config(overrides=TINY)
    settle(config, atlas, here=True)
    return atlas, config


def test_steps_are_those_of_a_training(settled, tiny_run):
    atlas, config = settled
    autoencoder, encode, flow = n_steps(config, atlas.card["splits"], atlas.n_cells)
    done = [pd.read_csv(tiny_run / part / "metrics.csv")["step"].max() + 1 for part in ("autoencoder", "flow")]
    again = 3 * -(-(atlas.card["splits"]["train"] + atlas.card["splits"]["val"]) // 128)
    assert (autoencoder, encode, flow) == (done[0] + again, 1, done[1])


def test_large_atlases_get_the_steps_that_settling_gives(settled):
    atlas, config = settled
    n = 200_000
    for n_cells, steps in ((None, 2000), (600, 2000), (10**8, 100_000), (n, 30 * round(n * 480 / 600) // 256)):
        config.flow.max_steps = None
        settle(config, atlas, here=False, n_cells=n_cells)
        assert n_steps(config, atlas.card["splits"], n_cells or 600)[2] == steps


def test_estimates_shrink_with_workers_and_links_cost(settled):
    atlas, config = settled
    times = {w: [cost.seconds for cost in estimated(atlas, config, w, 600, GPUS["l4"], 10e9)] for w in (1, 8)}
    slow = [cost.seconds for cost in estimated(atlas, config, 8, 600, GPUS["l4"], 1e6)]
    parameters = sum(p.numel() for p in networks(atlas, config)[0].parameters())
    assert slow[0] - times[8][0] == pytest.approx(2 * 7 / 8 * 4 * parameters * (1e-6 - 1e-10), rel=1e-6)
    assert times[8][1] < times[1][1]
    config.all_reduce = "bfloat16"
    assert estimated(atlas, config, 8, 600, GPUS["l4"], 1e6)[0].seconds < slow[0]
    host = [memory(config, 1, n, 120, parameters)[0] for n in (0, 10**8)]
    assert host[1] - host[0] == 24 * 10**8


def test_the_table(tiny_atlas, capsys):
    assert main(["plan", str(tiny_atlas), "--gpus", "4", "--cells", "100000000", "--kind", "L40S"]) == 0
    out = capsys.readouterr().out
    assert "100,000,000 cells x 120 features on 4 workers" in out
    assert "l40s, estimated" in out
    assert "threads, measured" in out or "NVIDIA" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "h10"], "--kind: unknown GPU 'h10', did you mean 'h100'?"),
        (["--gpus", "0"], "--gpus is 0, expected more than 0"),
        (["--cells", "-5"], "--cells is -5, expected more than 0"),
        (["--gpus", "200"], "workers is 200, but autoencoder.batch_size is 128: expected at most 128"),
    ],
)
def test_mistakes(tiny_atlas, capsys, options, message):
    assert main(["plan", str(tiny_atlas), *options]) == 2
    assert message in capsys.readouterr().err
