"""Sources that cannot be used are refused with their reason."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from ingest_helpers import ingested, refused, write_zarr
from scipy.sparse import csc_matrix, csr_matrix
from small_data import small_adata, write_10x_folder

pytestmark = pytest.mark.usefixtures("small_pieces")
NOBODY = 65534


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: np.log1p(x), "X has fractional values (largest {top:.4g}, looks log-transformed)"),
        (lambda x: x * 100.5, "X has fractional values (largest"),
        (lambda x: x - 1, "X has negative values (smallest -1)"),
        (lambda x: np.where(x == 0, np.nan, x), "X has NaN or infinite values"),
    ],
    ids=["log", "fractional", "negative", "nan"],
)
def test_no_counts_anywhere(tmp_path, change, expected):
    adata = small_adata()
    values = change(adata.X.toarray())
    layers = {"scaled": -np.log1p(adata.X.toarray())}
    ad.AnnData(values, obs=adata.obs, var=adata.var, layers=layers).write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert message.startswith(f"{tmp_path / 'a.h5ad'}: no counts: ")
    assert expected.format(top=np.nanmax(values)) in message
    assert "in X, a layer (`layer=NAME`) or raw (`raw=True`)" in message


@pytest.mark.parametrize(
    ("bad", "problem"), [(-2.0, "negative values"), (2.5, "fractional values"), (np.nan, "NaN"), (2.0**40, "above")]
)
@pytest.mark.parametrize("kind", [csr_matrix, csc_matrix, np.asarray])
@pytest.mark.parametrize(("row", "column"), [(57, 24), (1, 2)])  # the search for counts looks at the first block
def test_one_bad_value_is_found_wherever_it_is(tmp_path, bad, problem, kind, row, column):
    adata = small_adata()
    dense = adata.X.toarray().astype(float)
    dense[row, column] = bad
    adata.X = kind(dense)
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert problem in message
    assert f"the first in cell 'cell{row}', gene 'g{column}': {bad:.6g}" in message
    adata.layers["counts"] = adata.X
    adata.X = np.log1p(np.nan_to_num(np.abs(dense)))
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert f"the first in cell 'cell{row}', gene 'g{column}'" in refused(tmp_path, tmp_path / "a.h5ad", layer="counts")


def test_names_that_repeat(tmp_path):
    adata = small_adata()
    names = list(adata.var_names)
    names[4] = names[5] = names[3]
    adata.var_names = names
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert "1 gene names occur more than once, such as 'g3'; make them unique first" in message
    adata = small_adata()
    adata.obs_names = ["same"] * 60
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, card = ingested(tmp_path, tmp_path / "a.h5ad")
    assert out.obs_names.is_unique
    assert any("59 repeated cell names were numbered" in note for note in card["notes"])


def test_files_of_no_known_kind(tmp_path):
    assert "no such file or folder; expected an AnnData (.h5ad file" in refused(tmp_path, tmp_path / "no.h5ad")
    (tmp_path / "a.loom").write_text("x")
    assert "a file ending in '.loom'; expected an AnnData (.h5ad file" in refused(tmp_path, tmp_path / "a.loom")
    (tmp_path / "folder").mkdir()
    assert "a folder without a store or matrix.mtx" in refused(tmp_path, tmp_path / "folder")
    (tmp_path / "folder" / "matrix.mtx").write_text("hello\n")
    assert "starts with 'hello'; expected a Matrix Market" in refused(tmp_path, tmp_path / "folder")


def test_truncated_files(tmp_path):
    adata = small_adata(400)
    whole = tmp_path / "whole.h5ad"
    adata.write_h5ad(whole, compression="gzip")
    cut = tmp_path / "cut.h5ad"
    for share in (0.3, 0.9):
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        message = refused(tmp_path, cut)
        assert "cut.h5ad cannot be read, the file is damaged or cut short" in message
    cut.write_bytes(b"")
    assert "cannot be read, the file is damaged or cut short (the file is empty)" in refused(tmp_path, cut)

    write_10x_folder(tmp_path / "tenx", adata, suffix=".gz")
    matrix = tmp_path / "tenx" / "matrix.mtx.gz"
    content = matrix.read_bytes()
    matrix.write_bytes(content[: len(content) // 2])
    assert "matrix.mtx.gz cannot be read, the file is damaged" in refused(tmp_path, tmp_path / "tenx")

    write_10x_folder(tmp_path / "plain", adata)
    matrix = tmp_path / "plain" / "matrix.mtx"
    matrix.write_text("".join(matrix.read_text().splitlines(keepends=True)[:-7]))
    assert "entries, its header promises" in refused(tmp_path, tmp_path / "plain")


def test_files_without_permission():
    # Not in a folder of pytest's: those are root's alone.
    with tempfile.TemporaryDirectory(prefix="forbidden-", dir="/tmp") as folder:
        path = Path(folder) / "a.h5ad"
        small_adata().write_h5ad(path)
        ingested(Path(folder), path)  # what Python has yet to import may lie where only root may read
        shutil.rmtree(Path(folder) / "out.zarr")
        path.chmod(0)
        with as_nobody(folder):
            assert refused(Path(folder), path) == f"{path} cannot be read: permission denied"


@contextlib.contextmanager
def as_nobody(folder):
    """Be a user without root's right to read everything; others are that already."""
    user = os.geteuid()
    if user == 0:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_overwritten_bytes_in_a_chunk(tmp_path):
    path = tmp_path / "a.h5ad"
    small_adata(400).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        place = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)
    assert "a.h5ad: X, rows 0 to" in refused(tmp_path, path, layer=None)


def test_zarr_stores_with_lost_or_short_parts(tmp_path):
    adata = small_adata()
    for part in ("data", "indices"):
        path = tmp_path / f"{part}.zarr"
        write_zarr(adata, path)
        (path / "X" / part / "0").unlink()
        assert f"{part} has lost chunks; the file is damaged or cut short" in refused(tmp_path, path)
    path = tmp_path / "short.zarr"
    write_zarr(adata, path)
    zarr.open_array(path / "X" / "data", mode="r+").resize((10,))
    message = refused(tmp_path, path)
    assert "for a shape of (60, 25) with 10 values" in message
    path = tmp_path / "noobs.zarr"
    write_zarr(adata, path)
    shutil.rmtree(path / "obs")
    assert "no obs in it; expected an AnnData" in refused(tmp_path, path)


def test_indices_outside_the_matrix(tmp_path):
    path = tmp_path / "a.h5ad"
    small_adata().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][50] = 99
    assert "index 99 is outside 0..24" in refused(tmp_path, path)


def test_matrix_market_numbers_outside(tmp_path):
    write_10x_folder(tmp_path / "a", small_adata())
    matrix = tmp_path / "a" / "matrix.mtx"
    lines = matrix.read_text().splitlines()
    matrix.write_text("\n".join([*lines[:-1], "99 1 1"]))
    assert "a feature number is outside 1..25" in refused(tmp_path, tmp_path / "a")
    matrix.write_text("\n".join([*lines[:-1], "1 1"]))
    assert "is not three numbers" in refused(tmp_path, tmp_path / "a")
    (tmp_path / "a" / "barcodes.tsv").unlink()
    assert "no barcodes.tsv (or .gz) in it" in refused(tmp_path, tmp_path / "a")


def test_matrix_market_without_numbers_or_entries(tmp_path):
    write_10x_folder(tmp_path / "a", small_adata())
    matrix = tmp_path / "a" / "matrix.mtx"
    lines = matrix.read_text().splitlines()
    matrix.write_text("\n".join([*lines[:12], lines[12].rsplit(" ", 1)[0] + " nan", *lines[13:]]))
    assert "matrix.mtx: entry 10 is not three numbers: it has NaN, or the file is" in refused(tmp_path, tmp_path / "a")
    matrix.write_text(f"{lines[0]}\n25 60 0\n")
    assert "no cell has counts in the chosen genes" in refused(tmp_path, tmp_path / "a")
    assert "`min_cells=1`: no gene is left of 25" in refused(tmp_path, tmp_path / "a", min_cells=1)


def test_a_10x_source_has_a_single_matrix_and_no_obs_columns(tmp_path):
    write_10x_folder(tmp_path / "a", small_adata())
    text = (tmp_path / "a" / "matrix.mtx").read_text()
    message = refused(tmp_path, tmp_path / "a", labels=["cell_type"])
    assert message.endswith("a: no obs column 'cell_type'; it has none, `obs_files=TABLE` adds those of a table")
    (tmp_path / "a" / "matrix.mtx").write_text(text.replace(" 300\n", " 300.5\n"))
    message = refused(tmp_path, tmp_path / "a")
    assert "300.5; expected raw counts (whole numbers, 0 or more); `round_counts=True` rounds" in message


def test_lost_names_of_cells(tmp_path):
    path = tmp_path / "a.zarr"
    write_zarr(small_adata(), path)
    (path / "obs" / "_index" / "0").unlink()
    assert "obs has 60 rows without a name; the file is damaged or cut short" in refused(tmp_path, path)


def test_the_value_shown_has_the_fault_that_is_named(tmp_path):
    adata = small_adata()
    values = adata.X.toarray() * np.float32(0.8)
    values[0, 3], values[0, 4] = -0.25, np.nan
    ad.AnnData(values, obs=adata.obs, var=adata.var).write_h5ad(tmp_path / "a.h5ad")
    assert "NaN or infinite values, the first in cell 'cell0', gene 'g4': nan" in refused(tmp_path, tmp_path / "a.h5ad")
    values[0, 4] = 1
    changed = ad.AnnData(values, obs=adata.obs, var=adata.var)
    changed.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert "negative values (smallest -0.25), the first in cell 'cell0', gene 'g3': -0.25" in message
    assert "layer" not in message  # there is none, nor a raw
    changed.layers["other"] = changed.layers["more"] = changed.X
    changed.write_h5ad(tmp_path / "a.h5ad")
    assert refused(tmp_path, tmp_path / "a.h5ad", layer="other").endswith("name another matrix by `layer=NAME`")
