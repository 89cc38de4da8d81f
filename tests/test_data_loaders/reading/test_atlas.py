"""Atlases seen from the outside: columns, rows, several stores as one, and what is refused."""

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from store_data import cells, genes, random_counts, write_anndata, write_atlas

from data_loaders import CellStream, open_atlas
from data_loaders.errors import BadInput

COUNTS = random_counts()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return write_anndata(tmp_path_factory.mktemp("store") / "foreign.zarr", COUNTS, layers={"raw": COUNTS * 2})


def test_columns_of_a_store_of_others(foreign):
    atlas, obs = open_atlas(foreign), cells(COUNTS.shape[0])
    assert (atlas.n_cells, atlas.n_genes) == COUNTS.shape
    assert list(atlas.genes) == list(genes(60).index)
    assert atlas.card is None
    assert atlas.labels == ["cell_type", "batch"]  # anndata makes text with few values categorical
    assert atlas.categories("cell_type") == ["b", "nk", "t"]
    np.testing.assert_array_equal(atlas.codes("cell_type"), obs["cell_type"].cat.codes)
    assert atlas.codes("cell_type").dtype == np.int32
    np.testing.assert_array_equal(atlas.obs("age"), obs["age"])
    np.testing.assert_array_equal(atlas.size_factor, COUNTS.sum(1).A1)
    assert atlas.size_factor.dtype == np.float32
    assert list(atlas.obs_names()) == list(obs.index)


def test_our_store_has_a_card(tmp_path):
    counts = write_atlas(tmp_path / "a.zarr", COUNTS)
    atlas = open_atlas(tmp_path / "a.zarr")
    assert atlas.card["n_cells"] == counts.shape[0]
    assert atlas.labels == ["cell_type"]
    assert atlas.fingerprint == atlas.card["fingerprint"]
    np.testing.assert_array_equal(atlas.size_factor, counts.sum(1).A1)
    assert "variance" in atlas.var


def test_rows_by_split_and_category(foreign):
    atlas, obs = open_atlas(foreign), cells(COUNTS.shape[0]).reset_index()
    np.testing.assert_array_equal(atlas.rows(), np.arange(COUNTS.shape[0]))
    np.testing.assert_array_equal(atlas.rows("test"), obs.index[obs["split"] == "test"])
    both = atlas.rows("train", cell_type=["b", "t"], batch="x")
    keep = (obs["split"] == "train") & obs["cell_type"].isin(["b", "t"]) & (obs["batch"] == "x")
    np.testing.assert_array_equal(both, obs.index[keep])
    age = obs["age"][0]
    np.testing.assert_array_equal(atlas.rows(age=age), obs.index[obs["age"] == age])


def test_a_layer_in_place_of_x(foreign):
    atlas = open_atlas(foreign, layer="raw")
    np.testing.assert_array_equal(atlas.read(np.arange(9)).to_scipy().toarray(), COUNTS[:9].toarray() * 2)
    with pytest.raises(BadInput, match="no layer 'row'; did you mean 'raw'"):
        open_atlas(foreign, layer="row")


def test_a_sparse_matrix_in_obsm_is_a_modality(tmp_path):
    peaks = random_counts(g=90, seed=4)
    atlas = open_atlas(write_anndata(tmp_path / "a.zarr", COUNTS, obsm={"atac": peaks, "X_pca": np.zeros((500, 2))}))
    assert atlas.modalities == ("rna", "atac")
    for batch in CellStream(atlas, 64, buffer_bytes=1 << 14):
        np.testing.assert_array_equal(batch.counts["rna"].to_scipy().toarray(), COUNTS[batch.rows].toarray())
        np.testing.assert_array_equal(batch.counts["atac"].to_scipy().toarray(), peaks[batch.rows].toarray())
    assert list(next(iter(CellStream(atlas, 64, modalities=["atac"]))).counts) == ["atac"]


@pytest.fixture
def parts(tmp_path):
    """Three stores with the same genes, the last by this project."""
    write_anndata(tmp_path / "a.zarr", COUNTS[:200], obs=cells(500).iloc[:200])
    write_anndata(
        tmp_path / "b.zarr", COUNTS[200:210], obs=cells(500).iloc[200:210].assign(cell_type=pd.Categorical(["x"] * 10))
    )
    last = write_atlas(tmp_path / "c.zarr", COUNTS[210:])
    whole = np.concatenate([COUNTS[:210].toarray(), last.toarray()])
    return [tmp_path / name for name in ("a.zarr", "b.zarr", "c.zarr")], whole


def test_several_stores_are_one_atlas(parts):
    paths, whole = parts
    atlas = open_atlas(paths)
    assert len(atlas) == len(whole)
    assert atlas.categories("cell_type") == ["b", "nk", "t", "x"]
    np.testing.assert_array_equal(atlas.rows(cell_type="x"), np.arange(200, 210))
    rows = np.random.default_rng(0).integers(0, len(whole), 300)
    np.testing.assert_array_equal(atlas.read(rows).to_scipy().toarray(), whole[rows])
    shown = []
    for batch in CellStream(atlas, 50, labels=["cell_type"], buffer_bytes=1 << 14):
        np.testing.assert_array_equal(batch.counts["rna"].to_scipy().toarray(), whole[batch.rows])
        np.testing.assert_array_equal(batch.size_factor, whole[batch.rows].sum(1))
        shown.append(batch.rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(shown)), np.arange(len(whole)))


def test_modalities_of_several_stores(tmp_path):
    peaks = random_counts(g=90, seed=4)
    halves = (slice(0, 240), slice(240, 500))
    paths = [
        write_anndata(tmp_path / f"{i}.zarr", COUNTS[half], obsm={"atac": peaks[half]}) for i, half in enumerate(halves)
    ]
    rows = np.random.default_rng(0).permutation(500)
    np.testing.assert_array_equal(open_atlas(paths).read(rows, "atac").to_scipy().toarray(), peaks[rows].toarray())
    other = write_anndata(tmp_path / "narrow.zarr", COUNTS, obsm={"atac": peaks[:, :80]})
    with pytest.raises(BadInput, match=r"modality 'atac' has \[80, 90\] columns"):
        open_atlas([*paths, other])
    with pytest.raises(BadInput, match=r"plain.zarr: modalities rna, but rna, atac in"):
        open_atlas([*paths, write_anndata(tmp_path / "plain.zarr", COUNTS)])
    dense = write_anndata(tmp_path / "dense.zarr", COUNTS.toarray(), var=genes(60))
    with pytest.raises(BadInput, match=r"dense.zarr: no sparse matrix as modality 'rna'"):
        open_atlas([*paths, dense])


def test_a_folder_of_stores_is_one_atlas(tmp_path):
    root = zarr.open_group(tmp_path / "folder.zarr", mode="w", zarr_format=2)
    for number, start in ((0, 0), (2, 100), (10, 300)):
        stop = {0: 100, 100: 300, 300: 500}[start]
        adata = anndata.AnnData(COUNTS[start:stop], cells(500).iloc[start:stop], genes(60))
        anndata.io.write_elem(root, f"dataset_{number}", adata)
    atlas = open_atlas(tmp_path / "folder.zarr")
    np.testing.assert_array_equal(atlas.read(np.arange(500)).to_scipy().toarray(), COUNTS.toarray())


def test_stores_with_other_genes(tmp_path):
    first, second = random_counts(50, 30, seed=1), random_counts(40, 25, seed=2)
    order = np.random.default_rng(0).permutation(25)
    write_anndata(tmp_path / "a.zarr", first, var=genes(30))
    write_anndata(tmp_path / "b.zarr", second[:, order], var=genes(25, first=10).iloc[order])
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    with pytest.raises(
        BadInput, match=r"b.zarr: its genes differ .*'gene30' is in one only.*`join='inner'` or `join='outer'`"
    ):
        open_atlas(paths)
    expected = {}
    for name, counts, start in (("a", first, 0), ("b", second, 10)):
        wide = np.zeros((counts.shape[0], 35))
        wide[:, start : start + counts.shape[1]] = counts.toarray()
        expected[name] = pd.DataFrame(wide, columns=genes(35).index)
    whole = pd.concat(expected.values())
    rows = np.random.default_rng(1).permutation(90)
    for join, n_genes in (("inner", 20), ("outer", 35)):
        atlas = open_atlas(paths, join=join)
        assert atlas.n_genes == n_genes
        np.testing.assert_array_equal(atlas.read(rows).to_scipy().toarray(), whole[atlas.genes].to_numpy()[rows])
    with pytest.raises(BadInput, match="`join='both'`: expected one of same, inner, outer"):
        open_atlas(paths, join="both")


def test_genes_in_another_order_or_none_in_common(tmp_path):
    a = write_anndata(tmp_path / "a.zarr", COUNTS, var=genes(60))
    b = write_anndata(tmp_path / "b.zarr", COUNTS, var=genes(60).iloc[::-1])
    c = write_anndata(tmp_path / "c.zarr", COUNTS, var=genes(60, first=100))
    with pytest.raises(BadInput, match="the same genes are in another order"):
        open_atlas([a, b])
    with pytest.raises(BadInput, match="no gene is in all of them"):
        open_atlas([a, c], join="inner")


def test_what_is_refused(foreign, tmp_path):
    atlas = open_atlas(foreign)
    (tmp_path / "text.h5ad").write_text("no data")
    (tmp_path / "empty").mkdir()
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="f4")
    write_anndata(tmp_path / "csc.zarr", COUNTS.tocsc())
    for call, message in (
        (lambda: open_atlas(tmp_path / "none.zarr"), "none.zarr: no such file or folder"),
        (lambda: open_atlas(tmp_path / "text.h5ad"), "text.h5ad: cannot be read as an HDF5 file"),
        (lambda: open_atlas(tmp_path / "empty"), "empty: not a Zarr store, or one still being written"),
        (lambda: open_atlas(tmp_path / "array.zarr"), "array.zarr: a single Zarr array"),
        (lambda: open_atlas(tmp_path / "csc.zarr"), "csc.zarr: X is a csc_matrix; expected rows"),
        (lambda: open_atlas([]), "no path given"),
        (lambda: open_atlas(foreign, measurement="RNA"), "`measurement` given, but it is no SOMA experiment"),
        (lambda: atlas.rows("tain"), "has no category 'tain'; did you mean 'train'"),
        (lambda: atlas.rows(cell_typ="b"), "no obs column 'cell_typ'; did you mean 'cell_type'"),
        (lambda: atlas.codes("sex"), "no obs column 'sex'; valid: cell_type, batch, age, split"),
        (lambda: atlas.obs("sex"), "no obs column 'sex'"),
        (lambda: atlas.read(np.array([500])), "rows run from 500 to 500; .* has rows 0 to 499"),
        (lambda: atlas.read(np.array([0.5])), "expected a list of row numbers"),
        (lambda: atlas.read(np.array([0]), "atac"), "no modality 'atac'; valid: rna"),
    ):
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize("column", [["low"] * 6, [1.03] * 6])
def test_size_factors_of_others_are_not_believed(tmp_path, column):
    """They may be text, or what scran made; those of a batch are the sums of its counts."""
    counts = random_counts(6, 9, seed=3)
    store = anndata.AnnData(counts, obs=pd.DataFrame({"size_factor": column}, index=[f"c{i}" for i in range(6)]))
    store.write_h5ad(tmp_path / "a.h5ad")
    atlas = open_atlas(tmp_path / "a.h5ad")
    (batch,) = CellStream(atlas, 6, shuffle=False)
    sums = np.asarray(counts.sum(axis=1)).ravel()
    np.testing.assert_array_equal(batch.size_factor, sums)
    np.testing.assert_array_equal(atlas.size_factor, sums)


def test_systems_without_reads_by_position(tmp_path, monkeypatch):
    """Windows has no `os.pread`: bytes are read by seeking, a file by one thread at a time."""
    from data_loaders.reading import byte_ranges

    counts = random_counts(200, 30)
    path = write_anndata(tmp_path / "a.zarr", counts)
    monkeypatch.setattr(byte_ranges, "read_at", byte_ranges._seek_and_read)
    found = open_atlas(path).read(np.arange(200)[::-1]).to_scipy()
    assert (found != counts[::-1]).nnz == 0
