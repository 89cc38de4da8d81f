"""What `plan` predicts against what is run: ingest, train, generate and evaluate, one and two workers.

    python benchmarks/plan.py [--cells 100000 1000000] [--genes 1000] [--work FOLDER] [--json FILE] [--quick]
    python benchmarks/plan.py --bucket s3://BUCKET/PREFIX ...

For each size simulated cells are written as h5ad, and each command is run by a process of its own, as a user would. The
plan is made in turns with the commands, by a process of its own too, from the first 100,000 cells (`--cells N` of
`plan` stands for the others). Seconds by the clock are those of this machine with whoever else works on it. CPU
seconds, of the command and of all that descend from it, hardly depend on them, so both are predicted and measured.

With --bucket atlas, run and generated cells are addresses in that bucket (AWS_ENDPOINT_URL and its like count).
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from common import base_parser, report

from cfgen_dist.cli.plan import in_words
from data_loaders import export, simulate
from data_loaders.files import temporary_folder

SETTINGS = {
    "refit": "false", "autoencoder.batch_size": 1024, "flow.batch_size": 1024, "autoencoder.max_epochs": 2,
    "autoencoder.patience": 2, "flow.max_steps": 500,
}  # fmt: skip
MARK = "CFGEN_BENCHMARK"  # variable that all processes of a command inherit
TICKS = os.sysconf("SC_CLK_TCK")


def watch(mark, cpu, stop):
    """Note the CPU seconds of every process that carries the mark."""
    while not stop.wait(0.5):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    cpu[folder.name, fields[19]] = (int(fields[11]) + int(fields[12])) / TICKS
            except OSError:  # it has ended, or is not ours
                continue


def timed(command):
    """Run a command of ours: its output, seconds by the clock and CPU seconds."""
    mark = uuid.uuid4().hex
    cpu, stop = {}, threading.Event()
    watcher = threading.Thread(target=watch, args=(f"{MARK}={mark}".encode(), cpu, stop))
    watcher.start()
    started = time.perf_counter()
    command = [sys.executable, "-m", "cfgen_dist", *map(str, command)]
    done = subprocess.run(command, env=os.environ | {MARK: mark}, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return done.stdout, seconds, sum(cpu.values())


def predicted(atlas, cells, workers, settings, ray):
    """Command -> its forecast."""
    command = ["plan", atlas, "--cells", cells, "--workers", workers, "--kind", "l4", "--json", *settings]
    out, seconds, _ = timed([*command, *(["--ray"] if ray else [])])
    return {row["command"]: row for row in json.loads(out)["commands"]}, seconds


def main():
    """Run all sizes and print the table."""
    parser = base_parser(__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--commands", nargs="+", default=["ingest", "train", "generate", "evaluate"])
    parser.add_argument("--bucket", metavar="ADDRESS", help="where atlases, runs and cells are, in place of a folder")
    parser.add_argument("--ray", action="store_true", help="generate and evaluate by actors in place of threads")
    parser.add_argument("--work", type=Path, help="keep everything in this folder; a temporary one by default")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
        measure(args, args.work)
    else:
        with temporary_folder(Path("benchmarks/.work-plan")) as folder:
            measure(args, folder)


def measure(args, folder):
    """Print a row for each command, size and number of workers."""
    sizes = [5000, 20_000] if args.quick else args.cells
    settings = [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
    rows = []
    print("| | cells | workers | predicted, s | measured, s | ratio | predicted, CPU s | measured, CPU s | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    first = None
    for cells in sizes:
        source = folder / f"{cells}.h5ad"
        if not source.exists():
            simulate(folder / f"{cells}-made.zarr", cells=cells, genes=args.genes)
            export(folder / f"{cells}-made.zarr", source, to="h5ad")
        at = args.bucket or folder
        for workers in args.workers:
            tag = f"{cells}-{workers}-{uuid.uuid4().hex[:6]}"
            atlas, run, made = (f"{at}/{tag}-{name}" for name in ("atlas.zarr", "run", "cells.zarr"))
            ray = ["--ray", "local"] if args.ray else []
            commands = {
                "ingest": ["ingest", source, atlas, "--labels", "cell_type,donor"],
                "train": ["train", atlas, "--out", run, *settings]
                + (["--ray", "local", "--workers", workers] if workers > 1 else []),
                "generate": ["generate", run, made, "--cells", cells, "--workers", workers, *ray],
                "evaluate": ["evaluate", atlas, made, "--out", folder / f"{tag}-report", "--embedding", "pca",
                             "--workers", workers, *ray],
            }  # fmt: skip
            for name, command in commands.items():
                if name not in args.commands:
                    continue
                _, seconds, cpu = timed(command)
                first = first or atlas
                said, planning = predicted(first, cells, workers, settings, args.ray)
                row = {
                    "command": name, "cells": cells, "workers": workers, "predicted": said[name]["seconds"],
                    "measured": seconds, "predicted_cpu": said[name]["cpu_seconds"], "measured_cpu": cpu,
                    "planning": planning,
                }  # fmt: skip
                rows.append(row)
                ratio, ratio_cpu = row["predicted"] / seconds, row["predicted_cpu"] / cpu
                print(
                    f"| {name} | {cells:,} | {workers} | {in_words(row['predicted'])} | {in_words(seconds)} | "
                    f"{ratio:.2f} | {row['predicted_cpu']:,.0f} | {cpu:,.0f} | {ratio_cpu:.2f} |",
                    flush=True,
                )
    report(args, {"bucket": args.bucket, "genes": args.genes, "ray": args.ray, "rows": rows})


if __name__ == "__main__":
    main()
