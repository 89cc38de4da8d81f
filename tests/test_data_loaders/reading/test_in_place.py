"""Files that `open_atlas` reads in place: 10x HDF5, MuData; what it refuses; and cells by a filter, of every store."""

import shutil

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import tiledbsoma.io as soma_io
from ingest_helpers import ingested, write_zarr
from small_data import small_adata, write_10x_folder, write_10x_h5

from data_loaders import BadInput, CellStream, open_atlas


def shown(atlas, modality="rna"):
    """All rows, as a stream shows them."""
    width = atlas.reader(modality).n_features
    rows = np.full((atlas.n_cells, width), -1.0)
    for batch in CellStream(atlas, 16, buffer_bytes=20_000):
        values = np.asarray(batch.counts[modality].to_scipy().todense())
        rows[batch.rows] = values
        np.testing.assert_array_equal(batch.size_factor, batch.counts["rna"].row_sums())
    return rows


@pytest.mark.parametrize("version", [2, 3])
def test_10x_hdf5(tmp_path, version):
    adata = small_adata()
    path = tmp_path / "cells.h5"
    write_10x_h5(path, adata, version=version)
    atlas = open_atlas(path)
    np.testing.assert_array_equal(shown(atlas), adata.X.toarray())
    assert list(atlas.genes[:3]) == ["SAME", "SAME-1", "g2"]
    assert list(atlas.obs_names()) == list(adata.obs_names)
    if version == 2:
        np.testing.assert_array_equal(shown(open_atlas(f"{path}:hg19")), adata.X.toarray())
        with pytest.raises(BadInput, match="no genome 'mm10'"):
            open_atlas(f"{path}:mm10")


def test_of_10x_hdf5_with_peaks_the_genes_are_shown(tmp_path, caplog):
    adata = small_adata()
    paths = [tmp_path / "cells.h5", tmp_path / "more.h5"]
    for path in paths:
        write_10x_h5(path, adata, version=3, peaks=10)
    atlas = open_atlas(paths[0])
    np.testing.assert_array_equal(shown(atlas), adata.X.toarray()[:, :15])
    assert len(atlas.genes) == 15
    assert "10 features" in caplog.text
    assert "Peaks" in caplog.text
    both = open_atlas(paths)
    np.testing.assert_array_equal(shown(both)[60:], adata.X.toarray()[:, :15])


def paired(tmp_path, reverse=False):
    rna, adt = small_adata(), small_adata(n_genes=8, seed=1)
    adt.var_names = [f"p{i}" for i in range(8)]
    if reverse:
        adt = adt[::-1].copy()
    path = tmp_path / "both.h5mu"
    mudata.MuData({"adt": adt, "rna": rna}).write(path)
    return path, rna, adt


@pytest.mark.parametrize("reverse", [False, True])
def test_mudata(tmp_path, reverse):
    path, rna, adt = paired(tmp_path, reverse)
    atlas = open_atlas(path)
    assert atlas.modalities == ("rna", "adt")
    order = adt.obs_names.get_indexer(rna.obs_names)
    np.testing.assert_array_equal(shown(atlas), rna.X.toarray())
    np.testing.assert_array_equal(shown(atlas, "adt"), adt.X.toarray()[order])
    assert list(atlas.features("adt").index) == list(adt.var_names)
    assert "cell_type" in atlas.labels
    alone = open_atlas(f"{path}:adt")
    np.testing.assert_array_equal(shown(alone), adt.X.toarray())


def test_mudata_of_other_cells_is_refused(tmp_path):
    rna, adt = small_adata(), small_adata(n_genes=8)
    path = tmp_path / "both.h5mu"
    mudata.MuData({"rna": rna, "adt": adt[:50].copy()}).write(path)
    with pytest.raises(BadInput, match=r"'adt' has 50 cells, of which 50 are among the 60 .*ingest\(cells='shared'\)"):
        open_atlas(path)


def test_mudata_whose_main_matrix_is_normalised(tmp_path):
    path, rna, _ = paired(tmp_path)
    held = mudata.read(path)
    held["rna"].layers["counts"] = held["rna"].X.copy()
    held["rna"].X = held["rna"].X * 0.3
    held.write(path)
    atlas = open_atlas(path)
    assert atlas.counts_from == "layers['counts']"
    np.testing.assert_array_equal(shown(atlas), rna.X.toarray())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cells.rds", "a file of R: write an h5ad file of it there"),
        ("counts.csv", r"a table of counts whose cells cannot be read one by one; `ingest\(\)` makes a store of it"),
        ("cells.h5ad", "cannot be read as an HDF5 file, it is of another kind or cut short"),
    ],
)
def test_files_that_are_not_read_by_rows(tmp_path, name, message):
    (tmp_path / name).write_text("cell,g1,g2\nc1,1,2\n")
    with pytest.raises(BadInput, match=message):
        open_atlas(tmp_path / name)


def test_loom_files_are_named(tmp_path):
    with h5py.File(tmp_path / "cells.loom", "w") as file:
        for name in ("matrix", "row_attrs", "col_attrs"):
            file.create_group(name)
    with pytest.raises(BadInput, match=r"a loom file: write an h5ad file of it"):
        open_atlas(tmp_path / "cells.loom")


def test_folders_of_10x_are_not_read_by_rows(tmp_path):
    write_10x_folder(tmp_path / "folder", small_adata())
    with pytest.raises(BadInput, match=r"10x output whose cells cannot be read one by one; `ingest\(\)` makes a store"):
        open_atlas(tmp_path / "folder")


def write_kinds(tmp_path, adata):
    write_zarr(adata, tmp_path / "cells.zarr", 3)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    soma_io.from_anndata(str(tmp_path / "soma"), adata, measurement_name="RNA")
    shutil.copytree(tmp_path / "cells.zarr", tmp_path / "again.zarr")
    mudata.MuData({"rna": adata}).write(tmp_path / "cells.h5mu")
    _, _ = ingested(tmp_path, tmp_path / "cells.h5ad", labels=["cell_type"])
    return {
        "zarr": "cells.zarr", "h5ad": "cells.h5ad", "soma": "soma", "h5mu": "cells.h5mu", "ours": "out.zarr",
        "joined": ["cells.zarr", "again.zarr"],
    }  # fmt: skip


def test_a_filter_over_obs_for_every_kind_of_store(tmp_path, caplog):
    adata = small_adata()
    expression = 'cell_type in ["T", "NK"] and age > 40'
    passes = (adata.obs["cell_type"].isin(["T", "NK"]) & (adata.obs["age"] > 40)).to_numpy()
    kept = adata[passes]
    for kind, names in write_kinds(tmp_path, adata).items():
        where = [tmp_path / name for name in names] if isinstance(names, list) else tmp_path / names
        atlas = open_atlas(where, obs_filter=expression)
        times = 2 if kind == "joined" else 1
        assert atlas.n_cells == times * passes.sum(), kind
        assert atlas.card is None
        totals = dict(zip(atlas.obs_names(), shown(atlas).sum(1), strict=True))
        assert totals == dict(zip(kept.obs_names, np.asarray(kept.X.sum(1)).ravel(), strict=True)), kind
        assert atlas.categories("cell_type") == ["NK", "T"], kind
        types = pd.Series(np.asarray(atlas.categories("cell_type"))[atlas.codes("cell_type")], atlas.obs_names())
        assert set(types[[kept.obs_names[0]]]) == {kept.obs["cell_type"].iloc[0]}
        whole = open_atlas(where)
        assert atlas.fingerprint != whole.fingerprint
        other = open_atlas(where, obs_filter='cell_type == "B" and age > 40')
        if other.n_cells == atlas.n_cells:
            assert other.fingerprint != atlas.fingerprint
        with pytest.raises(BadInput, match=r"no obs column 'cell_typ'.*did you mean 'cell_type'"):
            open_atlas(where, obs_filter='cell_typ == "T"')
        with pytest.raises(BadInput, match="passes"):
            open_atlas(where, obs_filter="age > 1000")


def test_a_filter_is_said(tmp_path, caplog):
    path = tmp_path / "cells.h5ad"
    small_adata().write_h5ad(path)
    atlas = open_atlas(path, obs_filter="age < 50")
    assert caplog.messages == [f"{path}: {atlas.n_cells} of 60 cells pass the obs filter 'age < 50'"]
