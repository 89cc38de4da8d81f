"""Stores in an S3-compatible server on this machine, and connections that break."""

import contextlib
import socket
import threading

import boto3
import moto.server
import numpy as np
import pytest
from store_data import random_counts, write_atlas

from data_loaders import CellStream, open_atlas
from data_loaders.errors import BadInput

COUNTS = random_counts(800, 50)
ACCESS = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}


@pytest.fixture(scope="module")
def server():
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def bucket(server, tmp_path_factory):
    """A client, with an atlas at s3://cells/atlas.zarr."""
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=server, **keys)
    client.create_bucket(Bucket="cells")
    path = tmp_path_factory.mktemp("store") / "atlas.zarr"
    write_atlas(path, COUNTS)
    for file in path.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), "cells", f"atlas.zarr/{file.relative_to(path)}")
    return client, open_atlas(path)


def open_remote(endpoint, url="s3://cells/atlas.zarr"):
    return open_atlas(url, storage={"endpoint": endpoint, **ACCESS})


def test_a_remote_store_is_read_like_a_local_one(server, bucket):
    _, local = bucket
    atlas = open_remote(server)
    assert atlas.card == local.card
    np.testing.assert_array_equal(atlas.codes("cell_type"), local.codes("cell_type"))
    rows = np.random.default_rng(0).permutation(local.n_cells)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(atlas.read(rows), part), getattr(local.read(rows), part))
    ours = [batch.rows for batch in CellStream(atlas, 100, buffer_bytes=1 << 13)]
    theirs = [batch.rows for batch in CellStream(local, 100, buffer_bytes=1 << 13)]
    np.testing.assert_array_equal(np.concatenate(ours), np.concatenate(theirs))


class Cable:
    """A proxy in front of the server that breaks off the first `cuts` of the large answers."""

    def __init__(self, target):
        host, port = target.removeprefix("http://").split(":")
        self.target, self.cuts, self.done = (host, int(port)), 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            threading.Thread(target=self.pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, True), daemon=True).start()

    def pump(self, source, sink, may_cut):
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if may_cut and self.done < self.cuts and len(piece) > 600:
                    self.done += 1
                    sink.sendall(piece[:500])
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_dropped_connection_is_tried_again(server, bucket):
    _, local = bucket
    cable = Cable(server)
    atlas = open_remote(cable.url)
    cable.cuts, cable.done = 3, 0
    rows = np.arange(local.n_cells)
    np.testing.assert_array_equal(atlas.read(rows).data, local.read(rows).data)
    assert cable.done == 3
    cable.listener.close()


def test_objects_that_change_or_vanish(server, bucket):
    client, _ = bucket
    atlas = open_remote(server)
    atlas.read(np.arange(3))
    key = "atlas.zarr/X/data/c/0"
    content = client.get_object(Bucket="cells", Key=key)["Body"].read()
    client.put_object(Bucket="cells", Key=key, Body=content + b"x")
    with pytest.raises(BadInput, match="X/data/c/0: changed after the store was opened"):
        atlas.read(np.arange(3))
    client.delete_object(Bucket="cells", Key=key)
    with pytest.raises(BadInput, match=r"atlas.zarr: X/data: chunk 0 is missing"):
        open_remote(server).read(np.arange(3))
    client.put_object(Bucket="cells", Key=key, Body=content[:-30])
    with pytest.raises(BadInput, match=r"atlas.zarr: X/data cannot be read: the file .* has .* bytes, expected"):
        open_remote(server).read(np.arange(3))
    client.put_object(Bucket="cells", Key=key, Body=content)


def test_what_is_not_there(server, bucket):
    for url, what in (("s3://cells/nothing.zarr", "not a Zarr store"), ("s3://nobody/atlas.zarr", "no such bucket")):
        with pytest.raises(BadInput, match=f"{url}: .*{what}"):
            open_remote(server, url)
    with pytest.raises(BadInput, match="nonsense://x: addresses with nonsense:// are not known"):
        open_atlas("nonsense://x")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_an_endpoint_of_the_environment_may_be_plain_http(server, bucket, monkeypatch, capsys, tmp_path, name):
    """As of MinIO, Ceph or moto: every command reads from there, or says in one line why it does not."""
    from cfgen_dist.cli import main

    for key, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(name, server)
    _, local = bucket
    assert open_atlas("s3://cells/atlas.zarr").fingerprint == local.fingerprint
    assert main(["describe", "s3://cells/atlas.zarr"]) == 0
    assert "cells" in capsys.readouterr().out
    for command, message in (
        (["train", "s3://cells/none.zarr", "--out", tmp_path / "run"], "none.zarr: not a Zarr store"),
        (["evaluate", "s3://cells/none.zarr", "s3://cells/none.zarr", "--out", tmp_path / "r"], "not a Zarr store"),
        (
            ["generate", "s3://cells/run", tmp_path / "made.zarr", "--cells", "5"],
            "s3://cells/run: ",
        ),
        (["export", "s3://cells/none.zarr", tmp_path / "a.h5ad"], "none.zarr: no AnnData-Zarr store there"),
        (["train", "s3://cells/a.h5ad", "--out", tmp_path / "run"], "a.h5ad: HDF5 is read by rows from a disk alone"),
    ):
        assert main([*map(str, command)]) == 2, command
        said = [
            line for line in capsys.readouterr().err.splitlines() if '" 404 -' not in line and '" 200 -' not in line
        ]
        assert len(said) == 1, "the rest is the server's own log"
        assert message in said[0]
