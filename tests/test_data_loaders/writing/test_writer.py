"""The store writer: what goes in comes out of anndata.read_zarr, whole or not at all."""

import signal
import subprocess
import sys
from itertools import pairwise

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from small_data import same_counts, small_adata

from data_loaders import AtlasWriter, BadInput
from data_loaders.files import begin_output
from data_loaders.writing import arrays


def write(path, adata, bounds, **kwargs):
    with AtlasWriter(path, adata.var, labels=["cell_type"], **kwargs) as writer:
        for start, stop in pairwise(bounds):
            writer.append(adata.X[start:stop], adata.obs.iloc[start:stop])
        return writer.close()


@pytest.mark.heavy
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 60), max_size=5), chunk=st.sampled_from([32, 64]))
def test_store_does_not_depend_on_slices(tmp_path_factory, monkeypatch, cuts, chunk):
    monkeypatch.setattr(arrays, "CHUNK", chunk)
    monkeypatch.setattr(arrays, "SHARD", chunk * 2)  # several shards even here
    adata = small_adata()
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    card = write(path, adata, sorted({0, 60, *cuts}), identity="a" * 32)
    store = ad.read_zarr(path)
    assert same_counts(store, adata)
    assert list(store.obs_names) == list(adata.obs_names)
    for name in adata.obs:
        assert (store.obs[name].astype(str) == adata.obs[name].astype(str)).all()
    assert (store.obs["split"] == "train").all()
    np.testing.assert_array_equal(store.obs["size_factor"], np.asarray(adata.X.sum(1)).ravel())
    whole = write(path.with_name("b.zarr"), adata, [0, 60], identity="a" * 32)
    assert card.pop("size_factor")["sd_log"] == pytest.approx(whole.pop("size_factor")["sd_log"], rel=1e-9)
    assert card == whole


def test_types_are_the_smallest(tmp_path):
    for largest, dtype in ((255, np.uint8), (256, np.uint16), (70_000, np.uint32)):
        counts = np.ones((4, 3), np.int64)
        counts[2, 1] = largest  # not in the first slice: what was written before is rewritten
        adata = ad.AnnData(csr_matrix(counts), obs=small_adata(4).obs, var=pd.DataFrame(index=list("abc")))
        path = tmp_path / f"{largest}.zarr"
        write(path, adata, [0, 1, 2, 3, 4])
        matrix = zarr.open_group(path / "X", mode="r")
        assert matrix["data"].dtype == dtype
        assert (matrix["indices"].dtype, matrix["indptr"].dtype) == (np.uint16, np.int64)
        assert ad.read_zarr(path).X.max() == largest


def test_promotion_rewrites_what_is_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 4)
    monkeypatch.setattr(arrays, "SHARD", 8)
    counts = np.arange(1, 401).reshape(40, 10)
    adata = ad.AnnData(csr_matrix(counts), obs=small_adata(40).obs, var=pd.DataFrame(index=list("abcdefghij")))
    write(tmp_path / "a.zarr", adata, range(41))
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "a.zarr").X.toarray(), counts)
    assert not list((tmp_path / "a.zarr").rglob("*narrow*"))


def test_many_categories_widen_the_codes(tmp_path):
    n = 300
    adata = ad.AnnData(csr_matrix(np.ones((n, 1), np.int32)), var=pd.DataFrame(index=["a"]))
    adata.obs_names = [f"c{i}" for i in range(n)]
    adata.obs["cell_type"] = pd.Categorical([f"k{i}" for i in range(n)], categories=[f"k{i}" for i in range(n)])
    card = write(tmp_path / "a.zarr", adata, [0, 100, 200, 300])
    store = ad.read_zarr(tmp_path / "a.zarr")
    assert list(store.obs["cell_type"]) == list(adata.obs["cell_type"])
    assert store.obs["cell_type"].cat.codes.dtype == np.int16
    assert card["labels"]["cell_type"]["counts"] == [1] * n


def test_gene_statistics_are_over_training_cells(tmp_path):
    adata = small_adata()
    adata.obs["split"] = np.where(np.arange(60) % 3 == 0, "test", "train")
    adata.obs["split"] = pd.Categorical(adata.obs["split"], categories=["test", "train"])  # another order of categories
    card = write(tmp_path / "a.zarr", adata, [0, 25, 60])
    var = ad.read_zarr(tmp_path / "a.zarr").var
    dense = adata.X.toarray().astype(float)
    train = dense[np.arange(60) % 3 != 0]
    np.testing.assert_array_equal(var["n_cells"], (dense > 0).sum(0))
    np.testing.assert_allclose(var["mean"], train.mean(0), rtol=1e-12)
    np.testing.assert_allclose(var["variance"], train.var(0, ddof=1), rtol=1e-10)
    logs = np.log(train.sum(1))
    np.testing.assert_allclose(card["size_factor"]["mean_log"], logs.mean(), rtol=1e-12)
    np.testing.assert_allclose(card["size_factor"]["sd_log"], logs.std(), rtol=1e-9)
    kinds = adata.obs["cell_type"].to_numpy()[np.arange(60) % 3 != 0]
    for name, law in card["size_factor"]["by"]["cell_type"].items():
        np.testing.assert_allclose(law["sd_log"], logs[kinds == name].std(), rtol=1e-9)
    assert card["splits"] == {"train": 40, "val": 0, "test": 20}
    assert (card["size_factor"]["min"], card["size_factor"]["max"]) == (train.sum(1).min(), train.sum(1).max())


def test_a_category_with_one_or_no_training_cell_has_a_law_without_nan(tmp_path):
    adata = small_adata()
    kinds = np.array(["T"] * 58 + ["one", "none"])
    adata.obs["cell_type"] = pd.Categorical(kinds)
    adata.obs["split"] = pd.Categorical(["train"] * 59 + ["test"])
    by = write(tmp_path / "a.zarr", adata, [0, 60])["size_factor"]["by"]["cell_type"]
    assert by["one"]["sd_log"] == 0.0
    assert by["one"]["mean_log"] == pytest.approx(np.log(adata.X[58].sum()))
    assert by["none"] == {"n_cells": 0, "mean_log": None, "sd_log": None}


def test_an_exception_leaves_nothing(tmp_path):
    adata = small_adata()

    def interrupted():
        with AtlasWriter(tmp_path / "a.zarr", adata.var) as writer:
            writer.append(adata.X, adata.obs)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(BadInput, match=r"a\.zarr: exists already; expected a path where nothing is"):
        AtlasWriter(tmp_path / "a.zarr", small_adata().var)
    with pytest.raises(BadInput, match=r"its folder .*no does not exist; make it first"):
        AtlasWriter(tmp_path / "no" / "a.zarr", small_adata().var)


@pytest.mark.parametrize(
    ("data", "indices", "message"),
    [
        ([1, 0], [0, 1], "above 0"),
        ([1, -1], [0, 1], "above 0"),
        ([1, 1.5], [0, 1], "whole numbers"),
        ([1, np.nan], [0, 1], "whole numbers"),
        ([1, 1], [1, 0], "must increase"),
        ([1, 1], [0, 0], "must increase"),
        ([1, 1], [0, 3], r"0\.\.2"),
    ],
)
def test_slices_that_are_no_counts_are_refused(tmp_path, data, indices, message):
    block = csr_matrix((1, 3))
    block.data, block.indices, block.indptr = np.array(data), np.array(indices), np.array([0, 2])
    with (
        pytest.raises(ValueError, match=message),
        AtlasWriter(tmp_path / "a.zarr", pd.DataFrame(index=list("abc"))) as writer,
    ):
        writer.append(block, pd.DataFrame(index=["cell"]))
    assert list(tmp_path.iterdir()) == []


def test_rows_and_obs_must_match(tmp_path):
    adata = small_adata()
    with AtlasWriter(tmp_path / "a.zarr", adata.var) as writer:
        with pytest.raises(ValueError, match="60 rows of counts but 59 rows of obs"):
            writer.append(adata.X, adata.obs.iloc[1:])
        writer.append(adata.X, adata.obs)
        with pytest.raises(ValueError, match="obs columns changed"):
            writer.append(adata.X, adata.obs[["cell_type"]])
        writer.discard()


def test_what_killed_processes_left_is_removed(tmp_path):
    """Of the same output only, and not while its process runs."""
    code = (
        "import os, signal; from data_loaders.files import begin_output, temporary_folder; "
        f"begin_output({str(tmp_path / 'a.zarr')!r}); begin_output({str(tmp_path / 'b.zarr')!r}); "
        f"held = temporary_folder({str(tmp_path / 'a.zarr')!r}); held.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    other = next(tmp_path.glob(".b.zarr.*.partial"))
    assert {path.suffix for path in tmp_path.glob(".a.zarr.*")} == {".partial", ".tmp"}
    running = begin_output(tmp_path / "a.zarr")
    assert set(tmp_path.iterdir()) == {running, other}
    assert begin_output(tmp_path / "a.zarr") != running
    assert running.is_dir()


def test_a_damaged_chunk_is_an_error(tmp_path):
    adata = small_adata()
    write(tmp_path / "a.zarr", adata, [0, 60])
    shard = tmp_path / "a.zarr" / "X" / "data" / "c" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[20] ^= 0xFF
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"[Cc]hecksum|crc32c"):
        zarr.open_array(tmp_path / "a.zarr" / "X" / "data", mode="r")[:]


def test_fingerprint_tells_stores_apart(tmp_path):
    adata = small_adata()
    prints = [
        write(tmp_path / f"{i}.zarr", adata[order].copy(), [0, 60])["fingerprint"]
        for i, order in enumerate([np.arange(60), np.arange(60), np.arange(60)[::-1]])
    ]
    assert prints[0] == prints[1] != prints[2]
    changed = []
    for name, value in {"cell_type": "B", "split": "test"}.items():
        other = adata.copy()
        other.obs["split"] = pd.Categorical(["train"] * 60, categories=["train", "val", "test"])
        other.obs.loc[other.obs[name] != value, name] = value
        changed.append(write(tmp_path / f"{name}.zarr", other, [0, 60])["fingerprint"])
    other = adata.copy()
    other.obs["cell_type"] = other.obs["cell_type"].cat.rename_categories({"T": "T2"})
    changed.append(write(tmp_path / "renamed.zarr", other, [0, 60])["fingerprint"])
    assert len({prints[0], *changed}) == 4
