"""One epoch of one loader in a process of its own: `python loader_runs.py NAME JSON-OPTIONS` prints figures as JSON.

Runs under the Python of the loader: nothing is imported before a loader needs it, and no loader needs another. Every
loader gives batches with the codes of `cell_type`. A first batch does what happens only once, such as compiling. Then
it prints `ready` and waits for a line on its input; the time is that of the epoch that follows.
"""

import argparse
import json
import os
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np


def ours(store, batch_size, dense=False, rank=0, world_size=1, **options):
    """This project's stream over any store."""
    from data_loaders import CellStream, open_atlas

    atlas = open_atlas(store)
    stream = CellStream(atlas, batch_size, labels=["cell_type"], rank=rank, world_size=world_size, **options)

    def epoch(number):
        stream.epoch = number
        for batch in stream:
            if dense:
                batch.counts["rna"].to_dense()
            yield batch.labels["cell_type"]

    return epoch


def annbatch(store, batch_size, chunk_size, preload_nchunks, dense=False, rank=0, world_size=1):
    """annbatch over its own collection, decoded by zarrs as its documentation advises."""
    import anndata
    import zarr
    import zarrs  # noqa: F401
    from annbatch import Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    root = zarr.open_group(store, mode="r")
    parts = []
    for name in sorted(root):
        obs = anndata.io.read_elem(root[name]["obs"])[["cell_type"]]
        parts.append(anndata.AnnData(X=anndata.io.sparse_dataset(root[name]["X"]), obs=obs))
    place = {"chunk_size": chunk_size, "preload_nchunks": preload_nchunks, "batch_size": batch_size, "shuffle": True}
    if world_size > 1:
        from annbatch.samplers import RandomSampler

        n = sum(len(part) for part in parts)
        mask = slice(rank * n // world_size, (rank + 1) * n // world_size)
        place = {"batch_sampler": RandomSampler(mask=mask, **{k: v for k, v in place.items() if k != "shuffle"})}
    loader = Loader(**place).add_adatas(parts)

    def epoch(number):
        for batch in loader:
            if dense:
                batch["X"].toarray()
            yield batch["obs"]["cell_type"].cat.codes.to_numpy()

    return epoch


def scdataset(store, batch_size):
    """scDataset over the h5ad, its documented compromise of blocks of 16 rows fetched 64 batches at a time."""
    import anndata
    from scdataset import BlockShuffling, scDataset
    from torch.utils.data import DataLoader

    adata = anndata.read_h5ad(store, backed="r")
    codes = adata.obs["cell_type"].cat.codes.to_numpy()

    def fetch(collection, rows):
        order = np.argsort(rows)
        matrix = collection.X[rows[order]]
        return matrix[np.argsort(order)], codes[rows]

    def pick(fetched, positions):
        return fetched[0][positions], fetched[1][positions]

    strategy = BlockShuffling(block_size=16)
    data = scDataset(adata, strategy, batch_size, fetch_factor=8, fetch_callback=fetch, batch_callback=pick)
    loader = DataLoader(data, batch_size=None)

    def epoch(number):
        for _, labels in loader:
            yield labels

    return epoch


def annloader(store, batch_size):
    """AnnLoader over the backed h5ad: dense batches."""
    import anndata
    from anndata.experimental import AnnLoader

    adata = anndata.read_h5ad(store, backed="r")
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    adata.obs["row"] = np.arange(len(adata))
    loader = AnnLoader(adata, batch_size=batch_size, shuffle=True)

    def epoch(number):
        for batch in loader:
            batch.X  # noqa: B018  read now
            yield codes[np.asarray(batch.obs["row"])]

    return epoch


def tiledbsoma_ml(store, batch_size, dense=False):
    """tiledbsoma-ml with its defaults."""
    import tiledbsoma
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    experiment = tiledbsoma.open(store)
    codes = experiment.obs.read(column_names=["cell_type"]).concat().to_pandas()["cell_type"].cat.codes.to_numpy()
    query = experiment.axis_query("RNA")
    data = ExperimentDataset(query, layer_name="data", batch_size=batch_size, return_sparse_X=not dense)
    loader = experiment_dataloader(data)

    def epoch(number):
        for _, obs in loader:
            yield codes[obs["soma_joinid"].to_numpy()]

    return epoch


def run(name, pin=None, first=True, limit_s=None, **options):
    """Figures of one epoch: cells, seconds, cells_per_s, cpu_s, peak_gb, entropy (mean label entropy of batches)."""
    if pin is not None:
        os.sched_setaffinity(0, pin)
    os.environ["LOCAL_WORLD_SIZE"] = str(options.get("world_size", 1))  # as torchrun does
    epoch = globals()[name](**options)
    if first:
        iterator = epoch(0)
        next(iterator)
        iterator.close()
    print("ready", flush=True)
    sys.stdin.readline()
    start, cpu = time.perf_counter(), time.process_time()
    cells, entropies = 0, []
    for labels in epoch(1):
        cells += len(labels)
        share = np.bincount(labels) / len(labels)
        entropies.append(-(share[share > 0] * np.log(share[share > 0])).sum())
        if limit_s is not None and time.perf_counter() - start > limit_s:
            break
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    entropy = float(np.mean(entropies[:-1] or entropies))
    figures = {"cells": cells, "seconds": seconds, "cells_per_s": cells / seconds, "cpu_s": cpu}
    return figures | {"peak_gb": peak_bytes() / 1e9, "entropy": entropy}


def peak_bytes():
    """Largest resident memory of this process. (What getrusage says on Linux includes that of the parent.)"""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a loader: a function of this file")
    parser.add_argument("options", type=json.loads, help="its arguments, as a JSON object")
    args = parser.parse_args()
    print(json.dumps(run(args.name, **args.options)))
