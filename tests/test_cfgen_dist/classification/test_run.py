"""Classifiers with generated cells and with copies: against references in memory, with gains where they must be."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from cfgen_dist.classification.classifiers import CLIP, Blocks, Moments, Repeated, knn, logistic, project, steps_of
from cfgen_dist.classification.run import _copies, classify, correlation, interval, training_rows
from cfgen_dist.cli import main
from data_loaders import AtlasWriter, CellStream, open_atlas
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy

GENES = 60
PROFILES = np.random.default_rng(0).gamma(0.7, size=(4, GENES))


def cells_of(kinds, rng):
    """Counts (n, 60) of cells of these types, depth about 150, and noise that makes types 0 and 3 alike."""
    profiles = PROFILES[kinds].copy()
    profiles[kinds == 3] = 0.75 * PROFILES[0] + 0.25 * PROFILES[3]
    rates = profiles / profiles.sum(axis=1, keepdims=True) * rng.lognormal(5, 0.3, (len(kinds), 1))
    counts = rng.poisson(rates)
    counts[:, 0] += counts.sum(axis=1) == 0
    return sparse.csr_matrix(counts)


def write(path, counts, kinds, split, made):
    names = [f"kind {k}" for k in range(4)]
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(len(kinds))])
    obs["cell_type"] = pd.Categorical.from_codes(kinds, categories=names)
    obs["split"], obs["is_generated"] = pd.Categorical(split), made
    var = pd.DataFrame(index=[f"gene {g}" for g in range(counts.shape[1])])
    with AtlasWriter(path, var, labels=["cell_type"]) as writer:
        writer.append(counts, obs)
        writer.close()
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Six training cells of the rare type 3; the augmented atlas has 400 more of the very same law."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("classify")
    kinds = np.concatenate([np.repeat(np.arange(4), [600, 400, 200, 6]), np.repeat(np.arange(4), [150, 100, 80, 60])])
    split = np.array(["train"] * 1206 + ["test"] * 390)
    split[::10][split[::10] == "train"] = "val"
    counts = cells_of(kinds, rng)
    write(folder / "real.zarr", counts, kinds, split, False)
    more = np.repeat(3, 400)
    write(
        folder / "all.zarr",
        sparse.vstack([counts, cells_of(more, rng)], format="csr"),
        np.concatenate([kinds, more]),
        np.concatenate([split, ["train"] * 400]),
        np.arange(1996) >= 1596,
    )
    return folder / "real.zarr", folder / "all.zarr"


@pytest.fixture(scope="module")
def result(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report"
    return *classify(*pair, out, seeds=3), out


def test_streamed_moments_equal_those_in_memory(pair):
    atlas = open_atlas(pair[0])
    rows = training_rows(atlas, "cell_type")
    values = ad.read_zarr(pair[0]).X[rows].toarray().astype(float)
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    moments = Moments.fit(atlas, rows)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0))
    np.testing.assert_allclose(moments.std, values.std(axis=0, ddof=1))
    counts = atlas.read(rows[:50]).to_scipy()
    scaled = StandardScaler().fit(values).transform(values[:50]) * np.sqrt(1 - 1 / len(rows))
    np.testing.assert_allclose(moments.standardise(counts), np.minimum(scaled, CLIP), atol=1e-4)
    reference = PCA(10, svd_solver="full").fit(values).transform(values[:50])
    np.testing.assert_allclose(np.abs(moments.space.project(counts)[:, :10]), np.abs(reference), atol=1e-6)


def test_knn_equals_scikit_learn_on_all_cells_at_once(pair):
    atlas = open_atlas(pair[0])
    rows, test = training_rows(atlas, "cell_type"), atlas.rows(split="test")
    moments = Moments.fit(atlas, rows)
    names = np.asarray(atlas.categories("cell_type"))[atlas.codes("cell_type")]
    found = knn(project(atlas, rows, moments), names[rows], project(atlas, test, moments))
    fit = KNeighborsClassifier(10).fit(moments.space.project(atlas.read(rows).to_scipy()), names[rows])
    expected = fit.predict(moments.space.project(atlas.read(test).to_scipy()))
    assert (found == expected).mean() > 0.99


def test_the_regression_learns_and_its_seed_is_its_order(pair):
    atlas = open_atlas(pair[0])
    rows, test = training_rows(atlas, "cell_type"), atlas.rows(split="test")
    moments = Moments.fit(atlas, rows)
    truth = np.asarray(atlas.categories("cell_type"))[atlas.codes("cell_type")[test]]
    blocks = [atlas.read(test).to_scipy()]
    first, again = (logistic(atlas, rows, "cell_type", moments, blocks, 0, steps_of(len(rows))) for _ in range(2))
    assert (first == again).all()
    common = truth != "kind 3"
    assert f1_score(truth[common], first[common], average="macro", labels=["kind 0", "kind 1", "kind 2"]) > 0.9


def test_more_cells_of_a_rare_type_help_it(result):
    table, summary, _ = result
    for kind in ("knn", "logistic"):
        own = table[table["classifier"] == kind].set_index("type")
        assert own.index[0] == "kind 3", "rarest first"
        assert own.loc["kind 3", "gain"] > 0.15
        assert own.loc["kind 3", "gain_over_copies"] > 0.1, "400 new cells of the very law are more than 6 repeated"
        assert own.loc["kind 3", "gain"] == own["gain"].max()
        assert own.loc["kind 3", "train_cells"] == 6
        assert own.loc["kind 3", "generated_cells"] == 400
        assert own["frequency"].sum() == pytest.approx(1)
        assert summary[kind]["pearson_r"]["mean"] < -0.5
        np.testing.assert_allclose(own["gain"], own["f1_generated"] - own["f1_original"])
        np.testing.assert_allclose(own["gain_over_copies"], own["f1_generated"] - own["f1_copies"])


def test_what_is_written_says_what_was_returned(result):
    table, summary, out = result
    pd.testing.assert_frame_equal(pd.read_csv(out / "classify.csv"), table, check_dtype=False)
    said = json.loads((out / "classify.json").read_text(), parse_constant=pytest.fail)  # no NaN in it
    for kind, values in summary.items():
        for name, value in values.items():
            for key, number in value.items():
                assert said["summary"][kind][name][key] == (None if np.isnan(number) else number)
    assert said["seeds"] == 3
    assert said["types"][0]["gain_low"] is None
    assert (out / "classify.png").read_bytes().startswith(b"\x89PNG")


def test_test_cells_are_read_in_blocks(pair, monkeypatch):
    """However many there are, the counts of one block of them are held."""
    monkeypatch.setattr("cfgen_dist.classification.classifiers.BATCH", 100)
    atlas = open_atlas(pair[0])
    rows = atlas.rows(split="test")
    blocks = Blocks(atlas, rows)
    for _ in range(2):
        assert [block.shape[0] for block in blocks] == [100, 100, 100, 90]
    assert (sparse.vstack(list(blocks)) != atlas.read(rows).to_scipy()).nnz == 0


def with_copies(path, pair, n, seed):
    """An augmented atlas whose "generated" cells are copies of the real cells of the rare type."""
    cells = ad.read_zarr(pair[0])
    rare = np.flatnonzero((cells.obs["split"] != "test") & (cells.obs["cell_type"] == "kind 3"))
    drawn = np.random.default_rng(seed).choice(rare, n)
    kinds = np.concatenate([cells.obs["cell_type"].cat.codes, np.full(n, 3)])
    split = np.concatenate([cells.obs["split"].astype(str), ["train"] * n])
    counts = sparse.vstack([cells.X, cells.X[drawn]], format="csr")
    return write(path, counts, kinds, split, np.arange(len(kinds)) >= cells.n_obs)


@pytest.fixture(scope="module")
def copies(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    return [with_copies(folder / f"{seed}.zarr", pair, 400, seed) for seed in range(3)]


def test_copies_gain_over_the_original_and_nothing_over_copies(pair, copies, tmp_path):
    table, summary = classify(pair[0], copies, tmp_path / "out", seeds=2)
    own = table[table["classifier"] == "knn"].set_index("type")
    assert own.loc["kind 3", "gain"] > 0.05, "so what copies give must not be credited to generated cells"
    for kind in ("knn", "logistic"):
        own = table[table["classifier"] == kind].set_index("type")
        assert abs(own.loc["kind 3", "gain_over_copies"]) < 0.05
        value = summary[kind]["macro_f1_gain_over_copies"]
        assert abs(value["mean"]) < 0.02
        assert value["n"] == 3
        assert value["low"] <= 0 <= value["high"]
    assert (table["n"] == 3).all()


def test_intervals_are_over_distinct_augmented_atlases(pair, copies, tmp_path, caplog):
    table, summary = classify(pair[0], [copies[0], copies[1], copies[0]], tmp_path / "two", seeds=2)
    assert (table["n"] == 2).all()
    assert "the same generated cells as in" in caplog.text
    one, alone = classify(pair[0], [copies[0], copies[0]], tmp_path / "one", seeds=3)
    for kind in ("knn", "logistic"):
        assert alone[kind]["macro_f1_gain"]["n"] == 1
        assert np.isnan(alone[kind]["macro_f1_gain"]["low"])
        assert np.isnan(summary[kind]["macro_f1_original"]["high"]), "there is one original atlas"
    for gain in ("gain", "gain_over_copies"):
        assert one[f"{gain}_low"].isna().all()
        assert one[f"{gain}_high"].isna().all()


def test_all_arms_share_the_components_and_the_number_of_steps(pair, copies, tmp_path, monkeypatch):
    seen = {"steps": [], "cells": [], "moments": []}
    fit = Moments.fit

    def counted(atlas, rows, label, moments, test, seed, steps):
        seen["steps"].append(steps)
        seen["cells"].append(len(rows))
        return logistic(atlas, rows, label, moments, test, seed, 1)

    def fitted(atlas, rows):
        seen["moments"].append((atlas.name, len(rows)))
        return fit(atlas, rows)

    monkeypatch.setattr("cfgen_dist.classification.run.logistic", counted)
    monkeypatch.setattr(Moments, "fit", fitted)
    classify(pair[0], copies[:2], tmp_path / "out", seeds=2)
    assert set(seen["steps"]) == {steps_of(1606)} == {20}
    assert sorted(seen["cells"]) == [1206] * 2 + [1606] * 8
    assert seen["moments"] == [(str(pair[0]), 1206)]


def test_copies_are_as_many_of_each_type_and_of_that_type():
    real, wanted = np.array(["a", "b", "b", "c"] * 5), np.array(["c"] * 30 + ["a"] * 7)
    drawn = _copies(real, wanted, np.random.default_rng(0))
    assert sorted(real[drawn]) == sorted(wanted)
    assert len(set(drawn[real[drawn] == "c"])) == 5


@pytest.mark.parametrize("buffer", [1 << 27, 4_000])
def test_repeated_rows_are_shown_as_often_as_they_are_named(pair, monkeypatch, buffer):
    monkeypatch.setattr("cfgen_dist.classification.classifiers.BATCH", 50)
    monkeypatch.setitem(CellStream.__init__.__kwdefaults__, "buffer_bytes", buffer)
    atlas = open_atlas(pair[0])
    rows = np.concatenate([training_rows(atlas, "cell_type"), np.repeat(1203, 300), np.repeat(7, 20)])
    stream = Repeated(atlas, rows, "cell_type", seed=1)
    epochs = [[batch.rows for batch in stream] for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.sort(rows))
        assert np.ptp([len(batch) for batch in epoch]) <= 1
    assert (np.concatenate(epochs[0]) != np.concatenate(epochs[1])).any()
    batch = next(iter(stream))
    assert (batch.counts["rna"].to_scipy() != atlas.read(batch.rows).to_scipy()).nnz == 0
    np.testing.assert_array_equal(batch.labels["cell_type"], atlas.codes("cell_type")[batch.rows])


def test_intervals_and_correlation():
    assert interval([0.5]) == pytest.approx((0.5, float("nan"), float("nan")), nan_ok=True)
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert (low, high) == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)))
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert np.isnan(correlation([1, 2, 3], [0, 0, 0]))
    assert np.isnan(correlation([1, 2], [0, 1]))


def test_the_command_prints_the_table(pair, tmp_path, capsys):
    assert main(["classify", *map(str, pair), "--out", str(tmp_path / "out"), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "kind 3" in printed
    assert "Pearson r" in printed
    assert "over copies of real cells" in printed
    assert "No intervals: one augmented atlas" in printed
    assert "nan" not in printed
    assert main(["classify", *map(str, pair), "--out", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_cannot_be_compared(pair, tmp_path):
    real, both = pair

    def refused(message, *args, **options):
        with pytest.raises(BadInput) as error:
            classify(*args, tmp_path / "out", **options)
        assert message in str(error.value)
        assert not (tmp_path / "out").exists()

    refused("no generated cells in it, expected an atlas made by `augment()`", real, real)
    refused("no obs column 'celltype', did you mean 'cell_type'?", real, both, label="celltype")
    refused("seeds is 0, expected at least 1", real, both, seeds=0)
    refused("no augmented atlas is given; expected at least one", real, [])
    rng = np.random.default_rng(0)
    kinds = np.arange(20) % 4
    train = write(tmp_path / "train.zarr", cells_of(kinds, rng), kinds, ["train"] * 20, False)
    refused("no cell has split 'test'; `ingest(holdout=COLUMN)` holds some out", train, both)
    fewer = write(tmp_path / "fewer.zarr", cells_of(kinds, rng)[:, :50], kinds, ["train"] * 20, True)
    refused("its 50 genes are not the 60 of", real, fewer)
    one = write(tmp_path / "one.zarr", cells_of(kinds * 0, rng), kinds * 0, ["train", "test"] * 10, False)
    refused("fewer than two categories of 'cell_type' among its training cells", one, both)
    split = np.repeat(["train", "test"], [16, 4])
    others = write(tmp_path / "others.zarr", cells_of(kinds, rng), kinds, split, np.arange(20) >= 14)
    refused("4 real training cells of 'kind 0', but", real, others)
    in_test = write(tmp_path / "in_test.zarr", cells_of(kinds, rng), kinds, split, np.arange(20) == 19)
    refused("none of its generated cells is a training cell", real, in_test)
    three = np.minimum(kinds, 2)
    small = write(tmp_path / "small.zarr", cells_of(three, rng), three, split, False)
    four = np.append(three, [3, 3])
    new = write(tmp_path / "new.zarr", cells_of(four, rng), four, np.append(split, ["train"] * 2), np.arange(22) >= 20)
    refused("2 generated cells of 'kind 3', of which", small, new)


def test_atlases_and_report_in_a_bucket(pair, result, bucket, capsys):
    for path in pair:
        bucket.put_folder(path.name, path)
    real, augmented, out = (f"{bucket.url}/{name}" for name in (pair[0].name, pair[1].name, "report"))
    assert main(["classify", real, augmented, "--out", out, "--seeds", "3"]) == 0
    assert f"Table and figure: {out}\n" in capsys.readouterr().out
    assert bucket.keys("report") == ["report/classify.csv", "report/classify.json", "report/classify.png"]
    assert bucket.read("report/classify.csv") == (result[2] / "classify.csv").read_bytes()
    found = json.loads(bucket.read("report/classify.json"))
    assert found == json.loads((result[2] / "classify.json").read_text()) | {"atlas": real, "augmented": [augmented]}
    assert main(["classify", real, augmented, "--out", out]) == 2
    assert capsys.readouterr().err == f"error: {out}: exists already; expected an address where nothing is\n"
