"""Counts that are whole but for the error of floats are counts; corrected ones are rounded on request alone."""

import numpy as np
import pytest
import scipy.sparse as sp
from ingest_helpers import ingested, refused
from small_data import small_adata

from cfgen_dist.cli import main


def deep_adata():
    """Counts up to some hundreds, a cell with more than another."""
    adata = small_adata()
    counts = np.random.default_rng(0).negative_binomial(1, 0.02, adata.shape) * (1 + np.arange(60)[:, None] % 4)
    adata.X = sp.csr_matrix(counts.astype(np.float32))
    adata.X[:, 0] = 1 + np.arange(60)
    return adata


@pytest.fixture
def soupx():
    adata = deep_adata()
    whole = adata.X.copy()
    adata.X.data = adata.X.data - np.float32(0.037) * (adata.X.data > 1)
    return adata, whole


def test_errors_of_floats_are_none(tmp_path):
    adata = deep_adata()
    whole = adata.X.toarray()
    adata.X = sp.csr_matrix(whole.astype(np.float64) * (1 + 3e-7))
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", keep_order=True)
    np.testing.assert_array_equal(out.X.toarray(), whole)
    assert any("whole numbers but for the error of floats" in note for note in card["notes"])


def test_corrected_counts(tmp_path, soupx, capsys):
    adata, whole = soupx
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert message.endswith("`round_counts=True` rounds counts that SoupX or DecontX corrected")
    assert "another matrix" not in message
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", round_counts=True, keep_order=True)
    np.testing.assert_array_equal(out.X.toarray(), whole.toarray())
    assert f"{(whole.data > 1).sum():,} values were rounded, by at most 0.037" in " ".join(card["notes"])
    assert card["options"]["round_counts"] is True
    assert main(["ingest", str(tmp_path / "a.h5ad"), str(tmp_path / "b.zarr"), "--round", "--min-cells", "1"]) == 0
    assert "values were rounded, by at most 0.037" in capsys.readouterr().out


def test_another_matrix_is_named_where_there_is_one(tmp_path, soupx):
    adata, whole = soupx
    adata.layers["logged"] = adata.X.log1p()
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert "`round_counts=True`" in message
    message = refused(tmp_path, tmp_path / "a.h5ad", layer="logged")
    assert "`round_counts=True`" not in message, "logarithms are not rounded"
    assert "another matrix" not in message, "X is taken where no layer is named"
    adata.layers["other"] = adata.X
    adata.write_h5ad(tmp_path / "b.h5ad")
    message = refused(tmp_path, tmp_path / "b.h5ad", layer="logged")
    assert message.endswith("; name another matrix by `layer=NAME`")
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", round_counts=True, keep_order=True)
    assert card["sources"][0]["counts"] == "X"
    np.testing.assert_array_equal(out.X.toarray(), whole.toarray())


def test_whole_counts_come_before_values_to_round(tmp_path, soupx):
    adata, whole = soupx
    adata.layers["counts"] = whole
    adata.write_h5ad(tmp_path / "a.h5ad")
    _, card = ingested(tmp_path, tmp_path / "a.h5ad", round_counts=True)
    assert card["sources"][0]["counts"] == "layers['counts']"
    assert not any("rounded" in note for note in card["notes"])


@pytest.mark.parametrize("logged", [False, True])
def test_normalised_values_are_never_rounded(tmp_path, logged):
    adata = deep_adata()
    values = adata.X.toarray() / adata.X.sum(axis=1) * 1e4
    adata.X = sp.csr_matrix(np.log1p(values) if logged else values)
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad", round_counts=True)
    assert "normalised values, they sum up alike in all cells" in message


def test_negative_values_are_never_rounded(tmp_path, soupx):
    adata, _ = soupx
    adata.X.data[5] = -0.2
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "negative values" in refused(tmp_path, tmp_path / "a.h5ad", round_counts=True)
