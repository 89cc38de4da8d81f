"""Streams from a store in the form of the CELLxGENE Census, in place, and from what `ingest` makes of it.

    python benchmarks/census.py [--cells 30000] [--genes 20000] [--json FILE] [--quick]

Nothing is downloaded: the store is made by tests/support/census_data.py, with the names, types and tiles of schema
2.4.0. A tenth of its cells or more is asked for by a filter, as one asks the Census for lung. Cells a second are of one
process: by the clock, and by CPU second, which hardly depends on who else uses the machine.
"""

import sys
import time
from pathlib import Path

from common import base_parser, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from census_data import write_census

from data_loaders import CellStream, ingest, open_atlas
from data_loaders.files import temporary_folder

LUNG = "tissue_general == 'lung' and is_primary_data == True"


def streamed(atlas):
    """Cells a second of an epoch in batches of 1,024, by the clock and by CPU second."""
    next(iter(CellStream(atlas, 1024)))  # compiles
    clock, cpu, cells = time.perf_counter(), time.process_time(), 0
    for batch in CellStream(atlas, 1024, seed=1):
        cells += len(batch)
    return cells, cells / (time.perf_counter() - clock), cells / (time.process_time() - cpu)


def main():
    """Print a row for the store in place and one for the atlas made of it."""
    parser = base_parser(__doc__)
    parser.add_argument("--cells", type=int, default=30_000)
    parser.add_argument("--genes", type=int, default=20_000)
    args = parser.parse_args()
    cells, genes = (3000, 500) if args.quick else (args.cells, args.genes)
    with temporary_folder(Path("benchmarks/.work-census")) as folder:
        write_census(folder / "soma", cells, genes, ("homo_sapiens",), density=0.08)
        rows = []
        for where in ("in place", "ingested"):
            if where == "ingested":
                clock, cpu = time.perf_counter(), time.process_time()
                ingest(folder / "soma", folder / "lung.zarr", organism="homo_sapiens", obs_filter=LUNG, min_cells=0)
                print(f"ingest: {time.perf_counter() - clock:.1f} s, {time.process_time() - cpu:.1f} CPU s")
                atlas = open_atlas(folder / "lung.zarr")
            else:
                atlas = open_atlas(folder / "soma", organism="homo_sapiens", obs_filter=LUNG)
            n, by_clock, by_cpu = streamed(atlas)
            rows.append({"where": where, "cells": n, "cells_per_second": by_clock, "cells_per_cpu_second": by_cpu})
            print(f"{where}: {n:,} cells, {by_clock:,.0f} cells/s, {by_cpu:,.0f} cells/CPU s", flush=True)
    report(args, {"genes": genes, "rows": rows})


if __name__ == "__main__":
    main()
