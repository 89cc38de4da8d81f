"""What is said of SOMA objects that are no experiment, and of filters that are none."""

import pytest
from ingest_helpers import refused
from small_data import small_adata

from data_loaders import BadInput, open_atlas

tiledbsoma = pytest.importorskip("tiledbsoma")


@pytest.fixture
def census(tmp_path):
    """A collection with a collection with an experiment, as the CELLxGENE Census is."""
    import tiledbsoma.io

    root = tmp_path / "census"
    tiledbsoma.Collection.create(str(root)).close()
    tiledbsoma.Collection.create(str(root / "census_data")).close()
    tiledbsoma.io.from_anndata(str(root / "census_data" / "human"), small_adata(), measurement_name="RNA")
    for outer, inner in ((root / "census_data", "human"), (root, "census_data")):
        with tiledbsoma.Collection.open(str(outer), "w") as group:
            group.set(inner, tiledbsoma.open(str(outer / inner)), use_relative_uri=True)
    return root


def test_a_collection_names_its_experiments(tmp_path, census):
    expected = f"a SOMA collection; expected one of the experiments in it: {census}/census_data/human"
    assert refused(tmp_path, census).endswith(expected)
    with pytest.raises(BadInput, match="expected one of the experiments in it"):
        open_atlas(census)
    assert "without an experiment in it" in refused(tmp_path, census / "census_data" / "human" / "ms")
    assert open_atlas(census / "census_data" / "human").n_cells == 60


@pytest.mark.parametrize(
    ("obs_filter", "words"),
    [
        ("cell_typ == 'B'", "no obs column 'cell_typ' for the obs filter"),
        ("age == 'old'", "obs column 'age' holds numbers"),
        ("cell_type in 'B'", "expected a column and a list"),
    ],
)
def test_filters(tmp_path, census, obs_filter, words):
    with pytest.raises(BadInput) as caught:
        open_atlas(census / "census_data" / "human", obs_filter=obs_filter)
    assert words in str(caught.value)
    assert ".py" not in str(caught.value)
