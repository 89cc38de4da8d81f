"""A training step of the autoencoder on CPUs: a whole training of ours beside the public code's step, in turns.

    python benchmarks/step.py [--public CHECKOUT] [--genes 28000 --batch 1024] [--quick] [--json FILE]

Each way is a process of its own, with the same network (512, 256, 50) on the same simulated atlas, and they take turns
of a few steps, so that what else the machine does hits all of them. Ours are whole trainings: loader, Lightning,
dropout, penalty, clipping, AdamW, averages. The public one (--public, a checkout of CFGen; its packages are on
PYTHONPATH or installed) is its loss on a dense batch that is ready, clipping and AdamW. Given are medians over rounds
of seconds a step, the ratio to the first way in the same round (median, lowest, highest), and the peak of memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import base_parser, report

HIDDEN, LATENT = (512, 256), 50
OURS = {"torch": None, "one pass, float32": "32-true", "one pass, bfloat16 products": "bf16-products"}


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--public", metavar="CHECKOUT", help="of the public CFGen, to compare with")
    parser.add_argument("--genes", type=int, default=28_000)
    parser.add_argument("--density", type=float, default=0.07, help="share of genes that a cell counts")
    parser.add_argument("--batch", type=int, default=1024, help="cells of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--atlas", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        return take_turns(args)
    rounds = 2 if args.quick else args.rounds
    with tempfile.TemporaryDirectory(prefix="step-", dir="/tmp") as folder:
        args.atlas = f"{folder}/atlas.zarr"
        from data_loaders import simulate

        simulate(args.atlas, cells=8 * args.batch, genes=args.genes, density=args.density, types=10, donors=2, seed=0)
        ways = [*(["public"] if args.public else []), *OURS]
        figures = compare({way: start(way, args) for way in ways}, rounds)
    print(f"{'':>30}{'ms a step':>11}{'times as fast':>15}{'from':>7}{'to':>7}{'peak MiB':>10}")
    for row in figures:
        print(
            f"{row['way']:>30}{1e3 * row['seconds']:>11,.0f}{row['ratio']:>15.2f}{row['lowest']:>7.2f}"
            f"{row['highest']:>7.2f}{row['peak_mib']:>10,.0f}"
        )
    report(args, {"genes": args.genes, "density": args.density, "batch": args.batch, "rounds": rounds,
                  "threads": args.threads, "steps": figures})  # fmt: skip


def start(way, args):
    """A process that waits for its turns."""
    options = ["--genes", args.genes, "--batch", args.batch, "--steps", args.steps, "--threads", args.threads]
    command = [sys.executable, __file__, "--way", way, "--atlas", args.atlas, *map(str, options)]
    command += ["--public", args.public] if args.public else []
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    said(child)
    return child


def said(child):
    """What a child answers."""
    for line in child.stdout:
        if line.startswith("@"):
            return json.loads(line[1:])
    raise SystemExit(f"{child.args}: ended with {child.wait()}")


def compare(children, rounds):
    """One dict for each way."""
    found = {way: [] for way in children}
    for _ in range(rounds):
        for way, child in children.items():
            child.stdin.write("go\n")
            child.stdin.flush()
            found[way].append(said(child))
    for child in children.values():
        child.stdin.close()
        child.wait()
    seconds = {way: np.array([turn["seconds"] for turn in turns]) for way, turns in found.items()}
    first = next(iter(seconds.values()))
    return [
        {
            "way": way, "seconds": float(np.median(own)), "ratio": float(np.median(first / own)),
            "lowest": float(min(first / own)), "highest": float(max(first / own)),
            "peak_mib": found[way][-1]["peak_mib"],
        }
        for way, own in seconds.items()
    ]  # fmt: skip


def take_turns(args):
    """What a child does."""
    import torch

    from cfgen_dist.training.memory import keep_freed_memory

    torch.set_num_threads(args.threads)
    keep_freed_memory()
    (public if args.way == "public" else ours)(args)


class Turns:
    """Tells how long the last turn took, and waits for the next one."""

    def __init__(self, steps):
        self.steps, self.done, self.began = steps, -1, 0.0

    def step(self):
        """Called after each step; the first turn is for warming up."""
        self.done += 1
        if self.done % self.steps:
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            "@" + json.dumps({"seconds": (time.perf_counter() - self.began) / self.steps, "peak_mib": peak}), flush=True
        )
        if not sys.stdin.readline():
            os._exit(0)
        self.began = time.perf_counter()


def ours(args):
    """Train with Lightning; the loss by operations of torch, or in one pass."""
    from lightning.pytorch.callbacks import Callback

    from cfgen_dist.config import load_config
    from cfgen_dist.model.autoencoder import Autoencoder
    from cfgen_dist.training.autoencoder import train_autoencoder
    from cfgen_dist.training.settings import RunSettings
    from cfgen_dist.training.settle import settle
    from data_loaders import open_atlas

    class TakeTurns(Callback):
        def __init__(self):
            self.turns = Turns(args.steps)

        def on_train_batch_end(self, *_):
            self.turns.step()

    precision = OURS[args.way]
    if precision is None:
        Autoencoder.has_one_pass = False
    config = load_config(overrides={
        "precision": precision or "32-true", "accelerator": "cpu", "autoencoder.batch_size": args.batch,
        "autoencoder.hidden": list(HIDDEN), "autoencoder.latent_dim": LATENT, "autoencoder.max_epochs": 10_000,
        "autoencoder.patience": 10_000,
    })  # fmt: skip
    atlas = open_atlas(args.atlas)
    settle(config, atlas, here=True)
    with tempfile.TemporaryDirectory() as folder:
        train_autoencoder(
            atlas, config.autoencoder, config.modalities, RunSettings.of(config), Path(folder), [TakeTurns()]
        )


def public(args):
    """The public training step on a dense batch."""
    import torch

    from data_loaders import CellStream, open_atlas

    sys.path.insert(0, args.public)
    from cfgen.models.base.encoder_model import EncoderModel

    batch = next(iter(CellStream(open_atlas(args.atlas), args.batch)))
    x = batch.counts["rna"].to_dense()
    model = EncoderModel(
        in_dim={"rna": args.genes},
        encoder_kwargs={"rna": {"dims": [*HIDDEN, LATENT], "batch_norm": True, "dropout": False, "dropout_p": 0.0}},
        learning_rate=1e-3, weight_decay=1e-5, covariate_specific_theta=False, conditioning_covariate="c",
    )  # fmt: skip
    model.log = lambda *_, **__: None
    optimizer, turns = model.train().configure_optimizers(), Turns(args.steps)
    while True:
        labels = {"c": torch.zeros(len(x), dtype=torch.long)}
        loss = model.training_step({"X": {"rna": x}, "X_norm": {"rna": torch.log1p(x)}, "y": labels}, 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        turns.step()


if __name__ == "__main__":
    main()
