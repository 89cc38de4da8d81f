"""What every benchmark shares: its options, and the file of figures with machine and versions."""

import argparse
import importlib.metadata
import json
import os
import platform
from datetime import date
from pathlib import Path

PACKAGES = ("cfgen-dist", "torch", "lightning", "ray", "anndata", "zarr", "tiledbsoma", "numpy", "scanpy")


def base_parser(doc):
    """An argument parser with --quick, --json and --threads; `doc` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes, to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures, machine and versions")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    return parser


def about():
    """Date, machine and versions: what figures are worth nothing without."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {"cpus": os.cpu_count(), "processor": _processor()}
    return {"date": str(date.today()), "machine": machine, "python": platform.python_version(), "versions": versions}


def report(args, figures):
    """Write `figures` with the machine and the versions to --json, if asked."""
    if args.json:
        with open(args.json, "w") as file:
            json.dump(about() | {"quick": args.quick} | figures, file, indent=1, default=float)


def _processor():
    """Its name, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
