"""GPUs for actors: the share that each takes. No card is needed: Ray is told that there are some."""

import json
import subprocess
import sys

import pytest

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.generation.gpu_memory import CONTEXT, gpu_bytes
from cfgen_dist.workers.gpus import MOST, read_share, share_by_memory
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.pool import open_pool
from data_loaders.errors import BadInput

GIB = 2**30


@pytest.mark.parametrize(("given", "share"), [(None, 1.0), (1, 1.0), ("0.25", 0.25), (0.5, 0.5), ("auto", None)])
def test_the_share_that_is_asked_for(given, share):
    assert read_share(given) == share


@pytest.mark.parametrize("given", [0, -1, 1.5, 2, "half", "", "nan", "inf"])
def test_a_share_that_cannot_be(given):
    with pytest.raises(BadInput, match=rf"`gpus_per_worker` is {given}, expected a share of one card"):
        read_share(given)


@pytest.mark.parametrize(
    ("needed", "cards", "share"),
    [
        (5 * GIB, ["L40S"], 1 / 8),  # 43.2 GiB usable
        (5 * GIB, ["L40S", "T4"], 1 / 2),  # the smallest card counts
        (GIB // 2, ["H100"], 1 / MOST),
        (20 * GIB, ["L4"], 1),
        (200 * GIB, ["H100"], 1),
        (5 * GIB, [], 1),
        (5 * GIB, ["L40S", "a card of tomorrow"], 1),
    ],
)
def test_the_share_by_memory(needed, cards, share):
    found = share_by_memory(needed, {"CPU": 8, "GPU": 2} | {f"accelerator_type:{card}": 1 for card in cards})
    assert found == pytest.approx(share, abs=1e-4)
    assert found * round(1 / share) <= 1, "all of them find room on a card"


def test_what_an_actor_holds_grows_with_its_batch(tiny_run):
    model = CFGen.load(tiny_run)
    few, many = gpu_bytes(model, 1), gpu_bytes(model, 100_001)
    assert few > CONTEXT
    assert many - few == 16 * 100_000 * max(len(model.genes), 32 * 3 * 3)


@pytest.mark.parametrize("options", [{"ray": None}, {"ray": "local"}])
def test_a_share_without_gpus_is_refused(options):
    with (
        pytest.raises(BadInput, match=r"`gpus_per_worker` is 0\.5, but only workers of `ray` with `device='cuda'`"),
        open_pool(Workers(**options, gpus_per_worker=0.5)),
    ):
        pass


def test_the_command_says_the_same(tiny_run, tmp_path, capsys):
    command = ["generate", str(tiny_run), str(tmp_path / "cells.zarr"), "--cells", "5", "--gpus-per-worker", "0.5"]
    assert main(command) == 2
    assert "--gpus-per-worker is 0.5, but only workers of --ray with --device cuda take GPUs" in capsys.readouterr().err


FAKE = """
import json, os, sys
import ray
ray.init("local", num_cpus=6, num_gpus=2, resources={"accelerator_type:L4": 1}, include_dashboard=False,
         object_store_memory=100 << 20, log_to_driver=False, logging_level="error", _temp_dir=sys.argv[1])
from cfgen_dist.workers import pool
from cfgen_dist.workers.options import Workers
pool.check_device = lambda device: None

def where(state, item):
    return os.getpid(), ray.get_gpu_ids()

def ask(share, needed):
    with pool.open_pool(Workers("local", None, share), "cuda", needed) as work:
        found = [result for _, result in work(where, range(24), lambda: None)]
    return sorted({(pid, *gpus) for pid, gpus in found})

print("\\n" + json.dumps([ask(None, 0), ask(0.5, 0), ask("auto", 6 << 30)]))
"""


@pytest.mark.slow  # starts a Ray of its own, with GPUs that are not there
def test_actors_share_the_gpus_that_ray_knows(tmp_path_factory):
    """One a card; two a card for a half; three for a third of an L4, by memory."""
    folder = tmp_path_factory.mktemp("gpus")
    script = folder / "fake.py"
    script.write_text("if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in FAKE.splitlines()))
    done = subprocess.run([sys.executable, script, f"/tmp/{folder.name}-ray"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, half, third = json.loads(done.stdout[done.stdout.rindex("\n[[") :])
    for actors, a_card in ((one, 1), (half, 2), (third, 3)):
        cards = [gpu for _, gpu in actors]
        assert 1 <= len(actors) <= 2 * a_card, "one that is slow to start finds no work left"
        assert all(cards.count(card) <= a_card for card in cards)
