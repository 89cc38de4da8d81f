"""Sources, tables and lists at addresses."""

import gzip
import tempfile

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from buckets import Line
from store_data import random_counts

from cfgen_dist.cli import main
from data_loaders import BadInput, ingest, open_atlas
from data_loaders.storage import place


@pytest.fixture
def cells():
    """60 cells with a label."""
    counts = random_counts(60, 30).astype(np.float32)
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.resize(["a", "b", "c"], counts.shape[0]))},
                       index=[f"cell{i}" for i in range(counts.shape[0])])  # fmt: skip
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))


OPTIONS = {"labels": ["cell_type"], "min_cells": 1, "drop_empty": True}


def same(one, other):
    """Whether two atlases hold the same cells."""
    one, other = open_atlas(one), open_atlas(other)
    rows = np.arange(one.n_cells)
    return (one.read(rows).to_scipy() != other.read(rows).to_scipy()).nnz == 0 and list(one.genes) == list(other.genes)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_source_in_a_bucket_becomes_an_atlas_in_a_bucket(bucket, cells, tmp_path, caplog, kind):
    local = tmp_path / f"cells.{kind}"
    cells.write_h5ad(local) if kind == "h5ad" else cells.write_zarr(local)
    place(f"{bucket.url}/in/cells.{kind}").upload(local)
    ingest(local, tmp_path / "here.zarr", **OPTIONS)
    with caplog.at_level("INFO", "data_loaders"):
        card = ingest(f"{bucket.url}/in/cells.{kind}", f"{bucket.url}/out/a.zarr", **OPTIONS)
    assert same(tmp_path / "here.zarr", f"{bucket.url}/out/a.zarr")
    assert card["sources"][0]["path"] == f"{bucket.url}/in/cells.{kind}"
    assert ("copied to a temporary file" in caplog.text) == (kind == "h5ad")
    assert {key.split("/")[1] for key in bucket.keys("out/")} == {"a.zarr"}
    assert tempfile.gettempdir() not in str(card)
    with pytest.raises(BadInput, match=f"{bucket.url}/out/a.zarr: exists already"):
        ingest(f"{bucket.url}/in/cells.{kind}", f"{bucket.url}/out/a.zarr", **OPTIONS)


def test_folders_patterns_lists_and_tables(bucket, cells, tmp_path):
    names = ["a.h5ad", "b.h5ad"]
    for number, name in enumerate(names):
        part = cells[number::2].copy()
        del part.obs["cell_type"]
        part.write_h5ad(tmp_path / name)
        place(f"{bucket.url}/in/{name}").upload(tmp_path / name)
    bucket.put("labels.csv.gz", gzip.compress(cells.obs.to_csv().encode()))
    bucket.put("genes.txt", b"GENE3\nGENE1\nGENE2\n")
    bucket.put("lists/all.txt", f"../x\n# two\n{bucket.url}/in/a.h5ad\n{bucket.url}/in/b.h5ad\n".encode()[5:])
    bucket.put("in/near.txt", b"a.h5ad\nb.h5ad\n")
    tables = {"obs_files": f"{bucket.url}/labels.csv.gz", "genes": f"{bucket.url}/genes.txt", "drop_empty": True}
    here = {"obs_files": tmp_path / "labels.csv.gz", "genes": tmp_path / "genes.txt", "drop_empty": True}
    for name in ("labels.csv.gz", "genes.txt"):
        (tmp_path / name).write_bytes(bucket.read(name))
    ingest([tmp_path / name for name in names], tmp_path / "here.zarr", labels=["cell_type"], **here)
    sources = {
        "list": f"{bucket.url}/lists/all.txt", "near": f"{bucket.url}/in/near.txt", "glob": f"{bucket.url}/i?/*.h5ad"
    }  # fmt: skip
    for how, source in sources.items():
        card = ingest(source, tmp_path / f"{how}.zarr", labels=["cell_type"], **tables)
        assert same(tmp_path / "here.zarr", tmp_path / f"{how}.zarr")
        assert [one["path"] for one in card["sources"]] == [f"{bucket.url}/in/{name}" for name in names]
        assert sorted(set(open_atlas(tmp_path / f"{how}.zarr").obs("source"))) == ["a", "b"]
    bucket.client.delete_object(Bucket=bucket.name, Key="in/near.txt")
    ingest(f"{bucket.url}/in", tmp_path / "folder.zarr", labels=["cell_type"], **tables)
    assert same(tmp_path / "here.zarr", tmp_path / "folder.zarr")


def test_10x_folders_parquet_and_h5mu(bucket, cells, tmp_path):
    import mudata
    import scanpy  # noqa: F401
    from scipy.io import mmwrite
    from scipy.sparse import csc_matrix

    folder = tmp_path / "sample"
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", csc_matrix(cells.X.T.astype(int)))
    (folder / "barcodes.tsv").write_text("\n".join(cells.obs_names))
    (folder / "genes.tsv").write_text("\n".join(f"{name}\t{name}" for name in cells.var_names))
    place(f"{bucket.url}/sample").upload(folder)
    ingest(folder, tmp_path / "a.zarr", min_cells=1, drop_empty=True)
    ingest(f"{bucket.url}/sample", tmp_path / "b.zarr", min_cells=1, drop_empty=True)
    assert same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    peaks = ad.AnnData(cells.X.copy(), obs=cells.obs.copy(), var=pd.DataFrame(index=[f"p{i}" for i in range(30)]))
    mudata.MuData({"rna": cells, "atac": peaks}).write(tmp_path / "m.h5mu")
    place(f"{bucket.url}/m.h5mu").upload(tmp_path / "m.h5mu")
    ingest(f"{bucket.url}/m.h5mu", tmp_path / "m.zarr", min_cells=1, drop_empty=True)
    assert open_atlas(tmp_path / "m.zarr").modalities == ("rna", "atac")
    ingest(f"{bucket.url}/m.h5mu:rna", tmp_path / "r.zarr", min_cells=1, drop_empty=True)
    assert same(tmp_path / "a.zarr", tmp_path / "r.zarr")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.h5ad", "none.h5ad: nothing there; expected a source of counts"),
        ("bad.h5ad", "bad.h5ad: not an HDF5 file"),
        ("none*.h5ad", r"none\*.h5ad: matches nothing"),
        ("none.txt", "none.txt: no such file; expected a list"),
        ("text.csv", "text.csv"),
    ],
)
def test_refusals_name_the_address(bucket, tmp_path, capsys, name, message):
    bucket.put("bad.h5ad", b"<html>")
    bucket.put("text.csv", b"a,b\n")
    with pytest.raises(BadInput, match=message) as error:
        ingest(f"{bucket.url}/{name}", tmp_path / "a.zarr")
    assert str(error.value).startswith(f"{bucket.url}/")
    assert tempfile.gettempdir() not in str(error.value)
    assert main(["ingest", f"{bucket.url}/{name}", str(tmp_path / "a.zarr")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_http(cells, tmp_path, bucket):
    """Files of the web, here those of a public bucket."""
    cells.write_h5ad(tmp_path / "c.h5ad")
    bucket.client.upload_file(str(tmp_path / "c.h5ad"), bucket.name, "c.h5ad")
    ingest(tmp_path / "c.h5ad", tmp_path / "a.zarr", **OPTIONS)
    url = bucket.client.generate_presigned_url("get_object", Params={"Bucket": bucket.name, "Key": "c.h5ad"})
    card = ingest(url, tmp_path / "b.zarr", **OPTIONS)
    assert same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert card["sources"][0]["path"] == f"{bucket.endpoint}/{bucket.name}/c.h5ad", "without what signs it"


@pytest.mark.heavy
def test_the_command_line_with_storage_options_and_faults(bucket, cells, tmp_path, monkeypatch, capsys):
    cells.write_h5ad(tmp_path / "c.h5ad")
    place(f"{bucket.url}/c.h5ad").upload(tmp_path / "c.h5ad")
    ingest(tmp_path / "c.h5ad", tmp_path / "a.zarr", **OPTIONS)
    for name in bucket.environ:
        monkeypatch.delenv(name)
    with Line(bucket.endpoint) as line:
        faults = iter(["500", "lost", "cut", "503", "refuse", 0.2] * 1000)
        line.fail = lambda _: next(faults) if len(line.requests) % 7 == 0 else None
        storage = [f"endpoint={line.url}", "access_key_id=key", "secret_access_key=secret", "region=us-east-1"]
        words = [word for option in storage for word in ("--storage", option)]
        command = [
            "ingest",
            f"{bucket.url}/c.h5ad",
            f"{bucket.url}/b.zarr",
            "--labels",
            "cell_type",
            "--min-cells",
            "1",
            "--drop-empty",
        ]
        assert main([*command, *words]) == 0, capsys.readouterr().err
        assert main(["describe", f"{bucket.url}/b.zarr", *words]) == 0
        assert main(["verify", f"{bucket.url}/b.zarr", *words]) == 0
        assert main(["plan", f"{bucket.url}/b.zarr", *words]) == 0
    for name, value in bucket.environ.items():
        monkeypatch.setenv(name, value)
    assert same(tmp_path / "a.zarr", f"{bucket.url}/b.zarr")
    assert main(["describe", f"{bucket.url}/b.zarr", "--storage", "endpoint"]) == 2
    assert "--storage has 'endpoint'; expected KEY=VALUE" in capsys.readouterr().err
