"""The card, and `cfgen-dist describe`."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import small_adata

from cfgen_dist.cli import main
from data_loaders import BadInput, ingest
from data_loaders.card import read_card
from data_loaders.statistics.sums import GeneMoments
from data_loaders.writing.size_factors import SizeFactorSums


@pytest.fixture
def atlas(tmp_path):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    ingest(tmp_path / "a.h5ad", tmp_path / "a.zarr", labels=["cell_type", "donor"], min_cells=0)
    return tmp_path / "a.zarr"


def test_card_is_read_back(atlas):
    card = read_card(atlas)
    assert (card["n_cells"], card["n_genes"], card["format"]) == (60, 25, 1)
    assert card["nnz"] == small_adata().X.nnz
    assert sum(card["splits"].values()) == 60
    for name in ("cell_type", "donor"):
        assert sum(card["labels"][name]["counts"]) == 60
        assert set(card["size_factor"]["by"][name]) == set(card["labels"][name]["categories"])
    assert card["options"]["labels"] == ["cell_type", "donor"]
    assert {"anndata", "zarr"} <= set(card["versions"])


def test_no_card(tmp_path):
    with pytest.raises(BadInput, match="no atlas card in it; expected a store written by"):
        read_card(tmp_path / "nothing")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(BadInput, match="no atlas card in it"):
        read_card(tmp_path / "other.zarr")


def test_describe_an_atlas(atlas, capsys):
    assert main(["describe", str(atlas)]) == 0
    printed = capsys.readouterr().out
    for text in ("60 (", "cell_type: 3 categories", "donor: 5 categories", "NK", "size factor", "fingerprint"):
        assert text in printed
    assert main(["describe", str(atlas), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_card(atlas)


def test_describe_a_bundle_or_run(tiny_run, tmp_path, capsys):
    for path in (tiny_run, tiny_run / "bundle"):
        assert main(["describe", str(path)]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        for text in ("120, in 8 latent dimensions", "cell_type: 3 categories", "midpoint, 10 steps", "val_nll"):
            assert text in printed
        assert main(["describe", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["config"]["flow"]["hidden"] == 32
    unfinished = tmp_path / "run"
    shutil.copytree(tiny_run, unfinished, ignore=shutil.ignore_patterns("bundle", "flow"))
    assert main(["describe", str(unfinished)]) == 2
    assert "a run without a model yet (finished: autoencoder)" in capsys.readouterr().err
    (unfinished / "bundle").mkdir()
    card = json.loads((tiny_run / "bundle" / "card.json").read_text())
    for content, expected in [
        ("{", "card.json is not valid JSON"),
        ("[]", "expected format 1 or 2 of 'CFGen'"),
        (json.dumps(card | {"format": 99}), "format 99 of 'CFGen', expected format 1 or 2 of 'CFGen'"),
    ]:
        (unfinished / "bundle" / "card.json").write_text(content)
        assert main(["describe", str(unfinished)]) == 2
        assert expected in capsys.readouterr().err


def test_describe_prints_names_as_they_are(tmp_path, capsys):
    adata = small_adata()
    adata.obs["[b]kind"] = adata.obs["cell_type"].cat.rename_categories({"T": "T [naive]", "B": "B [x]"})
    adata.write_h5ad(tmp_path / "a.h5ad")
    ingest(tmp_path / "a.h5ad", tmp_path / "[bold]a.zarr", labels=["[b]kind"], min_cells=0)
    assert main(["describe", str(tmp_path / "[bold]a.zarr")]) == 0
    printed = "".join(capsys.readouterr().out.split())
    for text in ("[bold]a.zarr:anatlas", "[b]kind:3categories", "T[naive]", "B[x]"):
        assert text in printed


def test_describe_refuses_other_things(tmp_path, capsys):
    assert main(["describe", str(tmp_path / "no")]) == 2
    assert "nothing there; expected an atlas, a run or a model bundle" in capsys.readouterr().err
    assert main(["describe", str(tmp_path)]) == 2
    assert "no zarr.json, card.json or bundle/card.json there" in capsys.readouterr().err


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), keep=st.integers(1, 4))
def test_gene_moments_merge(cuts, keep):
    counts = small_adata().X
    dense = counts.toarray().astype(float)
    counted = np.arange(60) % keep == 0
    bounds = sorted({0, 60, *cuts})
    sums = GeneMoments(25)
    for start, stop in pairwise(bounds):
        part = GeneMoments(25)
        part.add_counted(counts[start:stop], counted[start:stop])
        sums.merge(part)
    np.testing.assert_array_equal(sums.nonzero, (dense > 0).sum(0))
    np.testing.assert_allclose(sums.mean(), dense[counted].mean(0))
    np.testing.assert_allclose(sums.variance(), dense[counted].var(0, ddof=1), rtol=1e-9)


def test_size_factor_law_keeps_its_digits():
    """A narrow law far from the centre, with categories that appear late."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(14.0, 1e-3, 100_000))
    codes = (np.arange(100_000) > 90_000).astype(int)
    law = SizeFactorSums()
    for start in range(0, 100_000, 7_000):
        part = slice(start, start + 7_000)
        law.add(sizes[part], {"kind": codes[part]}, {"kind": int(codes[part].max()) + 1})
    summary = law.summary({"kind": ["early", "late", "never"]})
    logs = np.log(sizes)
    assert summary["sd_log"] == pytest.approx(logs.std(), rel=1e-5)
    assert summary["by"]["kind"]["late"]["mean_log"] == pytest.approx(logs[codes == 1].mean(), rel=1e-12)
    assert summary["by"]["kind"]["never"]["sd_log"] is None
    json.dumps(summary, allow_nan=False)
