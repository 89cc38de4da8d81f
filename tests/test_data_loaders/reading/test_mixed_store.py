"""A store of genes, proteins and peaks in one matrix shows its genes alone, whatever its kind."""

import numpy as np
import pytest
import tiledbsoma.io as soma_io
from ingest_helpers import write_zarr
from small_data import small_adata

from data_loaders import BadInput, CellStream, ingest, open_atlas

TYPES = ["Antibody Capture"] * 4 + ["Gene Expression"] * 15 + ["Peaks"] * 6


def mixed(tmp_path, kind, types=TYPES):
    adata = small_adata()
    adata.var["feature_types"] = types
    counts = adata.X.toarray()
    path = tmp_path / f"mixed.{kind}"
    if kind == "soma":
        soma_io.from_anndata(str(path), adata, measurement_name="RNA")
    elif kind == "h5ad":
        adata.write_h5ad(path)
    else:
        adata.X = counts if kind == "dense" else adata.X
        write_zarr(adata, path, 3)
    return path, counts


@pytest.mark.parametrize("kind", ["zarr", "dense", "h5ad", "soma"])
def test_genes_alone_are_shown(tmp_path, kind, caplog):
    path, counts = mixed(tmp_path, kind)
    atlas = open_atlas(path)
    left_out = "10 features that are not of type 'Gene Expression' were left out (4 Antibody Capture, 6 Peaks)"
    assert caplog.messages == [f"{path}: {left_out}"]
    assert list(atlas.genes) == [f"g{i}" for i in range(4, 19)]
    assert atlas.n_genes == 15
    rows = np.array([7, 3, 59, 3, 0])
    read = atlas.read(rows)
    values = read.values if kind == "dense" else read.to_scipy().toarray()
    np.testing.assert_array_equal(values, counts[rows, 4:19])
    total = sum(float(batch.counts["rna"].to_dense().sum()) for batch in CellStream(atlas, batch_size=16, seed=0))
    assert total == counts[:, 4:19].sum()
    np.testing.assert_array_equal(atlas.size_factor, counts[:, 4:19].sum(axis=1))


def test_several_types_without_genes_are_refused(tmp_path):
    path, _ = mixed(tmp_path, "zarr", ["Peaks"] * 20 + ["Antibody Capture"] * 5)
    with pytest.raises(BadInput, match=r"type 'Peaks' \(20\), type 'Antibody Capture' \(5\); modality 'rna' takes"):
        open_atlas(path)


def test_mixed_stores_are_not_joined(tmp_path):
    path, _ = mixed(tmp_path, "zarr")
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(BadInput, match="4 of type 'Antibody Capture', 6 of type 'Peaks' beside 15 genes; such stores"):
        open_atlas([tmp_path / "a.h5ad", path], join="inner")


def test_one_type_and_our_own_stores_stay(tmp_path):
    path, counts = mixed(tmp_path, "zarr", ["Peaks"] * 25)
    np.testing.assert_array_equal(open_atlas(path).read(np.arange(60)).to_scipy().toarray(), counts)
    path, counts = mixed(tmp_path, "h5ad")
    ingest(path, tmp_path / "out.zarr", min_cells=0, drop_empty=True)
    assert open_atlas(tmp_path / "out.zarr").n_genes == 15
