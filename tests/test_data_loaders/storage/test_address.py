"""What goes wrong with object storage is one line, and holds nothing that signs an address."""

import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from data_loaders import BadInput, open_atlas
from data_loaders.storage import as_address, is_remote, opened, shown
from data_loaders.storage.address import on_disk, told

SECRET = "s3cr3t"


class Forbidden(BaseHTTPRequestHandler):
    """Answers everything with 403 and the signature that it was asked with."""

    def do_GET(self):
        self.send_response(403)
        self.end_headers()
        self.wfile.write(f"<Error>\n<X-Amz-Signature>{self.path}</X-Amz-Signature>\n</Error>".encode())

    do_HEAD = do_GET

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    server = HTTPServer(("127.0.0.1", 0), Forbidden)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("HERE/a.zarr?X-Amz-Signature=s3cr3t&X-Amz-Credential=me", {}),
        ("s3://cells/a.zarr", {"access_key_id": "s3cr3t", "secret_access_key": "s3cr3t", "region": "eu"}),
        ("az://cells/a.zarr", {"account_name": "x", "sas_token": "sig=s3cr3t"}),
        ("nonsense://me:s3cr3t@x?sig=s3cr3t", {}),
        ("http://127.0.0.1:9/a.zarr?sig=s3cr3t", {}),
    ],
)
def test_refusals_hold_no_secret(server, monkeypatch, url, options):
    monkeypatch.setattr(opened, "RETRY", opened.RETRY | {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    options = options | ({"endpoint": server} if options else {})
    with pytest.raises(BadInput) as error:
        open_atlas(url.replace("HERE", server), storage=options)
    text = str(error.value)
    assert SECRET not in text
    assert "\n" not in text
    assert len(text) < 500


def test_addresses_are_shown_without_what_signs_them():
    assert shown("https://me:pass@host/a.zarr?X-Amz-Signature=s3cr3t#x") == "https://host/a.zarr"
    assert shown("s3://bucket/a.zarr") == "s3://bucket/a.zarr"
    text = told(
        RuntimeError("GET https://u:s3cr3t@h/a?sig=s3cr3t&b=1 failed:\n X-Amz-Security-Token: s3cr3t\n\ndebug s3cr3t")
    )
    assert SECRET not in text
    assert text.startswith("GET https://h/a failed:")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("S3://bucket/a", "s3://bucket/a"),
        ("gs://b/a", "gs://b/a"),
        ("https://host/a?b=1", "https://host/a?b=1"),
        ("a/b:c", None),
        ("/a/s3:/b", None),
        ("file.h5:GENOME", None),
        ("file:///a/b", None),
    ],
)
def test_what_is_an_address(path, expected):
    assert as_address(path) == expected
    assert is_remote(path) == (expected is not None)


def test_a_file_address_is_a_path():
    assert on_disk("file:///a%20b/c") == Path("/a b/c")


@pytest.mark.parametrize("path", ["ftp://host/a", "hdfs:/a", "s4://bucket/x"])
def test_unknown_kinds_are_refused(path):
    with pytest.raises(BadInput, match=r"are not known; expected .* s3://"):
        as_address(path)
