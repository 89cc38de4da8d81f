"""The ledger of finished parts: what counts as done, and what does not."""

import json
from pathlib import Path

import numpy as np
import pytest
from buckets import Line

from cfgen_dist.workers.parts import Ledger, open_parts
from data_loaders.errors import BadInput
from data_loaders.storage import opened, place


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path, "work")


def test_a_part_that_was_committed_is_there(ledger):
    record = ledger.commit("a", {"x": np.arange(3)}, cells=3)
    assert ledger.record("a") == ledger.whole_record("a") == record
    assert (record["part"], record["work"], record["cells"]) == ("a", "work", 3)
    np.testing.assert_array_equal(ledger.whole_arrays("a")["x"], np.arange(3))
    first = Path(ledger.arrays_path("a")).read_bytes()
    assert ledger.commit("a", {"x": np.arange(3)}, cells=3) == record, "twice is harmless"
    assert Path(ledger.arrays_path("a")).read_bytes() == first
    ledger.remove(["a", "never there"])
    assert not ledger.folder.names()


def test_facts_alone_are_a_part(ledger):
    ledger.commit("facts", values={"w2": 1.5})
    assert ledger.whole_record("facts")["values"] == {"w2": 1.5}
    assert not Path(ledger.arrays_path("facts")).exists()


def test_parts_of_other_work_or_another_name_do_not_count(ledger):
    ledger.commit("a", {"x": np.arange(3)})
    assert Ledger(ledger.folder, "other work").record("a") is None
    Path(ledger.record_path("a")).rename(Path(ledger.record_path("b")))
    Path(ledger.arrays_path("a")).rename(Path(ledger.arrays_path("b")))
    assert ledger.record("b") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"part": "a"}', '{"part": "a", "work": "work", "bytes": 5}'])
def test_records_that_cannot_be_read_do_not_count(ledger, text):
    ledger.commit("a", {"x": np.arange(3)})
    Path(ledger.record_path("a")).write_text(text)
    assert ledger.record("a") is None
    assert ledger.whole_arrays("a") is None


def test_damage_is_seen(ledger):
    ledger.commit("a", {"x": np.arange(300)})
    whole = Path(ledger.arrays_path("a")).read_bytes()
    Path(ledger.arrays_path("a")).write_bytes(whole[:-1])
    assert ledger.record("a") is None, "its size tells"
    Path(ledger.arrays_path("a")).write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    assert ledger.record("a") is not None
    assert ledger.whole_record("a") is None, "only its bytes tell"
    assert ledger.whole_arrays("a") is None
    Path(ledger.arrays_path("a")).unlink()
    assert ledger.record("a") is None


def test_a_folder_belongs_to_one_piece_of_work(tmp_path):
    out = tmp_path / "cells.zarr"
    folder = open_parts(out, {"seed": 1}, resume=False)
    assert folder == place(tmp_path / "cells.zarr.parts")
    assert json.loads((folder / "note.json").read()) == {"seed": 1}
    with pytest.raises(BadInput, match=r"parts holds an interrupted generation: `resume=True` finishes it"):
        open_parts(out, {"seed": 1}, resume=False)
    assert open_parts(out, {"seed": 1}, resume=True) == folder
    with pytest.raises(BadInput, match="holds shards of another plan: give the same arguments"):
        open_parts(out, {"seed": 2}, resume=True)
    with pytest.raises(BadInput, match=r"its folder .* does not exist"):
        open_parts(tmp_path / "none" / "cells.zarr", {}, resume=False)


def test_parts_in_a_bucket_are_the_same_bytes(bucket, ledger):
    """And count, or do not, as those on a disk."""
    there = Ledger(f"{bucket.url}/cells.zarr.parts", "work")
    small, large = {"x": np.arange(3)}, {"x": np.arange(2_000_000), "y": np.ones((2, 2))}
    for part, arrays in (("a", small), ("b", large), ("c", None)):
        assert there.commit(part, arrays, cells=3) == ledger.commit(part, arrays, cells=3)
    assert bucket.keys() == [f"cells.zarr.parts/{name}" for name in ledger.folder.names()]
    for name in ledger.folder.names():
        assert bucket.read(f"cells.zarr.parts/{name}") == (ledger.folder / name).read()
    np.testing.assert_array_equal(there.whole_arrays("b")["x"], large["x"])
    assert dict(there.records()) == {part: ledger.whole_record(part) for part in "abc"}
    bucket.put("cells.zarr.parts/a.npz", b"x" * there.record("a")["bytes"])
    assert there.record("a") is not None
    assert there.whole("a") is None
    bucket.put("cells.zarr.parts/b.npz", b"x")
    bucket.put("cells.zarr.parts/c.json", b"{")
    assert [record and record["part"] for _, record in there.records()] == ["a", None, None]
    assert Ledger(there.folder, "other work").record("a") is None
    there.remove(["a", "b", "c", "never there"])
    assert bucket.keys() == []


def test_what_a_bucket_does_not_answer_is_not_taken_for_missing(bucket, monkeypatch):
    """Else all parts would be made again, or a note written over another's."""
    out = f"{bucket.url}/cells.zarr"
    ledger = Ledger(open_parts(out, {"seed": 1}, resume=False), "work")
    ledger.commit("a", {"x": np.arange(3)})
    with Line(bucket.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        monkeypatch.setattr(opened, "RETRY", {"max_retries": 0})
        line.fail = lambda request: "500"
        for ask in (ledger.record, ledger.whole_record, ledger.whole_arrays):
            with pytest.raises(opened.NoAnswer, match=r"^s3://.*/cells.zarr.parts/a.json: cannot be read"):
                ask("a")
        with pytest.raises(opened.NoAnswer):
            open_parts(out, {"seed": 2}, resume=True)
