"""Patterns, folders and lists stand for many sources; few files are open at once; refusals are told together."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ingest_helpers import ingested, refused
from small_data import small_adata, write_10x_h5

from data_loaders import BadInput, ingest
from data_loaders.ingestion import opening


@pytest.fixture
def folder(tmp_path):
    """A folder of five h5ad files."""
    (tmp_path / "in").mkdir()
    for number in range(5):
        adata = small_adata(seed=number)
        adata.obs_names = [f"{name}-{number}" for name in adata.obs_names]
        adata.var["of_this_file"] = float(number)
        adata.var[f"only{number}"] = 1.0
        adata.write_h5ad(tmp_path / "in" / f"{number}.h5ad")
    return tmp_path / "in"


def test_a_folder_a_pattern_and_a_list_are_the_same(tmp_path, folder):
    lines = ["# made by a test", "", *(f"{number}.h5ad" for number in range(5))]
    (folder / "list.txt").write_text("\n".join(lines))
    files = [folder / f"{number}.h5ad" for number in range(5)]
    expected, _ = ingested(tmp_path, files, labels=["cell_type"])
    shutil.rmtree(tmp_path / "out.zarr")
    for path in (folder, f"{folder}/*.h5ad", folder / "list.txt"):
        out, card = ingested(tmp_path, path, labels=["cell_type"])
        assert (out.X.toarray() == expected.X.toarray()).all()
        assert (out.obs_names == expected.obs_names).all()
        assert any(str(path) in note for note in card["notes"])
        shutil.rmtree(tmp_path / "out.zarr")


def test_many_sources_are_closed_and_opened_again(tmp_path, folder, monkeypatch):
    expected, card = ingested(tmp_path, folder, labels=["cell_type"])
    shutil.rmtree(tmp_path / "out.zarr")
    monkeypatch.setattr(opening, "FEW", 2)
    most = []
    blocks = opening.ClosedMatrix.blocks

    def counted(matrix):
        for block in blocks(matrix):
            open_files = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()]
            most.append(sum(name.startswith(f"{folder}/") for name in open_files))  # not those of other tests
            yield block

    monkeypatch.setattr(opening.ClosedMatrix, "blocks", counted)
    out, again = ingested(tmp_path, folder, labels=["cell_type"])
    assert max(most) == 1
    assert (out.X.toarray() == expected.X.toarray()).all()
    assert out.var.equals(expected.var)
    assert out.obs.equals(expected.obs)
    assert again["sources"] == card["sources"]


def test_a_file_that_changes_meanwhile(folder, monkeypatch):
    monkeypatch.setattr(opening, "FEW", 0)
    from contextlib import ExitStack

    from data_loaders.sources.open import open_source

    path = folder / "0.h5ad"
    with ExitStack() as files:
        source = opening.open_all(files, [path], lambda number: open_source(path), opening.Refusals(False))[0]
        small_adata(30).write_h5ad(path)
        with pytest.raises(BadInput, match=r"60 x 25 when it was opened, now .* of 30 x 25"):
            list(source.matrix.blocks())


def test_refused_files_are_told_together_or_left_out(tmp_path, folder):
    (folder / "1.h5ad").write_bytes(b"")
    adata = small_adata()
    adata.X = adata.X.toarray() * np.float32(0.5)
    adata.write_h5ad(folder / "3.h5ad")
    assert "1.h5ad cannot be read" in refused(tmp_path, folder)
    out, card = ingested(tmp_path, folder, skip_refused=True, labels=["cell_type"])
    assert out.n_obs == 180
    left_out = [note for note in card["notes"] if note.startswith("refused: ")]
    assert len(left_out) == 2
    assert "1.h5ad cannot be read" in left_out[0]
    assert "3.h5ad: X: fractional values" in left_out[1]


def test_labels_refuse_a_source_too(tmp_path, folder):
    adata = small_adata()
    del adata.obs["cell_type"]
    adata.write_h5ad(folder / "2.h5ad")
    _, card = ingested(tmp_path, folder, skip_refused=True, labels=["cell_type"])
    assert any(note.startswith("refused: ") and "no obs column 'cell_type'" in note for note in card["notes"])


def test_two_refused_files_are_one_line_each(tmp_path, folder):
    for number in (1, 4):
        (folder / f"{number}.h5ad").write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        ingest(folder, tmp_path / "out.zarr", min_cells=0)
    head, *lines = str(caught.value).splitlines()
    assert head == "2 of 5 sources are refused; `skip_refused=True` goes on without such sources:"
    assert [line.split()[0] for line in lines] == [str(folder / "1.h5ad"), str(folder / "4.h5ad")]
    for number in (0, 2, 3):
        (folder / f"{number}.h5ad").write_bytes(b"")
    with pytest.raises(BadInput, match="5 of 5 sources are refused:"):
        ingest(folder, tmp_path / "out.zarr", skip_refused=True)
    assert not (tmp_path / "out.zarr").exists()


def test_one_source_alone_is_refused_as_ever(tmp_path, folder):
    (folder / "1.h5ad").write_bytes(b"")
    message = refused(tmp_path, folder / "1.h5ad", skip_refused=True)
    assert "damaged or cut short" in message
    assert "skip_refused" not in message


def test_what_stands_for_nothing(tmp_path, folder):
    assert "matches nothing; expected a file" in refused(tmp_path, f"{folder}/*.loom")
    write_10x_h5(folder / "x.h5", small_adata(), version=3)
    assert "a folder with 5 .h5ad sources, 1 .h5 sources; expected sources of one kind" in refused(tmp_path, folder)
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    assert "no paths in it; expected one a line" in refused(tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("no.h5ad\n")
    assert "no.h5ad: no such file or folder" in refused(tmp_path, tmp_path / "list.txt")
    both = {"rna": folder / "0.h5ad", "atac": folder / "1.h5ad"}
    assert "with several modalities" in refused(tmp_path, both, skip_refused=True)


def test_modalities_may_be_folders(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "other")
    _, card = ingested(tmp_path, {"rna": folder, "atac": tmp_path / "other"}, drop_empty=True)
    assert len(card["sources"]) == 10
