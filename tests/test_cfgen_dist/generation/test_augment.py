"""An augmented atlas: the real cells as they were, rare types filled up, test cells kept apart."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cfgen_dist.cli import main
from cfgen_dist.generation.augment import augment, type_proportions
from data_loaders import AtlasWriter, open_atlas
from data_loaders.errors import BadInput

TOTAL = 900


@pytest.fixture(scope="module")
def augmented(tiny_run, tiny_atlas, tmp_path_factory):
    out = tmp_path_factory.mktemp("augmented") / "all.zarr"
    return augment(tiny_run, tiny_atlas, out, TOTAL, seed=2, shard_size=64)


def test_real_cells_are_copied_as_they_are(augmented, tiny_atlas):
    before, after = ad.read_zarr(tiny_atlas), ad.read_zarr(augmented["path"])
    n = before.n_obs
    assert (after.X[:n] != before.X).nnz == 0
    assert list(after.obs_names[:n]) == list(before.obs_names)
    for name in ("cell_type", "donor", "split", "size_factor"):
        assert (after.obs[name][:n].astype(str) == before.obs[name].astype(str)).all()
    assert not after.obs["is_generated"][:n].any()
    assert after.obs["is_generated"][n:].all()
    assert set(after.obs["split"][n:]) == {"train"}
    assert after.obs_names.is_unique


def test_the_total_is_of_training_cells(augmented, tiny_atlas):
    atlas = open_atlas(augmented["path"])
    splits = np.asarray(atlas.obs("split")).astype(str)
    assert np.isin(splits, ("train", "val")).sum() == TOTAL
    assert (splits == "test").sum() == len(open_atlas(tiny_atlas).rows(split="test"))
    assert augmented["cells"] + augmented["real"] == TOTAL
    assert sum(cells["generated"] for cells in augmented["types"].values()) == augmented["cells"]


def test_shares_are_inverse_to_frequency(augmented):
    types = pd.DataFrame(augmented["types"]).T
    p = type_proportions(types["real"].to_numpy())
    expected = p * types["generated"].sum()
    np.testing.assert_allclose(types["generated"], expected, atol=4 * np.sqrt(expected.max()))
    np.testing.assert_allclose(type_proportions([1, 3]), [0.75, 0.25])
    np.testing.assert_allclose(type_proportions([1, 4], temperature=2), [2 / 3, 1 / 3])
    np.testing.assert_allclose(type_proportions([10, 1000], temperature=1e9), [0.5, 0.5])
    np.testing.assert_allclose(type_proportions([1, 1e6], temperature=1e-3), [1, 0])


def test_other_labels_are_kept_and_missing_in_generated_cells(tiny_run, tiny_atlas, tmp_path):
    cells = ad.read_zarr(tiny_atlas)
    cells.obs["site"] = pd.Categorical(np.where(np.arange(cells.n_obs) % 3, "a", "b"))
    with AtlasWriter(tmp_path / "sites.zarr", cells.var[[]], labels=["cell_type", "donor", "site"]) as writer:
        writer.append(cells.X, cells.obs[["cell_type", "donor", "site", "split"]])
        writer.close()
    augment(tiny_run, tmp_path / "sites.zarr", tmp_path / "all.zarr", 700)
    after = ad.read_zarr(tmp_path / "all.zarr")
    made = after.obs["is_generated"].to_numpy()
    assert after.obs["site"][made].isna().all()
    assert (after.obs["site"][~made].astype(str).to_numpy() == cells.obs["site"].astype(str).to_numpy()).all()


def test_the_command_shows_the_types_and_resumes(tiny_run, tiny_atlas, tmp_path, capsys):
    command = ["augment", tiny_run, tiny_atlas, tmp_path / "all.zarr", "--total", 700, "--temperature", 2]
    command = list(map(str, command))
    assert main(command) == 0
    printed = capsys.readouterr().out
    for name in open_atlas(tiny_atlas).categories("cell_type"):
        assert name in printed
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--seed", "1"]) == 2
    assert "exists already, made by another plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"total": 10}, "total is 10, expected more than the"),
        ({"balance": "celltype"}, "balance: the model was not trained on 'celltype', did you mean 'cell_type'?"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a positive number"),
        ({"temperature": float("nan")}, "temperature is nan, expected a positive number"),
        ({"guidance": {"tissue": 1}}, "guidance for 'tissue', but the model has no such attribute"),
    ],
)
def test_impossible_requests(tiny_run, tiny_atlas, tmp_path, request_, message):
    with pytest.raises(BadInput) as error:
        augment(tiny_run, tiny_atlas, tmp_path / "all.zarr", **({"total": 700} | request_))
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def rewritten(tiny_atlas, path, change):
    """A copy of the tiny atlas with changed cells."""
    cells = change(ad.read_zarr(tiny_atlas))
    obs = cells.obs.drop(columns=["size_factor"])
    labels = [name for name in ("cell_type", "donor") if name in obs]
    with AtlasWriter(path, cells.var[[]], labels=labels) as writer:
        writer.append(cells.X, obs)
        writer.close()
    return path


def with_obs(**columns):
    def change(cells):
        cells.obs = cells.obs.assign(**columns)
        return cells

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda cells: cells[:, :100].copy(),
            "its 100 genes are not the 120 of the model (they differ from gene 100 on)",
        ),
        (with_obs(is_generated=True), "holds generated cells already, expected an atlas of real cells"),
        (with_obs(cell_type=pd.Categorical(["unheard"] * 600)), "cell_type: unknown category 'unheard'"),
    ],
)
def test_atlases_that_do_not_fit_the_model(tiny_run, tiny_atlas, tmp_path, change, message):
    wrong = rewritten(tiny_atlas, tmp_path / "wrong.zarr", change)
    with pytest.raises(BadInput) as error:
        augment(tiny_run, wrong, tmp_path / "all.zarr", 700)
    assert message in str(error.value)


def test_an_atlas_the_model_was_not_trained_on_draws_a_warning(tiny_run, tiny_atlas, tmp_path, caplog):
    """Another split of the same cells: its test cells may have been training cells of the model."""

    def other_split(cells):
        cells.obs["split"] = pd.Categorical(np.roll(cells.obs["split"].astype(str), 7))
        return cells

    other = rewritten(tiny_atlas, tmp_path / "other.zarr", other_split)
    with caplog.at_level("WARNING", logger="cfgen_dist"):
        augment(tiny_run, tiny_atlas, tmp_path / "one.zarr", 620)
        assert not caplog.records
        augment(tiny_run, other, tmp_path / "two.zarr", 620)
    assert "other.zarr is not the atlas that the model was trained on" in caplog.text


def test_columns_that_are_missing(tiny_run, tiny_atlas, tmp_path):
    def without_donor(cells):
        del cells.obs["donor"]
        return cells

    wrong = rewritten(tiny_atlas, tmp_path / "wrong.zarr", without_donor)
    with pytest.raises(BadInput, match=r"no obs column 'donor'"):
        augment(tiny_run, wrong, tmp_path / "all.zarr", 700)
