"""What `ingest` costs, from sources of several formats, beside an older commit if one is given.

    python benchmarks/ingest.py [--quick] [--cells 20000] [--genes 18000] [--counts 2000] [--rounds 5]
                                [--against CHECKOUT] [--formats h5ad mtx parquet soma] [--json FILE]

Simulated cells with about so many non-zero counts each are written in every format. Each round ingests them once by
each version, in a process of its own on one core, the versions in turn; it ingests a small file before, so that
imports and compilation do not count. Medians of CPU seconds and of seconds, cells per CPU second, bytes on disk, and
the median of the ratios of a round. `--against` is a checkout of another commit, such as
`git worktree add ../old 745cd79` makes it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import anndata as ad
import numpy as np
import pandas as pd
from common import base_parser, report
from scipy.io import mmwrite
from scipy.sparse import csr_matrix, vstack

FORMATS = ("h5ad", "mtx", "parquet", "soma")
HERE = Path(__file__).resolve().parent.parent
CHILD = """
import json, os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
from data_loaders import ingest
small, source, out = sys.argv[1:]
ingest(small, out + ".small", labels=["cell_type"])
seconds, cpu = time.monotonic(), time.process_time()
ingest(source, out, labels=["cell_type"])
print(json.dumps({"cpu": time.process_time() - cpu, "seconds": time.monotonic() - seconds}))
"""


def main():
    parser = base_parser(__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=18_000)
    parser.add_argument("--counts", type=int, default=2_000, help="non-zero counts of a cell, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="of another commit")
    args = parser.parse_args()
    if args.quick:
        args.cells, args.rounds = min(args.cells, 2_000), 1
    versions = {"now": HERE} | ({"before": args.against.resolve()} if args.against else {})
    rows = []
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        folder = Path(name)
        cells, small = simulated(args.cells, args.genes, args.counts), simulated(500, args.genes, 200)
        print(f"{args.cells:,} cells, {cells.X.nnz / args.cells:,.0f} non-zero counts each", flush=True)
        for kind in args.formats:
            sources = [write(kind, folder / f"{what}-{kind}", data) for what, data in (("s", small), ("l", cells))]
            for number in range(args.rounds):
                for version in list(versions)[:: 1 if number % 2 else -1]:
                    row = timed(versions[version], sources, folder / f"out-{version}")
                    rows.append({"format": kind, "round": number, "version": version} | row)
            show(kind, [row for row in rows if row["format"] == kind], args.cells, versions)
    report(args, {"cells": args.cells, "genes": args.genes, "counts": args.counts, "runs": rows})


def simulated(n, n_genes, n_counts):
    """An AnnData of negative binomial counts, about so many non-zero ones a cell."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(0, 2, n_genes)
    low, high = 0.0, 1e6
    for _ in range(60):  # the depth that gives so many
        depth = (low + high) / 2
        found = (1 - (1 + depth * mean / mean.sum() / 2) ** -2.0).sum()
        low, high = (depth, high) if found < n_counts else (low, depth)
    blocks = []
    for start in range(0, n, 1000):
        rates = depth * mean / mean.sum() * rng.gamma(2, 0.5, (min(1000, n - start), n_genes))
        blocks.append(csr_matrix(rng.poisson(rates).astype(np.float32)))
    obs = pd.DataFrame({"cell_type": rng.choice(list("abcde"), n)}, index=[f"cell{i}" for i in range(n)])
    obs["cell_type"] = obs["cell_type"].astype("category")
    return ad.AnnData(vstack(blocks).tocsr(), obs, pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))


def write(kind, path, cells):
    """Write cells in a format; returns the path and the options of `ingest` that it needs."""
    if kind == "h5ad":
        path = path.with_suffix(".h5ad")
        cells.write_h5ad(path)
    elif kind == "mtx":
        path.mkdir()
        mmwrite(path / "matrix.mtx", cells.X.T.astype(np.int32))
        pd.DataFrame({"id": cells.var_names, "name": cells.var_names, "type": "Gene Expression"}).to_csv(
            path / "features.tsv", sep="\t", header=False, index=False
        )
        (path / "barcodes.tsv").write_text("".join(f"{name}\n" for name in cells.obs_names))
        cells.obs.to_csv(path / "obs.csv")
    elif kind == "parquet":
        path.mkdir()
        parts = [slice(cells.X.indptr[i], cells.X.indptr[i + 1]) for i in range(cells.n_obs)]
        columns = {
            "gene_token_id": [cells.X.indices[part] for part in parts],
            "gene_expression": [cells.X.data[part].astype(np.int64) for part in parts],
            "cell_barcode": list(cells.obs_names),
            "cell_type": cells.obs["cell_type"].astype(str).to_numpy(),
        }
        pd.DataFrame(columns).to_parquet(path / "cells.parquet", index=False, row_group_size=1000)
        table = pd.DataFrame({"gene_token_id": np.arange(cells.n_vars), "gene_name": cells.var_names})
        table.to_parquet(path / "gene_metadata.parquet", index=False)
    else:
        import tiledbsoma.io

        tiledbsoma.io.from_anndata(str(path), cells.copy(), measurement_name="RNA", X_layer_name="raw")
    return path


def timed(checkout, sources, out):
    """One ingest by the code of a checkout: CPU seconds, seconds, and bytes on disk."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    code = CHILD
    if (sources[1] / "obs.csv").is_file():  # labels are in a table beside it
        code = code.replace('labels=["cell_type"]', 'labels=["cell_type"], obs_files=SOURCE + "/obs.csv"')
        code = code.replace("ingest(small", "SOURCE = small\ningest(small").replace(
            "ingest(source", "SOURCE = source\ningest(source"
        )
    command = [sys.executable, "-c", code, *map(str, sources), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=checkout)
    if done.returncode:
        sys.exit(done.stderr)
    figures = json.loads(done.stdout.splitlines()[-1])
    figures["bytes"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    for path in (out, out.with_name(f"{out.name}.small")):
        subprocess.run(["rm", "-r", str(path)], check=True)
    return figures


def show(kind, rows, n_cells, versions):
    """Print the medians of a format, and of its ratios."""
    for version in versions:
        own = [row for row in rows if row["version"] == version]
        cpu, seconds = (median(row[name] for row in own) for name in ("cpu", "seconds"))
        print(
            f"{kind:8} {version:7} {cpu:8.2f} CPU s {seconds:8.2f} s {n_cells / cpu:10,.0f} cells/CPU s "
            f"{own[0]['bytes']:14,} bytes",
            flush=True,
        )
    if "before" in versions:
        pairs = [
            [next(row for row in rows if row["round"] == number and row["version"] == version) for version in versions]
            for number in sorted({row["round"] for row in rows})
        ]
        ratios = {name: median(before[name] / now[name] for now, before in pairs) for name in ("cpu", "seconds")}
        size = pairs[0][0]["bytes"] / pairs[0][1]["bytes"] - 1
        print(f"{kind:8} before/now: CPU {ratios['cpu']:.2f}, seconds {ratios['seconds']:.2f}; bytes {size:+.2%}")


if __name__ == "__main__":
    main()
