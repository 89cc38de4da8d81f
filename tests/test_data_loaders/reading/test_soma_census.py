"""The CELLxGENE Census in place and ingested: its root, an organism, its primary cells, its gene names."""

import logging
import os

import boto3
import numpy as np
import pytest
from census_data import write_census

from cfgen_dist.cli import main
from data_loaders import BadInput, CellStream, ingest, open_atlas
from data_loaders.reading.soma_census import is_public, settings

pytestmark = pytest.mark.heavy
LUNG = "tissue_general == 'lung' and is_primary_data == True"


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    """(root, {organism: (obs, counts)})."""
    root = tmp_path_factory.mktemp("census") / "soma"
    return str(root), write_census(root)


@pytest.mark.parametrize("where", ["", "/census_data", "/census_data/homo_sapiens"])
def test_an_organism_of_a_census_without_copies(census, where, caplog):
    root, made = census
    obs, counts = made["homo_sapiens"]
    organism = {} if where.endswith("sapiens") else {"organism": "homo_sapiens"}
    with caplog.at_level(logging.WARNING, "data_loaders"):
        atlas = open_atlas(root + where, **organism)
    kept = np.flatnonzero(obs["is_primary_data"])
    assert atlas.n_cells == len(kept) == 480
    assert atlas.counts_from == "ms/RNA/X/raw"
    assert atlas.genes[0] == "ENSG00000000000"
    np.testing.assert_array_equal(atlas.read(np.arange(50)).to_scipy().toarray(), counts[kept[:50]].toarray())
    told = " ".join(caplog.messages)
    assert "120 cells that are copies of cells in other datasets" in told
    assert ("Census of 2025-11-08, schema 2.4.0" in told) is (where == "")


def test_lung_is_streamed_in_place(census):
    root, made = census
    obs, counts = made["homo_sapiens"]
    kept = np.flatnonzero((obs["tissue_general"] == "lung") & obs["is_primary_data"])
    atlas = open_atlas(root, organism="Homo sapiens", obs_filter=LUNG)
    shown = np.concatenate([batch.rows for batch in CellStream(atlas, 32, labels=["cell_type"])])
    np.testing.assert_array_equal(np.sort(shown), np.arange(len(kept)))
    assert atlas.read(np.arange(len(kept))).data.sum() == counts[kept].sum()


def test_copies_are_taken_when_the_filter_says_so(census):
    root, _ = census
    assert open_atlas(root, organism="mus_musculus", obs_filter="is_primary_data in [True, False]").n_cells == 600
    assert open_atlas(root, organism="mus_musculus", obs_filter="is_primary_data == False").n_cells == 120
    with pytest.raises(BadInput, match="copies too; no other cell is there"):
        open_atlas(root, organism="mus_musculus", obs_filter="soma_joinid in [0, 5, 10]")
    lung = "tissue_general == 'lung' or tissue_general == 'brain'"  # the filter is one operand
    assert open_atlas(root, organism="mus_musculus", obs_filter=lung).n_cells < 480


@pytest.mark.parametrize(
    ("organism", "words"),
    [
        (None, "a Census of homo_sapiens, mus_musculus; choose one by `organism=NAME`"),
        ("homo_sapien", "no organism 'homo_sapien' in this Census; did you mean 'homo_sapiens'?"),
        ("mouse", "no organism 'mouse' in this Census; valid: homo_sapiens, mus_musculus"),
    ],
)
def test_organisms_that_are_not_there(census, tmp_path, organism, words):
    for call in (lambda: open_atlas(census[0], organism=organism), lambda: ingest(census[0], tmp_path / "a.zarr",
                                                                                   organism=organism)):  # fmt: skip
        with pytest.raises(BadInput) as caught:
            call()
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_organism_of_what_has_none(census, tmp_path):
    with pytest.raises(BadInput, match="chooses within a Census; this is a single SOMA experiment"):
        open_atlas(f"{census[0]}/census_data/homo_sapiens", organism="homo_sapiens")
    with pytest.raises(BadInput, match="SOMA"):
        open_atlas(f"{census[0]}/census_info", organism="homo_sapiens")


def test_ingest_by_the_command_line(census, tmp_path, capsys):
    root, made = census
    obs, _ = made["homo_sapiens"]
    words = ["--organism", "homo_sapiens", "--labels", "cell_type,donor_id", "--min-cells", "0", "--drop-empty"]
    out = tmp_path / "lung.zarr"
    assert main(["ingest", root, str(out), "--obs-filter", "tissue_general == 'lung'", *words]) == 0
    told = capsys.readouterr().out
    assert "--obs-filter is_primary_data in [True, False] takes copies too" in told
    atlas = open_atlas(out)
    assert atlas.n_cells == int(((obs["tissue_general"] == "lung") & obs["is_primary_data"]).sum())
    assert atlas.genes[0] == "ENSG00000000000"
    assert atlas.card["options"]["organism"] == "homo_sapiens"


def test_a_census_of_one_organism_needs_no_name(tmp_path):
    write_census(tmp_path / "soma", n_cells=50, organisms=("homo_sapiens",))
    assert open_atlas(tmp_path / "soma").n_cells == 40


def test_a_census_in_a_bucket(census, tmp_path, monkeypatch):
    import moto.server

    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    for name, value in (access | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="cells")
        for folder, _, names in os.walk(census[0]):
            for name in names:
                path = os.path.join(folder, name)
                client.upload_file(path, "cells", f"soma/{os.path.relpath(path, census[0])}")
        expected = open_atlas(census[0], organism="homo_sapiens", obs_filter=LUNG)
        found = open_atlas("s3://cells/soma", organism="homo_sapiens", obs_filter=LUNG)
        rows = np.arange(expected.n_cells)
        np.testing.assert_array_equal(found.read(rows).data, expected.read(rows).data)
        assert open_atlas("s3://cells/soma/census_data/homo_sapiens").n_cells == 480, "told from a Zarr store"
        card = ingest("s3://cells/soma", tmp_path / "a.zarr", organism="homo_sapiens", min_cells=0, drop_empty=True)
        assert card["n_cells"] == 480
    finally:
        server.stop()


def test_settings_of_buckets(monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    public = "s3://cellxgene-census-public-us-west-2/cell-census/2025-11-08/soma/"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert settings(public) == {"vfs.s3.region": "us-west-2", "vfs.s3.no_sign_request": "true"}
    given = {"endpoint": "http://127.0.0.1:9000", "skip_signature": True, "vfs.s3.max_parallel_ops": "4"}
    found = settings("s3://mine/soma", given)
    assert found["vfs.s3.endpoint_override"] == "127.0.0.1:9000"
    assert found["vfs.s3.scheme"] == "http"
    assert found["vfs.s3.no_sign_request"] == "true"
    assert found["vfs.s3.max_parallel_ops"] == "4"
    assert settings(public, given)["vfs.s3.endpoint_override"] == "127.0.0.1:9000", "a mirror"
    assert settings("/data/soma") == {}
    assert is_public(public)
    assert not is_public("s3://cellxgene-census-public-us-west-2/cell-census/2025-11-08/h5ads/a.h5ad")
    assert not is_public("s3://mine/soma")
