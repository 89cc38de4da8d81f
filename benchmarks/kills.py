"""Kills at random moments: does the same command, started again, end with the same bytes?

    python benchmarks/kills.py [--quick] [--kills 30] [--seed 0] [--json FILE]

`ingest`, `train` and `generate` run in turn in a process of their own, which gets SIGKILL at a random moment of the
time that it takes without a kill; half of them get another one while they go on. Then the command is given again, with
`--resume` where it has that, and every byte of what came out is compared with what an unkilled command wrote. Nothing
else may be left beside it.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import base_parser, report

import cfgen_dist.generation.run
import cfgen_dist.training.run
import data_loaders.ingestion.ingest
from cfgen_dist.cli import main as command
from data_loaders.identity import digest_without_id

SETTINGS = {
    "autoencoder.max_epochs": 8, "autoencoder.hidden": [32], "autoencoder.latent_dim": 8, "flow.max_steps": 150,
    "flow.hidden": 32, "flow.blocks": 1, "accelerator": "cpu", "checkpoint_every_n_steps": 10,
}  # fmt: skip
IMPORTED = (cfgen_dist.generation.run, cfgen_dist.training.run, data_loaders.ingestion.ingest)  # before the forks
FORK = multiprocessing.get_context("fork")  # so that kills fall into the work, and not into the imports


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        rows = list(drill(Path(folder), 6 if args.quick else args.kills, random.Random(args.seed)))
    for name in dict.fromkeys(row["command"] for row in rows):
        mine = [row for row in rows if row["command"] == name]
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in Counter(row["outcome"] for row in mine).items())
        kills = sum(len(row["killed"]) for row in mine)
        print(f"{name:10} {len(mine):3} commands, {kills:3} kills: {outcomes}")
    print(f"{sum(len(row['killed']) for row in rows)} kills in {time.monotonic() - started:,.0f} s")
    report(args, {"kills": rows, "seconds": time.monotonic() - started})
    return int(any(row["outcome"] != "same bytes" for row in rows))


def drill(folder, n_kills, rng):
    """One dict a command, until so many kills have hit one."""
    atlas, run, flags = folder / "atlas.zarr", folder / "run", []
    for key, value in SETTINGS.items():
        flags += [f"--{key}", json.dumps(value)]
    source = folder / "source.zarr"
    finish(["simulate", source, "--cells", 4000, "--genes", 400, "--types", 3, "--donors", 2, "--density", 0.2])
    commands = {
        "ingest": (["ingest", source], "out.zarr", []),
        "train": (["train", atlas, "--out"], "out", flags),
        "generate": (["generate", run], "out.zarr", ["--cells", 3000, "--shard-size", 250, "--workers", 2]),
    }
    made = {"ingest": atlas, "train": run}
    expected, seconds = {}, {}
    for name, (words, out, options) in commands.items():
        place = made.get(name, folder / "cells" / out)
        place.parent.mkdir(exist_ok=True)
        started = time.monotonic()
        finish([*words, place, *options])
        seconds[name] = time.monotonic() - started
        expected[name] = digest(place)
        print(f"{name:10} takes {seconds[name]:.1f} s", flush=True)
    done = 0
    while done < n_kills:
        name = list(commands)[done % 3]
        words, out, options = commands[name]
        here = Path(tempfile.mkdtemp(dir=folder))
        killed = []
        for _ in range(rng.choice([1, 2])):
            resume = ["--resume"] if killed and name != "ingest" else []
            moment = kill([*words, here / out, *options, *resume], rng.uniform(0, seconds[name]))
            if moment is not None:
                killed.append(moment)
        if not killed:  # it was faster this time
            continue
        done += len(killed)
        row = {"command": name, "killed": killed, "outcome": outcome(name, words, here, out, options, expected[name])}
        print(f"{name:10} killed after {' and '.join(map(str, killed))} s: {row['outcome']}", flush=True)
        yield row
        shutil.rmtree(here)


def outcome(name, words, here, out, options, expected):
    """What comes of the command when it is given again."""
    if name == "ingest" and (here / out).exists():  # the kill came after all was done
        found = expected if digest(here / out) == expected else None
    else:
        found = finish([*words, here / out, *options, *([] if name == "ingest" else ["--resume"])])
        found = digest(here / out) if found == 0 else f"exit code {found}"
    if found != expected:
        return found if found and found.startswith("exit") else "OTHER BYTES"
    left = {path.name for path in here.iterdir()} - {out, f"{out}.plan.json"}
    return f"left behind: {', '.join(sorted(left))}" if left else "same bytes"


def child(words):
    """Run a command in this process, without a word."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    logging.disable(logging.CRITICAL)
    os._exit(command([str(word) for word in words]))


def finish(words):
    """Run a command to its end: its exit code."""
    process = FORK.Process(target=child, args=(words,))
    process.start()
    process.join()
    return process.exitcode


def kill(words, seconds):
    """Run a command and kill it after so many seconds; returns them, or None when it had ended."""
    process = FORK.Process(target=child, args=(words,))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return round(seconds, 3) if process.exitcode == -9 else None


def digest(place):
    """SHA-256 over the bytes of a store, or of the model of a run; the id that an ingest draws is left out."""
    if (place / "zarr.json").is_file():
        return digest_without_id(place)
    place = place / "bundle"
    together = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "card.json":  # says where the atlas lay, which is the same, and what the runs were told
                content = json.dumps(json.loads(content), sort_keys=True).encode()
            together.update(path.relative_to(place).as_posix().encode() + content)
    return together.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
