"""The planner of trainings: steps as training takes them, estimates that follow their formula, mistakes."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from conftest import TINY

from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.forecasting.commands import train_seconds
from cfgen_dist.forecasting.costs import GPUS, checks, estimated, memory, n_steps, networks
from cfgen_dist.forecasting.run import _prices
from cfgen_dist.forecasting.steps import Seconds
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


@pytest.mark.heavy
def test_the_table(tiny_atlas, capsys):
    words = ["--gpus", "4", "--cells", "100000000", "--generate", "5000", "--kind", "L40S", "--price", "2.5"]
    assert main(["plan", str(tiny_atlas), *words]) == 0
    out = capsys.readouterr().out
    assert "100,000,000 cells x 120 features on 4 workers" in out
    assert "l40s, estimated" in out
    assert "threads, measured" in out or "NVIDIA" in out
    assert "price of HLCA (2,400,000 cells): l40s" in out
    assert "price of an atlas (100,000,000 cells): l40s" in out
    assert "on this machine, 1 worker, from start to end:" in out
    assert all(f"  {name:9}" in out for name in ("ingest", "train", "generate", "evaluate"))


@pytest.mark.heavy
def test_commands_of_two_workers_as_json(tiny_atlas, capsys):
    words = ["--workers", "2", "--kind", "l4", "--json", "--flow.max_steps", "2000"]
    assert main(["plan", str(tiny_atlas), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    commands = {row["command"]: row for row in found["commands"]}
    assert [row["workers"] for row in commands.values()] == [1, 2, 2, 2]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 for row in commands.values())
    assert found["config"]["flow"]["max_steps"] == 2000
    assert found["prices"] == []


def test_a_price_is_hours_times_workers_times_what_one_costs(settled):
    atlas, config = settled
    seconds = (0.1, 0.01, 0.02)
    one, eight = (_prices(atlas, config, w, "here", seconds, ["h100"], 10.0, 3.0) for w in (1, 8))
    for row in (*one, *eight):
        assert row.price == pytest.approx(row.hours * (1 if row in one else 8) * 3.0)
    assert [row.cells for row in one] == [2_400_000, 2_400_000, 100_000_000, 100_000_000]
    assert [row.device for row in one] == ["here", "h100"] * 2
    assert one[2].hours > one[0].hours


def test_a_training_is_the_sum_of_its_steps(settled):
    atlas, config = settled
    config.refit = False
    each = Seconds(*(np.array([second, second]) for second in (0.1, 0.2, 0.3, 0.0, 0.0, 0.0)))
    start, splits = np.array([0.0, 0.0]), atlas.card["splits"]
    fit, encoded, match = n_steps(config, splits, 600)
    found = train_seconds(config, splits, 600, 1, each, start, cores=8)
    np.testing.assert_allclose(found, fit * 0.1 + encoded * 0.3 + match * 0.2)
    read = dataclasses.replace(each, read=np.array([1.0, 1.0]))  # a second a cell: it is waited for
    slow = train_seconds(config, splits, 600, 1, read, start, cores=8)
    assert slow[0] > fit * config.autoencoder.batch_size


def test_held_out_cells_are_scored_as_often_as_training_does(settled):
    _, config = settled
    splits = {"train": 800, "val": 100, "test": 100}
    config.autoencoder.batch_size = config.flow.batch_size = 50
    config.autoencoder.max_epochs, config.flow.max_steps, config.refit = 3, 100, False
    assert checks(config, splits, 1000) == (2 * 3 + 2, 2 * 20 + 2)
    config.refit = True
    assert checks(config, splits, 1000)[1] == 0, "no cell is left to validate the flow on"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "h10"], "--kind: unknown GPU 'h10', did you mean 'h100'?"),
        (["--gpus", "0"], "--gpus is 0, expected more than 0"),
        (["--workers", "0"], "--workers is 0, expected more than 0"),
        (["--workers", "200"], "workers is 200, but autoencoder.batch_size is 128: expected at most 128"),
        (["--price", "-1"], "--price is -1.0, expected more than 0"),
        (["--generate", "0"], "--generate is 0, expected more than 0"),
        (["--cells", "-5"], "--cells is -5, expected more than 0"),
        (["--gpus", "200"], "workers is 200, but autoencoder.batch_size is 128: expected at most 128"),
    ],
)
def test_mistakes(tiny_atlas, capsys, options, message):
    assert main(["plan", str(tiny_atlas), *options]) == 2
    assert message in capsys.readouterr().err
