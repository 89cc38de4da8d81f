"""A filter over obs means the same for every source, knows only its own words, and says what is wrong."""

import numpy as np
import pandas as pd
import pytest
from ingest_helpers import ingested, refused, write_zarr
from small_data import small_adata, write_10x_folder

from data_loaders import BadInput
from data_loaders.obs_filter import ObsFilter

OBS = pd.DataFrame(
    {
        "tissue": pd.Categorical(["lung", "liver", None, "lung"]),
        "n_genes": [100, 200, 300, 400],
        "score": pd.array([0.5, None, 1.5, -2.0], dtype="Float64"),
        "is_primary_data": [True, False, True, False],
        "flag": ["True", "False", "true", ""],
        "cell type": ["T", "B", "T", "NK"],
    }
)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("tissue == 'lung'", [1, 0, 0, 1]),
        ("'lung' == tissue", [1, 0, 0, 1]),
        ("tissue != 'lung'", [0, 1, 0, 0]),
        ("not tissue == 'lung'", [0, 1, 1, 0]),
        ("tissue in ['liver', 'heart']", [0, 1, 0, 0]),
        ("tissue not in ['liver', 'heart']", [1, 0, 0, 1]),
        ("150 < n_genes <= 300", [0, 1, 1, 0]),
        ("300 > n_genes", [1, 1, 0, 0]),
        ("score > -1 and (n_genes == 100 or n_genes == 300)", [1, 0, 1, 0]),
        ("(tissue == 'lung') & (n_genes > 100)", [0, 0, 0, 1]),
        ("(tissue == 'lung') | (n_genes > 200)", [1, 0, 1, 1]),
        ("is_primary_data == True", [1, 0, 1, 0]),
        ("is_primary_data", [1, 0, 1, 0]),
        ("not is_primary_data and n_genes < 300", [0, 1, 0, 0]),
        ("attr('cell type') == val('T')", [1, 0, 1, 0]),
        ("n_genes in [100, 400.0]", [1, 0, 0, 1]),
    ],
)
def test_what_passes(text, passes):
    assert ObsFilter(text, "a.h5ad").passes(OBS).tolist() == [bool(one) for one in passes]


def test_truth_as_text():
    assert ObsFilter("flag == True", "x").passes(OBS.iloc[:3]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be used"),
        ("tissue ==", "cannot be used"),
        ("__import__('os').system('true')", "neither a comparison nor a column"),
        ("tissue.str == 'x'", "expected a column and a value"),
        ("tissue == open('x')", "no value"),
        ("tissue == n_genes", "expected a column and a value"),
        ("n_genes + 1 > 2", "expected a column and a value"),
        ("tissue is None", "'is' compares nothing"),
        ("tissue == None", "no value"),
        ("tissue in 'lung'", "expected a column and a list"),
        ("[x for x in tissue]", "neither a comparison"),
        ("(lambda: 1)()", "neither a comparison"),
        ("tissue == f'{n_genes}'", "no value"),
        ("(" * 5000 + "n_genes > 1" + ")" * 5000, "cannot be used"),
        ("n_genes > 1\x00", "cannot be used"),
        ("tissu == 'lung'", "no obs column 'tissu' for the obs filter .*; did you mean 'tissue'"),
        ("n_genes == 'many'", "obs column 'n_genes' holds numbers, and .* compares it with 'many'"),
        ("tissue > 5", "obs column 'tissue' holds text, and .* compares it with 5"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(BadInput, match=reason) as caught:
        ObsFilter(text, "a.h5ad").passes(OBS)
    message = str(caught.value)
    assert message.startswith("a.h5ad: ")
    assert "\n" not in message
    assert ".py" not in message


def test_every_source_takes_it(tmp_path):
    adata = small_adata()
    adata.write_h5ad(tmp_path / "a.h5ad")
    write_zarr(adata, tmp_path / "a.zarr")
    write_10x_folder(tmp_path / "tenx", adata)
    adata.obs.to_csv(tmp_path / "obs.csv")
    wanted = adata[(adata.obs["age"] > 50) & (adata.obs["donor"] != "d1")]
    expression = "age > 50 and donor != 'd1'"
    for number, name in enumerate(["a.h5ad", "a.zarr", "tenx"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = {"obs_files": tmp_path / "obs.csv"} if name == "tenx" else {}
        out, card = ingested(folder, tmp_path / name, obs_filter=expression, keep_order=True, **options)
        assert list(out.obs_names) == list(wanted.obs_names)
        np.testing.assert_array_equal(out.X.toarray(), wanted.X.toarray())
        assert list(out.obs["source_row"]) == [int(cell.removeprefix("cell")) for cell in wanted.obs_names]
        assert card["dropped"]["cells_filtered_out"] == 60 - wanted.n_obs
        assert any(f"{wanted.n_obs} of 60 cells pass the obs filter" in note for note in card["notes"])
    message = refused(tmp_path, tmp_path / "a.h5ad", obs_filter="cell_type == 'NKK'")
    assert message.endswith(
        "no cell passes the obs filter \"cell_type == 'NKK'\"; 'cell_type' has no 'NKK', did you mean 'NK'?"
    )


def test_a_bad_value_in_a_cell_that_is_left_out_is_none(tmp_path):
    adata = small_adata()
    adata.X[59, 0] = 0.5
    adata.obs["good"] = np.arange(60) < 59
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "fractional values" in refused(tmp_path, tmp_path / "a.h5ad")
    out, _ = ingested(tmp_path, tmp_path / "a.h5ad", obs_filter="good")
    assert out.n_obs == 59
