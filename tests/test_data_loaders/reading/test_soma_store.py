"""SOMA experiments read in place, against the AnnData they were made of."""

import anndata
import numpy as np
import pytest
import scipy.sparse
import tiledbsoma.io as soma_io
from store_data import cells, genes, random_counts

from data_loaders import CellStream, open_atlas
from data_loaders.errors import BadInput

N = 5_000  # more than two runs
COUNTS = random_counts(N, 50, dtype=np.float32)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("soma") / "experiment")
    adata = anndata.AnnData(COUNTS, cells(N), genes(50), layers={"twice": COUNTS * 2})
    adata.obs["depth"] = COUNTS.sum(1).A1
    soma_io.from_anndata(path, adata, measurement_name="RNA")
    return path


def test_rows_in_any_order(experiment):
    atlas, rng = open_atlas(experiment), np.random.default_rng(0)
    assert (atlas.n_cells, atlas.n_genes, atlas.modalities) == (N, 50, ("rna",))
    assert list(atlas.genes) == list(genes(50).index)
    for rows in (np.arange(N), rng.permutation(N), rng.integers(0, N, 700), np.array([4999]), np.array([], int)):
        read = atlas.read(rows)
        np.testing.assert_array_equal(read.to_scipy().toarray(), COUNTS[rows].toarray())
        assert read.indices.dtype == np.uint16


def test_columns(experiment):
    atlas, obs = open_atlas(experiment), cells(N)
    assert atlas.labels == ["cell_type"]
    np.testing.assert_array_equal(np.asarray(atlas.obs("cell_type")), obs["cell_type"])
    np.testing.assert_array_equal(atlas.rows("test"), np.flatnonzero(obs["split"] == "test"))
    np.testing.assert_array_equal(atlas.size_factor, COUNTS.sum(1).A1)
    assert list(atlas.obs_names()) == list(obs.index)
    assert atlas.card is None


def test_a_filter_chosen_columns_and_a_layer(experiment):
    obs = cells(N).reset_index()
    atlas = open_atlas(
        experiment,
        measurement="RNA",
        layer="twice",
        obs_filter='cell_type == "nk" and age > 40',
        obs_columns=["cell_type", "age"],
    )
    kept = np.flatnonzero((obs["cell_type"] == "nk") & (obs["age"] > 40))
    assert atlas.n_cells == len(kept)
    assert atlas.obs_columns == ["cell_type", "age"]
    np.testing.assert_array_equal(atlas.obs("age"), obs["age"][kept])
    rows = np.random.default_rng(1).permutation(len(kept))
    np.testing.assert_array_equal(atlas.read(rows).to_scipy().toarray(), COUNTS[kept[rows]].toarray() * 2)
    stream = CellStream(atlas, 64, labels=["cell_type"], buffer_bytes=1 << 14)
    shown = list(stream)
    np.testing.assert_array_equal(np.sort(np.concatenate([b.rows for b in shown])), np.arange(len(kept)))
    for batch in shown:
        np.testing.assert_array_equal(batch.counts["rna"].to_scipy().toarray(), COUNTS[kept[batch.rows]].toarray() * 2)
        assert (np.array(atlas.categories("cell_type"))[batch.labels["cell_type"]] == "nk").all()


def test_streams_are_exact_over_ranks(experiment):
    atlas = open_atlas(experiment)
    shown = []
    for rank in range(2):
        for batch in CellStream(atlas, 300, rank=rank, world_size=2, buffer_bytes=1 << 16):
            np.testing.assert_array_equal(batch.counts["rna"].to_scipy().toarray(), COUNTS[batch.rows].toarray())
            shown.append(batch.rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(shown)), np.arange(N))


def test_what_is_refused(experiment, tmp_path):
    (tmp_path / "group" / "__group").mkdir(parents=True)
    for options, message in (
        ({"measurement": "RNB"}, "measurement 'RNB' does not exist; did you mean 'RNA'"),
        ({"layer": "datum"}, "X layer of measurement 'RNA' 'datum' does not exist; did you mean 'data'"),
        ({"obs_columns": ["cel_type"]}, "no obs column 'cel_type'; did you mean 'cell_type'"),
        ({"obs_filter": "cell_type = ="}, "obs filter 'cell_type = =' cannot be used"),
        ({"obs_filter": 'cel_type == "nk"'}, "no obs column 'cel_type' for .*; did you mean 'cell_type'"),
        ({"obs_filter": "age > 500"}, "no cell passes the obs filter 'age > 500'"),
    ):
        with pytest.raises(BadInput, match=message):
            open_atlas(experiment, **options)
    with pytest.raises(BadInput, match="group: not a SOMA experiment"):
        open_atlas(tmp_path / "group")


def test_a_damaged_array(tmp_path):
    path = tmp_path / "experiment"
    adata = anndata.AnnData(scipy.sparse.csr_matrix(COUNTS[:100]), cells(100), genes(50))
    soma_io.from_anndata(str(path), adata, measurement_name="RNA")
    for file in (path / "ms" / "RNA" / "X" / "data").rglob("soma_data.tdb"):
        file.write_bytes(b"\x00" * 10)
    for file in (path / "ms" / "RNA" / "X" / "data").rglob("a0.tdb"):
        file.write_bytes(b"\x00" * 10)
    with pytest.raises(BadInput, match=r"ms/RNA/X/data: rows 0 to 99 cannot be read"):
        open_atlas(path).read(np.arange(100))
