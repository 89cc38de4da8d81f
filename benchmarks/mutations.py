"""Mutations of everything that is written: does the command that uses it notice?

    python benchmarks/mutations.py [--quick] [--n 600] [--seed 0] [--json FILE]

A mutation flips a bit of a file, cuts it, deletes it, zeroes a range of it, or lets it change places with another one.
Then the command that uses the file runs: an atlas, latents and a generated store are opened and read in full, a bundle
is loaded and draws cells, parts and a run that were left in the middle are resumed, a plan is carried out again. The
outcome is `detected` (refused in one line, or seen and made again), `harmless` (the same result to the byte), `silent`
(another result) or `traceback`. `verify` says of each mutation whether it sees it too.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import base_parser, report

from cfgen_dist import CFGen, generate, load_config, train, verify
from cfgen_dist.generation import store as generation_store
from data_loaders import BadInput, open_atlas, simulate

SETTINGS = {
    "autoencoder.max_epochs": 2, "autoencoder.hidden": [16], "autoencoder.latent_dim": 4, "flow.max_steps": 40,
    "flow.hidden": 16, "flow.blocks": 1, "flow.embedding": 8, "accelerator": "cpu", "refit": False,
    "checkpoint_every_n_steps": 15, "seed": 0,
}  # fmt: skip
KINDS = ("flip", "cut", "delete", "swap", "zero")
SKIPPED = ("tensorboard",)  # nobody reads it here
OUTCOMES = ("detected", "harmless", "silent", "traceback")


class Stop(Exception):
    """Ends a piece of work in the middle, as a kill would."""


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--n", type=int, default=600, help="mutations in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("cfgen_dist", "data_loaders"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    started, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        targets = prepare(Path(folder))
        share = {"run": 0.1, "parts": 0.15}
        rest = (1 - sum(share.values())) / (len(targets) - len(share))
        for name, (where, use) in targets.items():
            n = round((60 if args.quick else args.n) * share.get(name, rest))
            rows += drill(name, where, use, n, random.Random(f"{args.seed} {name}"))
    table(rows)
    print(f"{len(rows)} mutations in {time.monotonic() - started:,.0f} s")
    for row in rows:
        if row["outcome"] in ("silent", "traceback"):
            print(row)
    report(args, {"mutations": rows, "seconds": time.monotonic() - started})
    return int(any(row["outcome"] in ("silent", "traceback") for row in rows))


def prepare(folder):
    """Name → (folder that is mutated, function of a copy of it that uses it and returns what came out)."""
    atlas = folder / "atlas" / "atlas.zarr"
    atlas.parent.mkdir()
    simulate(atlas, cells=400, genes=60, types=3, donors=2, density=0.3, seed=0)
    config = load_config(overrides=SETTINGS)
    whole = folder / "whole"
    train(atlas, whole, config)
    run = stopped_run(folder, atlas, config)
    cells = folder / "cells" / "cells.zarr"
    cells.parent.mkdir()
    generate(whole, cells, 200, shard_size=50)
    plan = folder / "plan"
    plan.mkdir()
    shutil.copy(cells.with_name("cells.zarr.plan.json"), plan / "plan.json")
    latents = folder / "latents"
    latents.mkdir()
    shutil.copytree(whole / "latents.zarr", latents / "latents.zarr")
    bundle = folder / "bundle"
    bundle.mkdir()
    shutil.copytree(whole / "bundle", bundle / "bundle")
    parts = stopped_generation(folder, whole)
    return {
        "atlas": (atlas.parent, lambda here: everything(here / "atlas.zarr")),
        "latents": (latents, lambda here: everything(here / "latents.zarr")),
        "generated store": (cells.parent, lambda here: everything(here / "cells.zarr")),
        "bundle": (bundle, lambda here: drawn(here / "bundle")),
        "plan": (plan, lambda here: carried_out(whole, here)),
        "parts": (parts, lambda here: resumed_generation(whole, here)),
        "run": (run, lambda here: resumed_run(atlas, here / "run", config)),
    }


def stopped_run(folder, atlas, config):
    """A run that was killed after the autoencoder, in the middle of the flow."""
    from cfgen_dist.training.callbacks import SeedEveryStep

    original = SeedEveryStep.on_train_batch_start

    def stopping(self, trainer, module, batch, batch_idx):
        if self.stage == 2 and trainer.global_step == 20:
            raise Stop
        original(self, trainer, module, batch, batch_idx)

    SeedEveryStep.on_train_batch_start = stopping
    try:
        train(atlas, folder / "stopped" / "run", config)
    except Stop:
        pass
    finally:
        SeedEveryStep.on_train_batch_start = original
    return folder / "stopped"


def stopped_generation(folder, run):
    """The parts of a generation that was killed when all were made and not put together."""
    where = folder / "parts"
    where.mkdir()
    original = generation_store.append_parts

    def stopping(*args, **kwargs):
        raise Stop

    generation_store.append_parts = stopping
    try:
        generate(run, where / "cells.zarr", 200, shard_size=50)
    except Stop:
        pass
    finally:
        generation_store.append_parts = original
    return where


def everything(path):
    """All that a store says, by way of the reader that a training uses."""
    atlas = open_atlas(path)
    digest = hashlib.sha256(json.dumps(atlas.card).encode())
    for name in atlas.obs_columns:
        digest.update(f"{name} {np.asarray(atlas.obs(name)).tolist()}".encode())
    digest.update(repr([list(atlas.obs_names()), list(atlas.labels), list(atlas.genes)]).encode())
    digest.update(atlas.var.to_csv().encode())
    digest.update(str(atlas.uns("generation")).encode())
    for name in atlas.modalities:
        counts = atlas.read(np.arange(atlas.n_cells), name)
        parts = (counts.data, counts.indices, counts.indptr) if hasattr(counts, "data") else (counts.values,)
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def drawn(bundle):
    """Cells of a bundle."""
    model = CFGen.load(bundle)
    cells = model.generate(50, seed=0)
    return hashlib.sha256(cells.X.toarray().tobytes() + cells.obs.to_csv().encode() + model.digest.encode()).hexdigest()


def carried_out(run, here):
    """A generation by the plan in a folder."""
    return generate(run, here / "again.zarr", plan=here / "plan.json")["sha256"]


def resumed_generation(run, here):
    """A generation finished."""
    return generate(run, here / "cells.zarr", 200, shard_size=50, resume=True)["sha256"], everything(
        here / "cells.zarr"
    )


def resumed_run(atlas, run, config):
    """A run finished: the digest of its bundle, provenance and all."""
    return train(atlas, run, config, resume=True).digest


def drill(name, where, use, n, rng):
    """Mutate copies of a folder; yields one dict a mutation."""
    with tempfile.TemporaryDirectory(prefix="one-") as scratch:
        expected = outcome_of(where, use, Path(scratch))
    if isinstance(expected, str) and expected.startswith(OUTCOMES):
        sys.exit(f"{name}: without a mutation {expected}")
    for number in range(n):
        with tempfile.TemporaryDirectory(prefix="one-") as scratch:
            here = Path(scratch) / "copy"
            shutil.copytree(where, here)
            kind = KINDS[number % len(KINDS)]
            what = mutate(here, kind, rng)
            seen = sees(name, here)
            found = attempt(here, use)
        outcome, message = found if isinstance(found, tuple) and found[0] in OUTCOMES else (None, "")
        if outcome is None:
            outcome = "harmless" if found == expected else "silent"
        row = {"of": name, "kind": kind, "what": what, "outcome": outcome, "message": message, "verify": seen}
        yield row


def outcome_of(where, use, scratch):
    shutil.copytree(where, scratch / "copy")
    found = attempt(scratch / "copy", use)
    return f"{found[0]}: {found[1]}" if isinstance(found, tuple) and found[0] in OUTCOMES else found


def attempt(here, use):
    """What came out, or (outcome, message)."""
    try:
        return use(here)
    except BadInput as error:
        return ("traceback" if "\n" in str(error) else "detected", str(error))
    except OSError as error:  # the command line makes one line of those with a file
        return ("detected" if error.filename else "traceback", f"{type(error).__name__}: {error}")
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"


def sees(name, here):
    """Whether `verify` finds the mutation; None for what it does not look at."""
    path = {"atlas": "atlas.zarr", "latents": "latents.zarr", "generated store": "cells.zarr", "bundle": "bundle",
            "run": "run"}.get(name)  # fmt: skip
    if path is None:
        return None
    try:
        verify(here / path, workers=1)
        return False
    except BadInput:
        return True


def mutate(folder, kind, rng):
    """Change one file, or two; says which and how."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not set(SKIPPED) & set(file.parts))
    file = rng.choice([file for file in files if file.stat().st_size])
    content, name = bytearray(file.read_bytes()), str(file.relative_to(folder))
    if kind == "delete":
        file.unlink()
    elif kind == "cut":
        keep = rng.randrange(len(content))
        file.write_bytes(content[:keep])
        name += f" to {keep} of {len(content)} bytes"
    elif kind == "flip":
        position, bit = rng.randrange(len(content)), rng.randrange(8)
        content[position] ^= 1 << bit
        file.write_bytes(content)
        name += f", bit {bit} of byte {position}"
    elif kind == "zero":
        start = rng.randrange(len(content))
        stop = min(len(content), start + rng.choice([1, 16, 256]))
        content[start:stop] = bytes(stop - start)
        file.write_bytes(content)
        name += f", bytes {start} to {stop}"
    else:
        alike = [other for other in files if other != file and other.suffix == file.suffix] or files
        other = rng.choice(alike)
        theirs = other.read_bytes()
        other.write_bytes(content)
        file.write_bytes(theirs)
        name += f" and {other.relative_to(folder)}"
    return name


def table(rows):
    """Outcomes by what was mutated and how."""
    print(
        f"| {'mutated':16} | {'mutations':>9} | " + " | ".join(f"{name:>9}" for name in OUTCOMES) + " | `verify` sees |"
    )
    print("|---|---|" + "---|" * (len(OUTCOMES) + 1))
    names = list(dict.fromkeys(row["of"] for row in rows))
    for title, mine in (
        [(name, [row for row in rows if row["of"] == name]) for name in names]
        + [(kind, [row for row in rows if row["kind"] == kind]) for kind in KINDS]
        + [("all", rows)]
    ):
        counts = Counter(row["outcome"] for row in mine)
        seen = [row["verify"] for row in mine if row["verify"] is not None]
        print(f"| {title:16} | {len(mine):9} | " + " | ".join(f"{counts[name]:9}" for name in OUTCOMES)
              + f" | {f'{sum(seen)} of {len(seen)}' if seen else '':>13} |")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
