"""SOMA experiments as sources of ingest: the same atlas as from the AnnData, and what is refused."""

import shutil

import anndata as ad
import numpy as np
import pytest
import tiledbsoma.io as soma_io
from small_data import same_counts, small_adata
from store_data import cells, genes, random_counts

from cfgen_dist.cli import main
from data_loaders import BadInput, export, ingest, open_atlas
from data_loaders.ingestion import buckets

pytestmark = pytest.mark.heavy

AN_ANNDATA = "this is an AnnData, which takes `layer` and `raw`"

N = 9_000  # five runs, three blocks


@pytest.fixture(scope="module")
def adata():
    counts = random_counts(N, 40, dtype=np.float32)
    out = ad.AnnData(counts, cells(N).drop(columns="split"), genes(40))
    out.layers["logged"] = np.log1p(out.X)
    out.var["length"] = np.arange(40)
    return out


@pytest.fixture(scope="module")
def experiment(adata, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("soma") / "experiment")
    soma_io.from_anndata(path, adata, measurement_name="RNA")
    return path


def refused(tmp_path, *sources, **options):
    """The one-line message, after making sure that nothing is left behind."""
    before = set(tmp_path.iterdir())
    with pytest.raises(BadInput) as caught:
        ingest(list(sources), tmp_path / "out.zarr", **({"min_cells": 0} | options))
    assert set(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_atlas_as_from_the_anndata(tmp_path, monkeypatch, adata, experiment):
    monkeypatch.setattr(buckets, "BUCKET_VALUES", 10_000)
    adata.write_h5ad(tmp_path / "a.h5ad")
    options = {"labels": ["cell_type", "batch"], "genes": "hvg:25", "drop_empty": True, "seed": 3}
    expected = ingest(tmp_path / "a.h5ad", tmp_path / "h5ad.zarr", **options)
    for name, source in (("path", experiment), ("uri", f"file://{experiment}")):
        card = ingest(source, tmp_path / name, **options)
        assert card["fingerprint"] == expected["fingerprint"]
        assert card["sources"] == [{"path": source, "counts": "ms/RNA/X/data", "n_cells": N, "n_genes": 40}]
        ours, theirs = ad.read_zarr(tmp_path / name), ad.read_zarr(tmp_path / "h5ad.zarr")
        np.testing.assert_array_equal(ours.X.toarray(), theirs.X.toarray())
        assert list(ours.obs_names) == list(theirs.obs_names)
        assert list(ours.var["length"]) == list(theirs.var["length"])
        np.testing.assert_array_equal(ours.obs["age"], theirs.obs["age"])
        assert (ours.obs["batch"] == theirs.obs["batch"]).all()


def test_a_filter_and_a_layer(tmp_path, adata, experiment):
    where = 'cell_type == "nk" and age > 40'
    card = ingest(
        experiment,
        tmp_path / "a.zarr",
        labels=["cell_type"],
        obs_filter=where,
        layer="data",
        min_cells=0,
        drop_empty=True,
    )
    kept = adata[(adata.obs["cell_type"] == "nk") & (adata.obs["age"] > 40)]
    n_passed = kept.n_obs
    kept = kept[kept.X.sum(1).A1 > 0]
    out = ad.read_zarr(tmp_path / "a.zarr")
    assert same_counts(out, kept)
    assert set(out.obs_names) == set(kept.obs_names)
    assert card["labels"]["cell_type"]["categories"] == ["nk"]
    assert card["options"]["obs_filter"] == where
    assert card["notes"][0] == f"{experiment}: {n_passed:,} of 9,000 cells pass the obs filter {where!r}"


def test_round_trip_of_an_atlas(tmp_path, tiny_atlas):
    export(tiny_atlas, tmp_path / "soma", to="soma")
    ingest(tmp_path / "soma", tmp_path / "back.zarr", labels=["cell_type", "donor"], min_cells=0, keep_order=True)
    first, back = ad.read_zarr(tiny_atlas), ad.read_zarr(tmp_path / "back.zarr")
    assert first.X.dtype == back.X.dtype
    np.testing.assert_array_equal(first.X.toarray(), back.X.toarray())
    assert list(first.obs_names) == list(back.obs_names)
    assert list(first.var_names) == list(back.var_names)
    for name in ("cell_type", "donor"):
        assert open_atlas(tiny_atlas).categories(name) == open_atlas(tmp_path / "back.zarr").categories(name)
        assert (first.obs[name].astype(str) == back.obs[name].astype(str)).all()
    np.testing.assert_array_equal(first.obs["depth"], back.obs["depth"])


def test_with_other_sources(tmp_path, experiment):
    other = ad.AnnData(random_counts(200, 40, seed=5, dtype=np.float32), cells(200, seed=5), genes(40))
    other.write_h5ad(tmp_path / "b.h5ad")
    card = ingest([experiment, tmp_path / "b.h5ad"], tmp_path / "a.zarr", labels=["cell_type"], drop_empty=True)
    assert [source["n_cells"] for source in card["sources"]] == [N, 200]
    both = ingest([experiment, tmp_path / "b.h5ad"], tmp_path / "c.zarr", drop_empty=True, obs_filter="age > 40")
    assert both["dropped"]["cells_filtered_out"] == N + 200 - sum(source["n_cells"] for source in both["sources"]) > 0


def test_the_command(tmp_path, experiment, capsys):
    options = ["--labels", "cell_type", "--measurement", "RNA", "--obs-filter", 'batch == "x"', "--drop-empty"]
    assert main(["ingest", experiment, str(tmp_path / "a.zarr"), *options]) == 0
    assert "counts from ms/RNA/X/data" in capsys.readouterr().out
    options[3] = "RNB"
    assert main(["ingest", experiment, str(tmp_path / "b.zarr"), *options]) == 2
    assert "measurement 'RNB' does not exist; did you mean 'RNA'?" in capsys.readouterr().err


def test_what_is_refused(tmp_path, experiment):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    for options, message in (
        ({"measurement": "RNB"}, "measurement 'RNB' does not exist; did you mean 'RNA'?"),
        ({"layer": "datum"}, "X layer of measurement 'RNA' 'datum' does not exist; did you mean 'data'?"),
        ({"obs_filter": "cell_type = ="}, "obs filter 'cell_type = =' cannot be used"),
        ({"obs_filter": 'cel_type == "nk"'}, "no obs column 'cel_type' for the obs filter"),
        ({"obs_filter": "age > 500"}, "no cell passes the obs filter 'age > 500'"),
        ({"labels": ["cel_type"]}, "'cel_type'"),
        ({"raw": True}, "measurement 'raw' does not exist; valid: RNA"),
        ({"layer": "logged"}, "ms/RNA/X/logged: fractional values"),
    ):
        found = refused(tmp_path, experiment, **options)
        assert found.startswith(experiment)
        assert message in found
    message = refused(tmp_path, tmp_path / "a.h5ad", measurement="RNA")
    assert message.endswith("a.h5ad: `measurement` chooses within a SOMA experiment; " + AN_ANNDATA)
    message = refused(tmp_path, f"file://{tmp_path}/nothing")
    assert "nothing: no such file or folder" in message
    assert "given more than once" in refused(tmp_path, experiment, experiment)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("ms/RNA/X/data", "ms/RNA/X/data cannot be read, the file is damaged or cut short"),
        ("ms/RNA/var", "ms/RNA/X/data cannot be read, the file is damaged or cut short"),
        ("obs", "obs cannot be read, the file is damaged or cut short"),
    ],
)
def test_a_damaged_array(tmp_path, part, message):
    path = tmp_path / "experiment"
    soma_io.from_anndata(str(path), small_adata(), measurement_name="RNA")
    for file in (path / part / "__fragments").rglob("*.tdb"):
        if not file.name.startswith("__"):
            file.write_bytes(b"\x00" * 10)
    found = refused(tmp_path, path)
    assert found.startswith(str(path))
    assert message in found


def test_a_file_cut_short_or_lost_anywhere(tmp_path):
    """Of every file: either it is not needed, or the experiment is refused in one line."""
    path = tmp_path / "experiment"
    soma_io.from_anndata(str(path), small_adata(), measurement_name="RNA")
    messages = []
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.stat().st_size]
    for number, file in enumerate(files):
        content = file.read_bytes()
        if number % 2:
            file.write_bytes(content[: len(content) // 2])
        else:
            file.unlink()
        try:
            ingest(path, tmp_path / "out.zarr", labels=["cell_type"], min_cells=0)
            shutil.rmtree(tmp_path / "out.zarr")
        except BadInput as error:
            messages.append(str(error))
        assert set(tmp_path.iterdir()) == {path}
        file.write_bytes(content)
    assert len(messages) > 20
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)
