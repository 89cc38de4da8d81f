"""Outputs that replace others: the old one whole, or the new one whole, whatever fails in between."""

import os

import pytest

from data_loaders import files
from data_loaders.files import replace_output, restore_replaced, write_whole


@pytest.fixture
def report(tmp_path):
    """`out`, an old folder, and `new`, one to replace it."""
    for name in ("out", "new"):
        (tmp_path / name).mkdir()
        for file in ("a.json", "b.html"):
            (tmp_path / name / file).write_text(f"{name} {file}")
    return tmp_path


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


OLD, NEW = ({file: f"{name} {file}" for file in ("a.json", "b.html")} for name in ("out", "new"))


def test_a_folder_replaces_another(report):
    replace_output(report / "new", report / "out")
    assert content(report / "out") == NEW
    assert [path.name for path in report.iterdir()] == ["out"]


def test_a_folder_takes_a_free_place(report):
    replace_output(report / "new", report / "free")
    assert content(report / "free") == NEW
    assert content(report / "out") == OLD


@pytest.mark.parametrize("name", ["fsync", "rename"])
@pytest.mark.parametrize("at", range(6))
def test_whatever_fails_one_of_both_stands(report, monkeypatch, name, at):
    """The n-th call of fsync or rename fails, as on a disk that is full or gone."""
    calls, real = [], getattr(os, name)

    def fail(*args):
        calls.append(args)
        if len(calls) == at + 1:
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setattr(os, name, fail)
    try:
        replace_output(report / "new", report / "out")
    except OSError:
        monkeypatch.undo()
        assert content(report / "out") == OLD
        replace_output(report / "new", report / "out")
    assert content(report / "out") == NEW
    assert {path.name for path in report.iterdir()} == {"out"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(3))
def test_after_a_kill_the_old_one_is_put_back(report, monkeypatch, at):
    calls = []

    def kill(*args):
        calls.append(args)
        if len(calls) > at:
            raise Killed
        return real(*args)

    real = os.rename
    monkeypatch.setattr(files.os, "rename", kill)
    with pytest.raises(Killed) if at < 2 else pytest.MonkeyPatch.context():
        replace_output(report / "new", report / "out")
    monkeypatch.undo()
    restore_replaced(report / "out")
    assert content(report / "out") == (NEW if at == 2 else OLD)
    assert not (report / ".out.old").exists()


def test_a_small_file_that_cannot_be_flushed_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "best.yaml"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["best.yaml"]
