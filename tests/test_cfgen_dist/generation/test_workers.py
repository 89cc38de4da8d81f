"""Workers do not change a count: threads, one to three actors, actors that are killed.

Tests with `ray_local` need a Ray: they ask what its actors make, and what becomes of them. Translation and evaluation
use the same pool, so that their tests of actors are slow ones.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.parts import part_name, write_part
from cfgen_dist.generation.plan import make_plan, read_plan
from cfgen_dist.generation.run import generate
from cfgen_dist.generation.shard import sample_shard
from cfgen_dist.model.guidance import PreparedVelocity, guided
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.parts import Ledger
from cfgen_dist.workers.pool import open_pool
from data_loaders import open_atlas
from data_loaders.errors import BadInput

CELLS, SHARD_SIZE = 3000, 50


@pytest.fixture(scope="module")
def expected(tiny_run, tmp_path_factory):
    """The digest that one thread of one process makes."""
    out = tmp_path_factory.mktemp("expected") / "cells.zarr"
    return generate(tiny_run, out, CELLS, seed=7, shard_size=SHARD_SIZE, workers=1)


# 2 are the ones that get killed below
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_actors_make_the_same_bytes(ray_local, expected, tiny_run, tmp_path, workers):
    summary = generate(
        tiny_run, tmp_path / "cells.zarr", CELLS, seed=7, shard_size=SHARD_SIZE, ray="local", workers=workers
    )
    assert summary["sha256"] == expected["sha256"]
    assert open_atlas(tmp_path / "cells.zarr").fingerprint == open_atlas(expected["path"]).fingerprint


def test_threads_make_the_same_bytes(expected, tiny_run, tmp_path):
    summary = generate(tiny_run, tmp_path / "cells.zarr", CELLS, seed=7, shard_size=SHARD_SIZE, workers=2)
    assert summary["sha256"] == expected["sha256"]


def kill_now_and_then(pids, stop, killed, times):
    """SIGKILL a worker that was seen, at random moments."""
    rng = random.Random(0)
    while len(killed) < times and not stop.wait(rng.uniform(0.5, 1.0)):
        alive = [pid for pid in list(pids) if pid not in killed]
        if alive:
            killed.append(rng.choice(alive))
            os.kill(killed[-1], signal.SIGKILL)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_workers_change_nothing(ray_local, expected, tiny_run, tmp_path, kills):
    """SIGKILL at random: no shard lost, none twice, the same bytes."""
    model = CFGen.load(tiny_run)
    plan = make_plan(model, CELLS, sampling=Sampling(seed=7, shard_size=SHARD_SIZE))
    ledger = Ledger(tmp_path, plan.digest)
    pids, killed, stop = set(), [], threading.Event()
    killer = threading.Thread(target=kill_now_and_then, args=(pids, stop, killed, kills))

    def write_and_tell(model, shard):
        time.sleep(0.02 * kills)
        write_part(model, shard, plan, ledger, sample_shard)
        return os.getpid()

    made = []
    with open_pool(Workers("local", 2)) as pool:
        killer.start()
        for shard, pid in pool(write_and_tell, range(plan.n_shards), lambda: model):
            made.append(shard)
            pids.add(pid)
    stop.set()
    killer.join()
    assert len(killed) == kills
    assert sorted(made) == list(range(plan.n_shards))
    (tmp_path / "cells.zarr.parts").mkdir()
    for file in tmp_path.glob("shard-*"):
        file.rename(tmp_path / "cells.zarr.parts" / file.name)
    out = tmp_path / "cells.zarr"
    summary = generate(tiny_run, out, CELLS, seed=7, shard_size=SHARD_SIZE, resume=True)
    assert (summary["shards_kept"], summary["shards_made"]) == (plan.n_shards, 0)
    assert summary["sha256"] == expected["sha256"]


def test_mistakes_found_in_actors_arrive_in_one_line(ray_local):
    def fail(state, item):
        raise BadInput(f"item {item} is wrong")

    def overflow(state, item):
        raise OSError(28, "No space left on device", "cells.zarr")

    with open_pool(Workers("local", 1)) as pool, pytest.raises(BadInput, match=r"^item 0 is wrong$"):
        list(pool(fail, range(3), dict))
    with (
        open_pool(Workers("local", 1)) as pool,
        pytest.raises(OSError, match=r"^\[Errno 28\] No space left .*'cells.zarr'$"),
    ):
        list(pool(overflow, range(3), dict))
    with open_pool(Workers(None, 2)) as pool, pytest.raises(BadInput, match=r"^item . is wrong$"):
        list(pool(fail, range(3), dict))


def test_more_actors_than_the_cluster_has_room_for(ray_local):
    """Three fit; the fourth never starts and nobody waits for it."""
    with open_pool(Workers("local", 4)) as pool:
        done = list(pool(lambda state, item: item * item, range(20), dict))
    assert sorted(done) == [(i, i * i) for i in range(20)]


def test_no_cluster_no_folder(tiny_run, tmp_path, capsys):
    command = [sys.executable, "-m", "cfgen_dist", "generate", tiny_run, tmp_path / "x.zarr", "--cells", "5"]
    done = subprocess.run([*map(str, command), "--ray", "127.0.0.1:1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no Ray cluster can be joined there" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert main(["generate", str(tiny_run), str(tmp_path / "x.zarr"), "--cells", "5", "--workers", "0"]) == 2
    assert "workers is 0, expected at least 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_parts_are_made_again(expected, tiny_run, tmp_path):
    """Three broken shards: cut short, changed in place, of another plan."""
    model = CFGen.load(tiny_run)
    out = tmp_path / "cells.zarr"
    plan = make_plan(model, CELLS, sampling=Sampling(seed=7, shard_size=SHARD_SIZE))
    foreign = make_plan(model, CELLS, sampling=Sampling(seed=8, shard_size=SHARD_SIZE))
    parts = tmp_path / "cells.zarr.parts"
    parts.mkdir()
    ledger, names = Ledger(parts, plan.digest), [part_name(shard) for shard in range(4)]
    for shard in (0, 1):
        write_part(model, shard, plan, ledger, sample_shard)
    write_part(model, 2, foreign, Ledger(parts, foreign.digest), sample_shard)
    whole = Path(ledger.arrays_path(names[0])).read_bytes()
    Path(ledger.arrays_path(names[0])).write_bytes(whole[:-100])
    changed = bytearray(Path(ledger.arrays_path(names[1])).read_bytes())
    changed[len(changed) // 2] ^= 1
    Path(ledger.arrays_path(names[1])).write_bytes(changed)
    Path(ledger.record_path(names[3])).write_text("{")
    assert [ledger.record(name) is None for name in names] == [True, False, True, True]
    assert ledger.whole_record(names[1]) is None, "only its bytes tell"
    summary = generate(tiny_run, out, CELLS, seed=7, shard_size=SHARD_SIZE, resume=True)
    assert summary["sha256"] == expected["sha256"]
    assert summary["shards_kept"] == 1
    assert open_atlas(out).fingerprint == open_atlas(expected["path"]).fingerprint


def test_a_plan_can_be_kept_and_repeated(expected, tiny_run, tmp_path, capsys):
    beside = expected["path"] + ".plan.json"
    out = tmp_path / "again.zarr"
    assert main(["generate", str(tiny_run), str(out), "--plan", beside]) == 0
    assert expected["sha256"] in capsys.readouterr().out
    assert main(["generate", str(tiny_run), str(tmp_path / "x"), "--plan", beside, "--seed", "3"]) == 2
    assert "--plan says what to make: --seed cannot be given beside it" in capsys.readouterr().err
    model = CFGen.load(tiny_run)
    with pytest.raises(BadInput, match=r"plan .*none.json does not exist"):
        read_plan(tmp_path / "none.json", model)
    values = json.loads(Path(beside).read_text())
    (tmp_path / "bad.json").write_text(json.dumps(values | {"seed": values["seed"] + 1}))
    with pytest.raises(BadInput, match=r"plan .*bad.json was changed after it was written"):
        read_plan(tmp_path / "bad.json", model)
    del values["checksum"]
    for change, message in (
        ({"bundle": "0" * 64}, "is for bundle 000000000000, this one is"),
        ({"solver": "eulr"}, "unknown solver 'eulr', did you mean 'euler'?"),
        ({"colour": 1}, "cannot be read: .*colour"),
        ({"counts": [-5, *values["counts"][1:]]}, r"counts is \[-5, .*which no plan of this model has"),
        ({"counts": values["counts"][:1]}, "counts is .*, which no plan of this model has"),
        ({"counts": [0] * len(values["counts"])}, "counts is "),
        ({"codes": [[99, 0]] * len(values["codes"])}, "codes is "),
        ({"codes": None}, "codes is None"),
        ({"weights": [1.0]}, "weights is "),
        ({"weights": [1.0, float("nan")]}, "weights is .*nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": "x"}, "seed is x"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(values | change))
        with pytest.raises(BadInput, match=message):
            read_plan(tmp_path / "bad.json", model)
    with pytest.raises(BadInput, match="unknown size factor law 'normal', did you mean 'lognormal'"):
        make_plan(model, 5, sampling=Sampling(size_factor="normal"))


def test_the_prepared_network_is_the_network(tiny_run):
    model = CFGen.load(tiny_run)
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.standard_normal((20, 8), dtype=np.float32))
    codes = torch.from_numpy(rng.integers(0, 2, (20, 2)))
    logs = torch.from_numpy(rng.uniform(5, 6, 20).astype(np.float32))
    with torch.inference_mode():
        for weights in ([1.0, 0.0], [1.5, 1.0], [0.0, 0.0]):
            plain = guided(model.velocity, codes, weights, False, logs)
            prepared = guided(PreparedVelocity(model.velocity), codes, weights, False, logs)
            for t in (0.0, 0.4, 1.0):
                torch.testing.assert_close(prepared(z, t), plain(z, t), rtol=1e-4, atol=1e-5)


def test_size_factor_laws(tiny_run):
    model = CFGen.load(tiny_run)
    observed = set(model.size_factor.values)
    for law in ("lognormal", "resample"):
        plan = make_plan(model, 2000, sampling=Sampling(size_factor=law, shard_size=2000))
        counts, _ = sample_shard(model, 0, plan)
        assert np.log(np.asarray(counts["rna"].sum(1)).ravel() + 1).mean() == pytest.approx(
            np.log(list(observed)).mean(), abs=0.2
        )
