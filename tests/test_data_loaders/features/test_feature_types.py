"""Each modality gets the features of its type, whatever the container; nothing is left out without a word."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import tiledbsoma.io as soma_io
from ingest_helpers import ingested, refused, write_zarr
from scipy.sparse import csc_matrix, csr_matrix
from small_data import small_adata, write_10x_folder, write_10x_h5

from cfgen_dist.cli import main
from data_loaders.features.feature_types import TYPES, canonical, types_of

KINDS = ["Gene Expression"] * 12 + ["Peaks"] * 6 + ["Antibody Capture"] * 4 + ["Custom"] * 3
TAKEN = {"rna": slice(0, 12), "atac": slice(12, 18), "adt": slice(18, 22)}


def write(tmp_path, container, kinds=KINDS, name="mixed"):
    """25 features of several types in a container, and the counts."""
    adata = small_adata()
    counts = adata.X.toarray()
    path = tmp_path / f"{name}{'' if container in ('mtx', 'soma', 'mtx.gz') else '.' + container}"
    if container == "h5":
        write_10x_h5(path, adata, version=3)
        with h5py.File(path, "r+") as file:
            del file["matrix/features/feature_type"]
            file["matrix/features/feature_type"] = [kind.encode() for kind in kinds]
    elif container.startswith("mtx"):
        write_10x_folder(path, adata)
        lines = [f"ENS{i}\t{name}\t{kinds[i]}\n" for i, name in enumerate(adata.var_names)]
        (path / "features.tsv").write_text("".join(lines))
    else:
        adata.var["feature_types"] = kinds
        if container == "h5ad":
            adata.write_h5ad(path)
        elif container == "zarr":
            write_zarr(adata, path, 3)
        elif container == "soma":
            soma_io.from_anndata(str(path), adata, measurement_name="RNA")
        else:
            from mudata import MuData

            MuData({"all": adata}).write(path)
            path = f"{path}:all"
    return path, counts


@pytest.mark.parametrize("container", ["h5", "mtx", "h5ad", "zarr", "h5mu", "soma"])
def test_every_modality_has_its_own_columns(tmp_path, container):
    path, counts = write(tmp_path, container)
    sources = dict.fromkeys(TAKEN, path)
    out, card = ingested(tmp_path, sources, keep_order=True, drop_empty=True, cells="rna")
    rows = out.obs["source_row"].to_numpy()
    for modality, columns in TAKEN.items():
        values = out.X if modality == "rna" else out.obsm[modality]
        np.testing.assert_array_equal(values.toarray(), counts[rows, columns])
    notes = [note for note in card["notes"] if "left out (" in note]
    assert len(notes) == 1
    assert "3 features were left out (3 Custom); the same file given as custom=PATH too" in notes[0]


@pytest.mark.parametrize("container", ["h5", "mtx", "h5ad", "zarr", "h5mu", "soma"])
def test_rna_alone_is_gene_expression_alone(tmp_path, container):
    path, counts = write(tmp_path, container)
    out, card = ingested(tmp_path, path if container != "h5mu" else {"rna": path}, keep_order=True, drop_empty=True)
    np.testing.assert_array_equal(out.X.toarray(), counts[out.obs["source_row"], :12])
    (note,) = [note for note in card["notes"] if "left out (" in note]
    assert note.startswith(f"{path}: 13 features that are not of type 'Gene Expression' were left out (6 Peaks, 4 Anti")
    assert "given as atac=PATH and adt=PATH and custom=PATH too, beside rna=PATH, gives each modality its own" in note


@pytest.mark.parametrize("container", ["h5", "h5ad"])
def test_a_file_of_peaks_is_atac(tmp_path, container):
    rna, _ = write(tmp_path, container, ["Gene Expression"] * 25, "rna")
    atac, counts = write(tmp_path, container, ["Peaks"] * 25, "atac")
    out, card = ingested(tmp_path, {"rna": rna, "atac": atac}, keep_order=True)
    np.testing.assert_array_equal(out.obsm["atac"].toarray(), counts)
    assert not any("left out" in note for note in card["notes"])
    shutil.rmtree(tmp_path / "out.zarr")
    message = refused(tmp_path, atac)
    assert message.endswith(
        "features of type 'Peaks' (25); modality 'rna' takes those of type 'Gene Expression'; expected atac=PATH for "
        "'Peaks'"
    )
    message = refused(tmp_path, {"rna": rna, "protein": atac})
    assert "modality 'protein' takes those of type 'Antibody Capture'; expected atac=PATH" in message


@pytest.mark.parametrize("container", ["h5", "h5ad"])
def test_a_copy_is_refused(tmp_path, container):
    one, _ = write(tmp_path, container, ["Gene Expression"] * 25, "one")
    assert "modality 'atac' takes those of type 'Peaks'" in refused(tmp_path, {"rna": one, "atac": one})
    assert "'rna' and for 'mine', which would get the same features: both" in refused(
        tmp_path, {"rna": one, "mine": one}
    )
    mixed, _ = write(tmp_path, container)
    link = tmp_path / f"link.{container}"
    link.symlink_to(mixed)
    message = refused(tmp_path, {"rna": mixed, "adt": mixed, "protein": link})
    assert "given for modality 'adt' and for 'protein', which would get the same features" in message
    message = refused(tmp_path, {"rna": mixed, "mine": mixed})
    assert "features of type 'Gene Expression' (12), type 'Peaks' (6), type 'Antibody Capture' (4)" in message
    assert "modality 'mine' is no name that chooses among them; expected rna=PATH for 'Gene Expression' and" in message


def test_a_file_without_types_is_no_second_modality(tmp_path):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, {"rna": tmp_path / "a.h5ad", "atac": tmp_path / "a.h5ad"})
    assert "it does not say of which type its features are (var['feature_types'])" in message


@pytest.mark.parametrize(
    ("column", "words", "modality"),
    [
        ("feature_type", ("Gene Expression", "CRISPR Guide Capture"), "crispr"),
        ("feature_types", ("GEX", "ATAC"), "atac"),
        ("Feature Types", ("gene expression", "antibody_capture"), "ADT"),
        ("modality", ("rna", "protein"), "prot"),
        ("feature_types", ("Gene Expression", "Peaks"), "chromatin_10x"),
        ("feature_types", ("Gene Expression", "Spatial Thing"), "spatial-thing"),
        ("library_type", ("Gene Expression", "Multiplexing Capture"), "hto"),
        ("feature_types", ("Gene Expression", "Antibody Capture"), "hto"),
    ],
)
def test_columns_types_and_modalities_by_other_names(tmp_path, column, words, modality):
    adata = small_adata()
    adata.var[column] = pd.Categorical([words[i % 2] for i in range(25)])
    adata.write_h5ad(tmp_path / "a.h5ad")
    sources = dict.fromkeys(("rna", modality), tmp_path / "a.h5ad")
    out, _ = ingested(tmp_path, sources, keep_order=True, cells="rna", drop_empty=True)
    counts = adata.X.toarray()[out.obs["source_row"]]
    np.testing.assert_array_equal(out.X.toarray(), counts[:, ::2])
    np.testing.assert_array_equal(out.obsm[modality].toarray(), counts[:, 1::2])


@pytest.mark.parametrize(
    "words", [("protein_coding", "lncRNA", "miRNA"), ("gene", "pseudogene"), ("exon",), ("", ""), (None, "x")]
)
def test_other_columns_by_these_names_are_no_types(tmp_path, words):
    adata = small_adata()
    adata.var["feature_type"] = [words[i % len(words)] for i in range(25)]
    assert types_of(adata.var) is None
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, card = ingested(tmp_path, tmp_path / "a.h5ad")
    assert out.n_vars == 25
    assert not any("left out (" in note for note in card["notes"])


def test_a_third_column_of_other_things_in_a_10x_folder(tmp_path):
    path, _ = write(tmp_path, "mtx", ["protein_coding", "lncRNA"] * 12 + ["miRNA"])
    out, _ = ingested(tmp_path, path)
    assert out.n_vars == 25


def test_features_without_a_type_are_left_out(tmp_path):
    adata = small_adata()
    adata.var["feature_types"] = ["Gene Expression"] * 20 + [None] * 5
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", drop_empty=True)
    assert out.n_vars == 20
    assert any(note.endswith("were left out (5 without a type)") for note in card["notes"])


@pytest.mark.parametrize("kind", [csr_matrix, csc_matrix, lambda counts: counts])
def test_what_is_left_out_need_not_be_counts(tmp_path, kind):
    adata = small_adata()
    adata.var["feature_types"] = ["Gene Expression"] * 20 + ["Antibody Capture"] * 5
    counts = adata.X.toarray()
    adata.X = kind(np.hstack([counts[:, :20], np.log1p(counts[:, 20:]) - 1.0]))
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, _ = ingested(tmp_path, tmp_path / "a.h5ad", keep_order=True, drop_empty=True)
    np.testing.assert_array_equal(out.X.toarray(), counts[out.obs["source_row"], :20])
    shutil.rmtree(tmp_path / "out.zarr")
    sources = {"rna": tmp_path / "a.h5ad", "adt": tmp_path / "a.h5ad"}
    assert "gene 'g2" in refused(tmp_path, sources, cells="rna")


def test_many_files_make_one_note(tmp_path):
    paths = [write(tmp_path, "h5ad", name=f"m{i}")[0] for i in range(5)]
    _, card = ingested(tmp_path, paths, drop_empty=True)
    (note,) = [note for note in card["notes"] if "left out (" in note]
    assert "m0.h5ad and 4 more, in sum: 65 features" in note


def test_the_table_names_every_type_once():
    names = [known.name for known in TYPES]
    assert len(set(names)) == len(names)
    for known in TYPES:
        assert canonical(np.array([known.name.upper().replace(" ", "_")], object))[0] == known.name


def test_the_command(tmp_path, capsys):
    path, counts = write(tmp_path, "h5")
    words = ["--modality", f"rna={path}", "--modality", f"peaks={path}", "--min-cells", "0", "--cells", "rna"]
    assert main(["ingest", *words, str(tmp_path / "a.zarr"), "--drop-empty", "--keep-order"]) == 0
    printed = capsys.readouterr().out
    assert f"{path}: 60 cells x 12 genes, counts from counts\n{path}: 60 cells x 6 genes, counts" in printed
    assert "7 features were left out (4 Antibody Capture, 3 Custom)" in printed
    out = ad.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(out.obsm["peaks"].toarray(), counts[out.obs["source_row"], 12:18])
