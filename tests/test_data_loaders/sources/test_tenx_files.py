"""10x files with prefixes, in a run's folder, of two genomes, turned round, or without values."""

import gzip
import shutil

import h5py
import numpy as np
import pytest
from ingest_helpers import ingested, refused
from small_data import same_counts, small_adata, write_10x_folder, write_10x_h5

from data_loaders.sources import tenx_files
from data_loaders.sources.tenx_files import MATRIX, Part, part_of


def write_sample(folder, adata, pattern, features="features", suffix=".gz"):
    """Write the files of a sample; `pattern` has the place of the word in their names."""
    write_10x_folder(folder / "one", adata, suffix=suffix)
    for word, ending in (("matrix", ".mtx"), ("barcodes", ".tsv"), ("features", ".tsv")):
        name = pattern.format(features if word == "features" else word)
        shutil.move(folder / "one" / f"{word}{ending}{suffix}", folder / f"{name}{ending}{suffix}")
    (folder / "one").rmdir()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("GSM100_A_matrix.mtx.gz", ("GSM100_A", "matrix")),
        ("GSM100_A.barcodes.tsv", ("GSM100_A", "barcodes")),
        ("matrix_GSM100-A.mtx", ("GSM100_A", "matrix")),
        ("GSM100_A_genes.tsv.gz", ("GSM100_A", "features")),
        ("GSM100_A.mtx.gz", ("GSM100_A", "matrix")),
        ("GSM100_cells_counts.mtx", ("GSM100_cells", "matrix")),
        ("matrix.mtx", ("", "matrix")),
        ("readme.txt", None),
        ("GSM100.h5", None),
    ],
)
def test_what_a_name_says(tmp_path, name, part):
    assert part_of(tmp_path / name) == (part and Part(*part))


@pytest.mark.parametrize("pattern", ["GSM100_A_{}", "GSM100_A.{}", "{}_GSM100_A", "GSM100-A-{}"])
@pytest.mark.parametrize(("features", "suffix"), [("features", ".gz"), ("genes", "")])
def test_a_sample_by_its_prefix_or_its_matrix(tmp_path, pattern, features, suffix):
    (tmp_path / "geo").mkdir()
    adata = small_adata()
    write_sample(tmp_path / "geo", adata, pattern, features, suffix)
    write_sample(tmp_path / "geo", small_adata(seed=1), "GSM101_B_{}", features, suffix)
    matrix = pattern.format("matrix") + ".mtx" + suffix
    for path in ("GSM100_A", matrix):
        out, _ = ingested(tmp_path, tmp_path / "geo" / path, keep_order=True)
        assert (out.X.toarray() == adata.X.toarray()).all()
        shutil.rmtree(tmp_path / "out.zarr")


def test_a_folder_stands_for_its_samples(tmp_path):
    (tmp_path / "geo").mkdir()
    parts = [small_adata(seed=seed) for seed in (0, 1)]
    for adata, name in zip(parts, "AB", strict=True):
        write_sample(tmp_path / "geo", adata, f"GSM_{name}_{{}}")
    out, card = ingested(tmp_path, tmp_path / "geo", keep_order=True)
    assert (out.X.toarray() == np.concatenate([adata.X.toarray() for adata in parts])).all()
    assert list(out.obs["source"].cat.categories) == ["GSM_A", "GSM_B"]
    assert any("geo: a folder of 2 10x samples" in note for note in card["notes"])


def test_one_list_of_genes_for_all_samples(tmp_path):
    (tmp_path / "geo").mkdir()
    write_sample(tmp_path / "geo", small_adata(), "GSM_A_{}")
    (tmp_path / "geo" / "GSM_A_features.tsv.gz").rename(tmp_path / "geo" / "GSE_features.tsv.gz")
    out, _ = ingested(tmp_path, tmp_path / "geo" / "GSM_A")
    assert out.shape == (60, 25)


def test_incomplete_samples_are_refused(tmp_path):
    (tmp_path / "geo").mkdir()
    write_sample(tmp_path / "geo", small_adata(), "GSM_A_{}")
    (tmp_path / "geo" / "GSM_A_barcodes.tsv.gz").unlink()
    message = refused(tmp_path, tmp_path / "geo" / "GSM_A_matrix.mtx.gz")
    assert "no barcodes file beside it; expected one, GSM_A_barcodes.tsv, plain or .gz" in message


@pytest.mark.parametrize(
    "inside", ["outs/filtered_feature_bc_matrix", "filtered_gene_bc_matrices/hg19", "Gene/filtered"]
)
def test_the_folder_of_a_run(tmp_path, inside):
    adata = small_adata()
    (tmp_path / "run" / inside).parent.mkdir(parents=True)
    write_10x_folder(tmp_path / "run" / inside, adata)
    out, card = ingested(tmp_path, tmp_path / "run")
    assert same_counts(out, adata)
    assert card["sources"][0]["path"].endswith(inside)
    assert any("its called cells were taken from" in note for note in card["notes"])


def test_the_h5_file_of_a_run_comes_first(tmp_path):
    (tmp_path / "outs").mkdir()
    write_10x_folder(tmp_path / "outs" / "filtered_feature_bc_matrix", small_adata())
    write_10x_h5(tmp_path / "outs" / "filtered_feature_bc_matrix.h5", small_adata(), version=3)
    _, card = ingested(tmp_path, tmp_path / "outs")
    assert card["sources"][0]["path"].endswith(".h5")


def test_runs_without_called_cells_or_with_two_genomes(tmp_path):
    (tmp_path / "outs").mkdir()
    write_10x_h5(tmp_path / "outs" / "raw_feature_bc_matrix.h5", small_adata(), version=3)
    message = refused(tmp_path, tmp_path / "outs")
    assert "only the matrix of all barcodes" in message
    assert message.endswith("outs/raw_feature_bc_matrix.h5 if that is meant")
    for genome in ("hg19", "mm10"):
        (tmp_path / "old" / "filtered_gene_bc_matrices").mkdir(parents=True, exist_ok=True)
        write_10x_folder(tmp_path / "old" / "filtered_gene_bc_matrices" / genome, small_adata())
    assert "matrices of several genomes; expected one of" in refused(tmp_path, tmp_path / "old")


def test_two_genomes_in_one_file(tmp_path):
    adata = small_adata()
    write_10x_h5(tmp_path / "two.h5", adata, version=2)
    with h5py.File(tmp_path / "two.h5", "r+") as file:
        file.copy("hg19", "mm10")
        file["mm10/data"][:] = 1
    message = refused(tmp_path, tmp_path / "two.h5")
    assert message.endswith(f"expected {tmp_path}/two.h5:hg19 or {tmp_path}/two.h5:mm10")
    out, _ = ingested(tmp_path, f"{tmp_path}/two.h5:hg19", keep_order=True)
    assert (out.X.toarray() == adata.X.toarray()).all()
    shutil.rmtree(tmp_path / "out.zarr")
    out, _ = ingested(tmp_path, f"{tmp_path}/two.h5:mm10", keep_order=True)
    assert (out.X.toarray() == (adata.X.toarray() > 0)).all()
    shutil.rmtree(tmp_path / "out.zarr")
    assert "no genome 'hg9'; did you mean 'hg19'?" in refused(tmp_path, f"{tmp_path}/two.h5:hg9")
    write_10x_h5(tmp_path / "one.h5", adata, version=3)
    assert "one matrix for all genomes; expected the file alone" in refused(tmp_path, f"{tmp_path}/one.h5:hg19")


def test_a_matrix_without_values_is_ones(tmp_path):
    adata = small_adata()
    write_10x_folder(tmp_path / "a", adata)
    path = tmp_path / "a" / "matrix.mtx"
    lines = path.read_text().replace("integer", "pattern").splitlines()
    path.write_text("\n".join(lines[:3] + [line.rsplit(" ", 1)[0] for line in lines[3:]]) + "\n")
    out, _ = ingested(tmp_path, tmp_path / "a", keep_order=True)
    assert (out.X.toarray() == (adata.X.toarray() > 0)).all()


@pytest.mark.parametrize(
    ("banner", "words"),
    [
        ("coordinate integer symmetric", "of symmetry 'symmetric'"),
        ("coordinate complex general", "of field 'complex'; expected integer, real or pattern"),
        ("array integer general", "of layout 'array'; expected 'coordinate'"),
    ],
)
def test_other_kinds_of_matrix_market_are_refused_in_words(tmp_path, banner, words):
    write_10x_folder(tmp_path / "a", small_adata())
    path = tmp_path / "a" / "matrix.mtx"
    path.write_text(path.read_text().replace("coordinate integer general", banner))
    message = refused(tmp_path, tmp_path / "a")
    assert words in message
    assert "damaged" not in message


def test_a_matrix_of_cells_x_features_is_turned_round(tmp_path):
    adata = small_adata()
    write_10x_folder(tmp_path / "a", adata, suffix=".gz")
    path = tmp_path / "a" / "matrix.mtx.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    swapped = [" ".join([column, row, *rest]) for row, column, *rest in map(str.split, lines[2:])]
    path.write_bytes(gzip.compress("\n".join(lines[:2] + swapped).encode()))
    out, card = ingested(tmp_path, tmp_path / "a", keep_order=True)
    assert (out.X.toarray() == adata.X.toarray()).all()
    assert any("the matrix is cells x features" in note for note in card["notes"])


def test_members_of_a_sample(tmp_path):
    write_sample(tmp_path, small_adata(), "S_{}")
    assert tenx_files.samples(tmp_path) == ["S"]
    assert tenx_files.is_sample(str(tmp_path / "S_"))
    assert not tenx_files.is_sample(str(tmp_path / "T"))
    assert tenx_files.member(str(tmp_path / "S"), MATRIX).name == "S_matrix.mtx.gz"
