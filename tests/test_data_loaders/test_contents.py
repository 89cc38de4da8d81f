"""Files that are not what their names say are read by their content, or named with the way on, and never "damaged"."""

import bz2
import gzip
import lzma
import shutil
import subprocess
import sys

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pyarrow
import pytest
import zarr
from ingest_helpers import ingested, refused
from small_data import same_counts, small_adata, write_10x_folder, write_10x_h5

from data_loaders.contents import kind_of
from data_loaders.tables import read_table
from data_loaders.text_files import open_text

WRONG = {
    "page.h5ad": (b"\n<!DOCTYPE html><html>404", "a web page"),
    "page.csv": (b"<html>404\n</html>", "a web page"),
    "pointer.h5ad": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "packed.h5ad": (gzip.compress(b"\x89HDF"), "packed by gzip: unpack it"),
    "packed.h5ad.gz": (gzip.compress(b"\x89HDF"), "packed by gzip: unpack it"),
    "seurat.rds": (gzip.compress(b"RDX3"), "a file of R"),
    "table.xlsx": (b"PK\x03\x04.........", "an Excel workbook or a zip archive"),
    "server.h5ad": (b'{"error": "forbidden"}', "a message of a server"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_of_other_kinds_are_named(tmp_path, name):
    content, words = WRONG[name]
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path, tmp_path / name)
    assert words in message
    assert "damaged" not in message


def test_kinds():
    assert kind_of(__file__) is None


def genes(adata):
    adata.var_names = [f"ENSG{i:011d}" for i in range(25)]
    return adata


def packed_by_zstd(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.csv.bz2", bz2.compress),
        ("a.csv.xz", lzma.compress),
        ("a.csv.zst", packed_by_zstd),
        ("a.csv", gzip.compress),  # under a name that does not say so
        ("a.csv.gz", bytes),  # or says what is not so
        ("a.csv", lambda text: text.decode().encode("utf-16")),
    ],
)
def test_text_is_unpacked_by_its_content(tmp_path, name, pack):
    adata = genes(small_adata())
    (tmp_path / name).write_bytes(pack(adata.to_df().astype(int).to_csv().encode()))
    out, _ = ingested(tmp_path, tmp_path / name)
    assert same_counts(out, adata)
    (tmp_path / f"labels{name}").write_bytes(pack(b"cell,kind\na,x\n"))
    assert list(read_table(tmp_path / f"labels{name}", names_first=True)["kind"]) == ["x"]
    with open_text(tmp_path / f"labels{name}") as file:
        assert file.read() == "cell,kind\na,x\n"


def test_matrix_market_is_unpacked_by_its_content(tmp_path):
    adata = small_adata()
    write_10x_folder(tmp_path / "tenx", adata)
    (tmp_path / "tenx/matrix.mtx").rename(tmp_path / "tenx/matrix.mtx.gz")
    out, _ = ingested(tmp_path, tmp_path / "tenx")
    assert same_counts(out, adata)


def test_text_in_another_encoding_is_not_damaged(tmp_path):
    adata = genes(small_adata())
    adata.obs_names = ["cell_é", *adata.obs_names[1:]]
    (tmp_path / "a.csv").write_bytes(adata.to_df().astype(int).to_csv().encode("latin-1"))
    assert "cannot be read as text in UTF-8" in refused(tmp_path, tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.h5", "A.H5AD", "data", "a.hdf5"])
def test_an_anndata_under_any_name(tmp_path, name):
    adata = small_adata()
    adata.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").rename(tmp_path / name)
    out, _ = ingested(tmp_path, tmp_path / name)
    assert same_counts(out, adata)


@pytest.mark.parametrize("name", ["a.hdf5", "A.H5"])
def test_a_10x_file_under_any_name(tmp_path, name):
    adata = small_adata()
    write_10x_h5(tmp_path / name, adata, version=3)
    out, _ = ingested(tmp_path, tmp_path / name, var_names="gene_id")
    assert same_counts(out, adata)


def test_a_10x_file_without_types_or_names_of_features(tmp_path):
    adata = small_adata()
    write_10x_h5(tmp_path / "a.h5", adata, version=3)
    with h5py.File(tmp_path / "a.h5", "a") as root:
        del root["matrix/features/feature_type"], root["matrix/features/name"]
    out, _ = ingested(tmp_path, tmp_path / "a.h5")
    assert same_counts(out, adata)


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_zipped_zarr_store(tmp_path, is_inside):
    adata = small_adata()
    adata.write_zarr(tmp_path / "in/a.zarr")
    shutil.make_archive(tmp_path / "a.zarr", "zip", tmp_path / ("in" if is_inside else "in/a.zarr"))
    out, _ = ingested(tmp_path, tmp_path / "a.zarr.zip", labels=["cell_type"])
    assert same_counts(out, adata)


def test_other_stores_are_named(tmp_path):
    adata = small_adata()
    mudata.MuData({"rna": adata}).write(tmp_path / "a.h5mu")
    (tmp_path / "a.h5mu").rename(tmp_path / "a.h5ad")
    assert "a MuData: its name must end in .h5mu" in refused(tmp_path, tmp_path / "a.h5ad")
    write_10x_h5(tmp_path / "b.h5ad", adata, version=3)
    assert "a 10x file: its name must end in .h5" in refused(tmp_path, tmp_path / "b.h5ad")
    for name in ("c.loom", "c.h5"):
        with h5py.File(tmp_path / name, "w") as root:
            root["matrix"], root["row_attrs/Gene"], root["col_attrs/CellID"] = np.zeros((2, 3)), [b"a"], [b"b"]
        assert "a loom file: write an h5ad file of it" in refused(tmp_path, tmp_path / name)
    with ad.settings.override(zarr_write_format=2):
        zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2).create_group("tables")
        adata.write_zarr(tmp_path / "s.zarr/tables/table")
    inside = f"expected one of {tmp_path}/s.zarr/tables/table"
    assert inside in refused(tmp_path, tmp_path / "s.zarr")


def test_a_file_that_another_program_writes(tmp_path):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    script = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "a.h5ad"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        message = refused(tmp_path, tmp_path / "a.h5ad")
        other.stdin.close()
    assert "another program has it open for writing; close it there" in message


def test_feather_is_a_table(tmp_path):
    pd.DataFrame({"cell": ["a", "b"], "kind": ["x", "y"]}).to_feather(tmp_path / "t.feather")
    assert list(read_table(tmp_path / "t.feather", names_first=True)["kind"]) == ["x", "y"]


def test_doubtful_counts_are_noted(tmp_path):
    adata = small_adata()
    adata.layers["counts"] = adata.X.copy()
    adata.X = (adata.X > 0).astype(np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    _, card = ingested(tmp_path, tmp_path / "a.h5ad")
    assert any("X and layers['counts'] hold other whole numbers" in note for note in card["notes"])
    adata.X = adata.layers["counts"]
    adata.write_h5ad(tmp_path / "b.h5ad")
    (tmp_path / "out.zarr").rename(tmp_path / "old.zarr")
    _, card = ingested(tmp_path, tmp_path / "b.h5ad")
    assert not any("whole numbers" in note or "sum up alike" in note for note in card["notes"])
    counts = adata.X.toarray()
    adata.X = np.rint(counts / counts.sum(axis=1, keepdims=True) * 1e6)
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "c.h5ad")
    (tmp_path / "out.zarr").rename(tmp_path / "older.zarr")
    _, card = ingested(tmp_path, tmp_path / "c.h5ad")
    assert any("sum up alike, to about 1,000,00" in note for note in card["notes"])
