"""Checksums beside files and in records."""

import json

import pytest

from data_loaders.errors import BadInput
from data_loaders.records import Record, read_json
from data_loaders.storage.disk import DiskPlace
from data_loaders.vouchers import check_vouched, is_vouched, sealed, unsealed, write_sealed, write_vouched


def test_a_changed_file_is_refused_and_one_without_checksum_is_not(tmp_path):
    file = tmp_path / "last.ckpt"
    write_vouched(file, b"weights")
    check_vouched(file, "; remove it")
    file.write_bytes(b"weightz")
    with pytest.raises(
        BadInput, match=r"last.ckpt is damaged \(its SHA-256 is not the one in last.ckpt.sha256\); remove it"
    ):
        check_vouched(file, "; remove it")
    (tmp_path / "last.ckpt.sha256").unlink()
    check_vouched(file, "; remove it")  # as files written before there were checksums


def test_without_the_file_there_is_nothing_to_refuse(tmp_path):
    write_vouched(tmp_path / "last.ckpt", b"weights")
    (tmp_path / "last.ckpt").unlink()
    assert is_vouched(tmp_path / "last.ckpt")


def test_whoever_dies_between_checksum_and_file_leaves_a_file_that_is_vouched_for(tmp_path, monkeypatch):
    file, write = tmp_path / "last.ckpt", DiskPlace.write
    write_vouched(file, b"one")

    def dying(there, content):
        if there.path == file:
            raise KeyboardInterrupt
        write(there, content)

    for content in (b"two", b"three", b"four"):  # time and again
        monkeypatch.setattr(DiskPlace, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            write_vouched(file, content)
        assert file.read_bytes() == b"one"
        assert is_vouched(file)
    monkeypatch.setattr(DiskPlace, "write", write)
    write_vouched(file, b"five")
    assert is_vouched(file)
    assert len((tmp_path / "last.ckpt.sha256").read_text().splitlines()) == 2


def test_a_damaged_file_is_not_vouched_for_by_writing_a_new_one(tmp_path):
    file = tmp_path / "last.ckpt"
    write_vouched(file, b"one")
    file.write_bytes(b"damaged")
    write_vouched(file, b"two")
    file.write_bytes(b"damaged")
    assert not is_vouched(file)


def test_records_are_sealed():
    values = {"part": "a", "cells": 3}
    assert unsealed(sealed(values), "it") == values
    assert unsealed(values, "it") == values  # as those written before there were checksums
    with pytest.raises(BadInput, match="it was changed after it was written"):
        unsealed(sealed(values) | {"cells": 4}, "it")


@pytest.mark.parametrize("values", [{"a": float("nan"), "b": [1.5, (2, None)]}, {"c": {10: 1, 9: 2}}, {"d": "ü"}])
def test_records_are_written_with_their_checksum(tmp_path, values):
    write_sealed(tmp_path / "a.json", values, indent=1)
    text = (tmp_path / "a.json").read_text()
    assert json.dumps(unsealed(json.loads(text), "it")) == json.dumps(values)
    for key in values:
        with pytest.raises(BadInput, match="was changed after it was written"):
            unsealed(json.loads(text) | {key: 7}, "it")
    if "a" in values:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_sealed(tmp_path / "b.json", values, any_number=False)


def test_in_a_bucket_as_on_a_disk(bucket, tmp_path):
    """The same objects as files, and the same refusals."""
    for folder in (str(tmp_path), f"{bucket.url}/run"):
        write_vouched(f"{folder}/last.ckpt", b"one")
        write_vouched(f"{folder}/last.ckpt", b"two")
        write_sealed(f"{folder}/card.json", {"cells": 3})
    objects, files = bucket.keys("run/"), sorted(tmp_path.iterdir())
    assert {key.partition("/")[2]: bucket.read(key) for key in objects} == {
        file.name: file.read_bytes() for file in files
    }
    address = f"{bucket.url}/run/last.ckpt"
    check_vouched(address, "")
    bucket.put("run/last.ckpt", b"twa")
    with pytest.raises(
        BadInput, match=r"^s3://.*/run/last.ckpt is damaged \(its SHA-256 is not the one in last.ckpt.sha"
    ):
        check_vouched(address, "; remove it")
    assert unsealed(read_json(f"{bucket.url}/run/card.json", Record), "card") == {"cells": 3}
    with pytest.raises(BadInput, match=r"^s3://.*card.json has more than 5 bytes"):
        read_json(f"{bucket.url}/run/card.json", Record, most=5)
    with pytest.raises(FileNotFoundError):
        read_json(f"{bucket.url}/run/none.json", Record)
