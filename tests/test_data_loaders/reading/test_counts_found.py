"""Foreign stores show the counts that `ingest` would take, wherever they are, and never anything else."""

import anndata
import h5py
import numpy as np
import pytest
import tiledbsoma.io as soma_io
import zarr
from ingest_helpers import ingested, write_zarr
from scipy.sparse import csr_matrix
from small_data import small_adata

from data_loaders import BadInput, CellStream, open_atlas

KINDS = ["h5ad", "zarr2", "zarr3", "dense", "soma"]


def logged(adata):
    """X normalised and logged, as scanpy leaves it."""
    counts = adata.X.toarray()
    return csr_matrix(np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32))


def spread(place, kind="h5ad"):
    """(AnnData with logarithms in X and counts elsewhere, the counts)."""
    adata = small_adata()
    counts = adata.X.copy()
    if place == "raw":
        adata.raw = adata.copy()
    elif place is not None:
        adata.layers[place] = counts
    adata.X = logged(adata)
    if kind == "dense":
        adata.X = adata.X.toarray()
        adata.layers = {name: layer.toarray() for name, layer in adata.layers.items()}
    return adata, counts.toarray()


def write(adata, tmp_path, kind):
    path = tmp_path / f"cells.{'h5ad' if kind in ('h5ad', 'dense') else kind}"
    if kind == "soma":
        soma_io.from_anndata(str(path), adata, measurement_name="RNA")
    elif kind.startswith("zarr"):
        write_zarr(adata, path, int(kind[-1]))
    else:
        adata.write_h5ad(path)
    return path


def dense(rows):
    return np.asarray(rows.to_scipy().todense())


def streamed(atlas):
    """Counts by row, as a stream shows them; and its size factors are their sums."""
    shown = np.full((atlas.n_cells, atlas.n_genes), -1.0)
    for batch in CellStream(atlas, 16, buffer_bytes=20_000):
        shown[batch.rows] = dense(batch.counts["rna"])
        np.testing.assert_array_equal(batch.size_factor, shown[batch.rows].sum(1))
    return shown


@pytest.mark.parametrize("place", ["counts", "raw", "UMIs"])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_found_where_they_are(tmp_path, caplog, kind, place):
    adata, counts = spread(place, kind)
    path = write(adata, tmp_path, kind)
    atlas = open_atlas(path)
    np.testing.assert_array_equal(streamed(atlas), counts)
    label = {"raw": "raw.X"}.get(place, f"layers[{place!r}]")
    if kind == "soma":
        label = "ms/raw/X/data" if place == "raw" else f"ms/RNA/X/{place}"
    assert caplog.messages == [f"{path}: the counts are taken from {label}"]
    assert atlas.counts_from == label
    made, card = ingested(tmp_path, path)
    assert card["sources"][0]["counts"] == label
    assert made.X.sum() == counts.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_without_counts_is_refused(tmp_path, kind):
    adata, _ = spread(None, kind)
    path = write(adata, tmp_path, kind)
    with pytest.raises(BadInput, match=r"X.* fractional values .*looks log-transformed.*expected raw counts"):
        open_atlas(path)


@pytest.mark.parametrize("kind", KINDS)
def test_two_places_that_only_the_user_can_tell_apart(tmp_path, kind):
    adata, counts = spread("spliced", kind)
    adata.layers["unspliced"] = adata.layers["spliced"] * 2
    path = write(adata, tmp_path, kind)
    with pytest.raises(BadInput, match=r"whole numbers are in .*spliced.*unspliced.*`layer=NAME`"):
        open_atlas(path)
    np.testing.assert_array_equal(streamed(open_atlas(path, layer="unspliced")), counts * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_user_names_is_checked_too(tmp_path, kind):
    adata = small_adata()
    adata.layers["lognorm"] = logged(adata)
    path = write(adata, tmp_path, kind)
    assert streamed(open_atlas(path)).sum() == adata.X.sum()
    with pytest.raises(BadInput, match=r"lognorm.*fractional values.*the first in cell 'cell0', gene 'g\d+'"):
        open_atlas(path, layer="lognorm")


@pytest.mark.parametrize("kind", ["h5ad", "zarr3", "soma"])
def test_raw_overrules_the_search_and_names_its_own_genes(tmp_path, kind):
    adata = small_adata()
    counts = adata.X.toarray()
    adata.raw = adata.copy()
    adata = adata[:, 5:15].copy()
    path = write(adata, tmp_path, kind)
    assert list(open_atlas(path).genes) == [f"g{i}" for i in range(5, 15)]
    atlas = open_atlas(path, raw=True)
    assert list(atlas.genes) == [f"g{i}" for i in range(25)]
    np.testing.assert_array_equal(streamed(atlas), counts)
    if kind == "soma":
        np.testing.assert_array_equal(streamed(open_atlas(path, measurement="raw")), counts)


def test_names_that_are_not_there(tmp_path):
    path = write(small_adata(), tmp_path, "h5ad")
    with pytest.raises(BadInput, match="`raw=True` was asked for, but it has no raw"):
        open_atlas(path, raw=True)
    with pytest.raises(BadInput, match="no layer 'counts'; there are no layers in it"):
        open_atlas(path, layer="counts")
    with pytest.raises(BadInput, match="together; expected one of them"):
        open_atlas(path, layer="counts", raw=True)


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, np.inf, 2.0**31])
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_far_inside_that_is_no_count(tmp_path, kind, value, monkeypatch):
    from data_loaders.reading import soma_places, value_checks
    from data_loaders.sources import which

    monkeypatch.setattr(which, "FIRST_VALUES", 100)
    monkeypatch.setattr(value_checks, "FIRST_VALUES", 100)
    monkeypatch.setattr(soma_places, "FIRST_ROWS", 5)
    adata = small_adata(n_cells=3000)
    adata.X = adata.X.astype(np.float64)
    adata.X[2990, 7] = value
    if kind == "dense":
        adata.X = adata.X.toarray()
    path = write(adata, tmp_path, kind)
    atlas = open_atlas(path)
    atlas.read(np.arange(2000))  # of SOMA whole tiles are read, 2048 rows
    with pytest.raises(BadInput, match="the first in cell 'cell2990', gene 'g7'"):
        atlas.read(np.array([5, 2990]))
    with pytest.raises(BadInput, match="expected raw counts"):
        list(CellStream(atlas, 64))


@pytest.mark.parametrize("joined", [False, True])
def test_counts_beyond_two_bytes_and_floats_near_to_whole_numbers(tmp_path, joined):
    adata = small_adata()
    adata.X = adata.X.astype(np.float64)
    adata.X[50, 3], adata.X[51, 3] = 100_000, 7 + 1e-9
    counts = np.rint(adata.X.toarray())
    paths = [write(adata, tmp_path, "h5ad"), write(adata, tmp_path, "zarr3")]
    atlas = open_atlas(paths if joined else paths[1])
    np.testing.assert_array_equal(streamed(atlas)[-60:], counts)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">u2", "<f2", "<i8", "?"])
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_types_that_others_store_counts_in(tmp_path, dtype, form):
    adata = small_adata()
    adata.X[3, 5] = 30
    counts = adata.X.toarray() if dtype != "?" else (adata.X.toarray() > 0).astype(float)
    adata.X = csr_matrix(counts) if form == "sparse" else counts
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        names = ["X/data", "X/indices", "X/indptr"] if form == "sparse" else ["X"]
        for name in names:
            wanted = dtype if name in ("X", "X/data") else ">i4"
            values, attributes = file[name][:], dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, data=values.astype(wanted)).attrs.update(attributes)
    atlas = open_atlas(path)
    np.testing.assert_array_equal(streamed(atlas), counts)
    batch = next(iter(CellStream(atlas, 60, shuffle=False)))
    np.testing.assert_array_equal(batch.counts["rna"].to_dense().numpy(), counts)


def test_big_endian_zarr(tmp_path):
    adata = small_adata()
    counts = adata.X.toarray()
    for version in (2, 3):
        path = tmp_path / f"cells{version}"
        write_zarr(adata, path, version)
        group = zarr.open_group(path / "X", mode="r+")
        for name, dtype in (("data", ">f4"), ("indices", ">i4"), ("indptr", ">i8")):
            values = group[name][:]
            group.create_array(name, data=values.astype(dtype), overwrite=True)
        zarr.consolidate_metadata(path)
        np.testing.assert_array_equal(streamed(open_atlas(path)), counts)


def test_joined_stores_are_searched_each(tmp_path, caplog):
    first, counts = spread("raw")
    second, _ = spread("counts")
    paths = [write(first, tmp_path, "h5ad"), write(second, tmp_path, "zarr3")]
    atlas = open_atlas(paths)
    np.testing.assert_array_equal(streamed(atlas), np.concatenate([counts, counts]))
    found = [("raw.X", paths[0]), ("layers['counts']", paths[1])]
    assert caplog.messages == [f"{path}: the counts are taken from {place}" for place, path in found]
    bad, _ = spread(None)
    with pytest.raises(BadInput, match=r"no counts|fractional"):
        open_atlas([paths[0], write(bad, tmp_path, "zarr2")])


def test_a_matrix_of_obsm_that_holds_no_counts_is_no_modality(tmp_path, caplog):
    adata = small_adata()
    adata.obsm["graph"], adata.obsm["adt"] = logged(adata), adata.X[:, :7].copy()
    atlas = open_atlas(write(adata, tmp_path, "zarr3"))
    assert atlas.modalities == ("rna", "adt")
    assert "obsm/graph: fractional values" in caplog.text
    assert "it is no modality of the atlas" in caplog.text


def test_our_store_that_others_normalised_is_refused(tmp_path):
    adata, _ = ingested(tmp_path, write(small_adata(), tmp_path, "h5ad"), labels=["cell_type"])
    adata.X = logged(adata)
    with anndata.settings.override(zarr_write_format=3):
        adata.write_zarr(tmp_path / "again.zarr")
    with pytest.raises(BadInput, match="fractional values"):
        open_atlas(tmp_path / "again.zarr")


def test_corrected_counts_are_refused_and_ingest_is_named(tmp_path):
    adata = small_adata()
    adata.X = adata.X * 25
    adata.X.data += np.random.default_rng(0).uniform(-0.4, 0.4, adata.X.nnz).astype(np.float32)
    adata.layers["also"] = adata.X * 1.1
    with pytest.raises(BadInput, match=r"`ingest\(round_counts=True\)` makes a store of counts that SoupX"):
        open_atlas(write(adata, tmp_path, "h5ad"))
