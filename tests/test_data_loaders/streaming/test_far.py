"""Streams of stores in a bucket fetch the next window while one is shown, and show what local ones show."""

import time

import numpy as np
import pytest
from buckets import Line

from data_loaders import BadInput, CellStream, open_atlas, simulate
from data_loaders.storage import place
from data_loaders.writing import arrays


@pytest.fixture
def there(bucket, tiny_atlas):
    """The small atlas in a bucket."""
    place(f"{bucket.url}/atlas.zarr").upload(tiny_atlas)
    return f"{bucket.url}/atlas.zarr"


def rows_of(stream):
    """Rows and counts of an epoch."""
    batches = list(stream)
    return np.concatenate([batch.rows for batch in batches]), sum(
        int(batch.counts["rna"].data.sum()) for batch in batches
    )


def source_of(atlas):
    """The bytes behind an atlas."""
    return atlas.reader("rna")._far


def test_an_epoch_through_faults_is_that_of_a_disk(bucket, there, tiny_atlas, monkeypatch):
    expected = rows_of(CellStream(open_atlas(tiny_atlas), 50, buffer_bytes=1 << 13))
    with Line(bucket.endpoint, latency=0.02) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        atlas = open_atlas(there)
        faults = iter(["500", "lost", "cut", "503", "refuse", 0.1] * 1000)
        line.fail = lambda _: next(faults) if len(line.requests) % 5 == 0 else None
        found = rows_of(CellStream(atlas, 50, buffer_bytes=1 << 13))
    assert found[1] == expected[1]
    np.testing.assert_array_equal(found[0], expected[0])
    assert not source_of(atlas)._fetching, "all that was expected was read"


def test_bytes_of_the_next_window_come_while_this_one_is_shown(bucket, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 256)  # windows that lie in chunks of their own
    monkeypatch.setattr(arrays, "SHARD", 4096)
    there = f"{bucket.url}/small.zarr"
    simulate(there, cells=600, genes=120, types=3, donors=2, density=0.3)
    with Line(bucket.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        atlas = open_atlas(there)
        batches = iter(CellStream(atlas, 50, buffer_bytes=1 << 13))
        next(batches), next(batches)
        for _ in range(200):
            if source_of(atlas)._fetching:
                break
            time.sleep(0.02)
        assert source_of(atlas)._fetching
        batches.close()
        assert not source_of(atlas)._fetching, "whoever breaks off keeps nothing"


def test_metadata_are_asked_for_once(bucket, there, monkeypatch):
    with Line(bucket.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        CellStream(open_atlas(there), 50, labels=["cell_type"])
        asked = [request for request in line.requests if "zarr.json" in request and request.startswith("GET")]
        assert len(asked) == len(set(asked))


def test_an_object_of_another_size_is_refused(bucket, there):
    atlas = open_atlas(there)
    key = "atlas.zarr/X/data/c/0"
    bucket.put(key, bucket.read(key) + b"x")
    with pytest.raises(BadInput, match=r"X/data/c/0 has .* bytes, expected"):
        atlas.read(np.arange(10))
