"""Records of others: whatever they are, they are read with the same result as before, or refused in one line."""

import io
import json
import os
import socket
import time

import pytest
import zarr
from anndata.io import write_elem
from hypothesis import given
from hypothesis import strategies as st
from mutations import FAST, LONG, ODD_FILES, as_text, mutated, write_odd
from rich.console import Console
from store_data import without_manifest

from cfgen_dist.cli.describe import _print_atlas
from data_loaders import BadInput, open_atlas
from data_loaders.card import parse_card, read_card
from data_loaders.records import Record, Whole, read_json, read_regular

LAW = {"n_cells": 4, "mean_log": 2.5, "sd_log": 0.5}
CARD = {
    "format": 1, "n_cells": 6, "n_genes": 3, "nnz": 9, "density": 0.5,
    "labels": {"cell_type": {"categories": ["a", "b"], "counts": [4, 2], "train_counts": [3, 1]}},
    "splits": {"train": 4, "val": 1, "test": 1},
    "size_factor": LAW | {"min": 3.0, "max": 9.0, "by": {"cell_type": {
        "a": LAW, "b": {"n_cells": 0, "mean_log": None, "sd_log": None},
    }}},
    "fingerprint": "f" * 64, "sources": [{"path": "a.h5ad", "n_cells": 6}], "options": {"in_order": False},
    "dropped": {"genes": 2}, "notes": ["one"],
    "modalities": {"rna": {"n_features": 3, "nnz": 9, "density": 0.5, "largest": 7, "likelihood": "nb"},
                   "atac": {"n_features": 2, "nnz": 1, "density": 0.1, "largest": 1, "likelihood": "bernoulli"}},
    "versions": {"zarr": "3"},
}  # fmt: skip


class Small(Record):
    """A record for these tests."""

    name: str
    numbers: list[Whole] = []  # noqa: RUF012


def one_line(error):
    text = str(error.value if hasattr(error, "value") else error)
    assert "\n" not in text
    assert len(text) < 1000
    text.encode()  # can be printed
    return text


def read_as_people_do(text):
    """What `describe` does with a card."""
    card = parse_card(text, "a.zarr")
    _print_atlas(Console(file=io.StringIO(), highlight=False), "a.zarr", card)
    return card


def check_card(card):
    text = as_text(card)
    try:
        found = read_as_people_do(text)
    except BadInput as error:
        one_line(error)
    else:
        assert json.dumps(found) == text, "as it is there"


@FAST
@given(mutated(CARD))
def test_cards_with_something_wrong(card):
    check_card(card)


@pytest.mark.slow
@LONG
@given(mutated(CARD))
def test_many_cards_with_something_wrong(card):
    check_card(card)


@FAST
@given(st.integers(0, len(as_text(CARD))), st.binary(max_size=3))
def test_cards_with_wrong_bytes(at, added):
    text = as_text(CARD)
    try:
        read_as_people_do(text[:at] + added.decode("latin") + text[at + 1 :])
    except BadInput as error:
        one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, expected 1: written by a newer version"),
        ({"n_cells": 7}, "splits has 6 cells in all, but n_cells is 7"),
        ({"n_cells": "6"}, "n_cells is '6', expected integer"),
        ({"n_genes": -1}, "n_genes is -1, expected greater than or equal to 0"),
        ({"splits": {"train": 6}}, "splits has the keys train, expected train, val, test"),
        ({"labels": {"cell_type": {"categories": ["a"], "counts": [1, 2], "train_counts": [1]}}},
         "labels.cell_type: categories, counts and train_counts have different lengths"),
        ({"labels": {"cell_type": {"categories": ["a", "a"], "counts": [1, 2], "train_counts": [1, 1]}}},
         "labels.cell_type: a category stands there twice"),
        ({"labels": {"cell_type": {"categories": ["z"], "counts": [1], "train_counts": [1]}}},
         "size_factor.by.cell_type lacks categories"),
        ({"fingerprint": None}, "fingerprint is None, expected string"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_card_is_said(change, message):
    with pytest.raises(BadInput, match=r"^a\.zarr: its atlas card: ") as error:
        parse_card(as_text(CARD | change), "a.zarr")
    assert message in one_line(error)


def test_a_wrong_card_in_a_store(tmp_path, tiny_atlas):
    import shutil

    shutil.copytree(tiny_atlas, tmp_path / "a.zarr")
    assert read_card(tmp_path / "a.zarr") == open_atlas(tmp_path / "a.zarr").card
    without_manifest(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr" / "uns", mode="r+")
    del group["atlas_card"]
    write_elem(group, "atlas_card", "{")
    for read in (read_card, open_atlas):
        with pytest.raises(BadInput, match="its atlas card is not valid JSON"):
            read(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "uns" / "atlas_card")
    (tmp_path / "a.zarr" / "uns" / "atlas_card").mkdir()
    os.mkfifo(tmp_path / "a.zarr" / "uns" / "atlas_card" / "zarr.json")
    with pytest.raises(BadInput, match="a pipe, a socket or a device"):
        read_card(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    os.mkfifo(tmp_path / "a.zarr" / "zarr.json")
    with pytest.raises(BadInput, match=r"zarr\.json: a pipe or a device"):
        open_atlas(tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ODD_FILES)
def test_files_that_are_no_records(tmp_path, kind):
    text = '{"name": "x", "numbers": [1]}'
    path = tmp_path / "r.json"
    path.write_text(text)
    assert read_json(path, Small) == {"name": "x", "numbers": [1]}
    write_odd(path, text, kind)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError if kind == "missing" else BadInput) as error:
        read_json(path, Small)
    assert time.monotonic() - started < 2
    one_line(error)


def test_devices_sockets_and_large_files(tmp_path):
    for path in ("/dev/zero", "/dev/null"):
        with pytest.raises(BadInput, match="a device; expected a regular file"):
            read_regular(path, path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(BadInput, match="expected a regular file"):
            read_regular(tmp_path / "s", "s")
    (tmp_path / "large").write_bytes(b"x" * 101)
    assert len(read_regular(tmp_path / "large", "large", 101)) == 101
    with pytest.raises(BadInput, match="large has more than 100 bytes; expected a small file"):
        read_regular(tmp_path / "large", "large", 100)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "large" / "x", "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "x", "name": "y"}', "the key 'name' stands there twice"),
        ('{"name": NaN}', "NaN is no number"),
        ('{"name": 1e999}', "1e999 is too large a number"),
        ('{"name": 123456789012345678901234567890}', "is too large a number"),
        ('{"name": "\\ud800"}', "half a character"),
        ('{"name": "a\\u0000b"}', "or a null"),
        ('{"name": ' + "[" * 70 + "]" * 70 + "}", "nested too deep, expected 64 levels at most"),
        ('{"name": 3}', "name is 3, expected string"),
        ('{"name": "x", "numbers": [0, -2]}', "numbers.1 is -2, expected greater than or equal to 0"),
        ('{"name": "x", "numbers": [true]}', "numbers.0 is True, expected integer"),
        ("{}", "name is missing"),
        ("[]", "it is a list"),
    ],
)
def test_json_without_surprises(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BadInput, match=r"r\.json") as error:
        read_json(tmp_path / "r.json", Small)
    assert message in one_line(error)


def test_keys_of_newer_versions_stay(tmp_path):
    (tmp_path / "r.json").write_text('{"name": "x", "new": {"a": [1.5, null]}}')
    assert read_json(tmp_path / "r.json", Small) == {"name": "x", "new": {"a": [1.5, None]}}
