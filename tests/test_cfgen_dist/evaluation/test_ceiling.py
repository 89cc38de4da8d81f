"""The ceiling: right in everything but the means of types, which are off as far as so many cells leave open."""

import json

import numpy as np
import pytest
from evaluation_data import generated, pbmc68k
from scipy import sparse

from cfgen_dist.cli import main
from cfgen_dist.evaluation import evaluate
from cfgen_dist.evaluation.ceiling import ceiling_in_words, ceiling_sets, error_of_means, with_means_off, write_ceiling
from cfgen_dist.evaluation.sources import open_cells


def cells(n, genes=300, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(rng.gamma(0.3, 1.0, genes), (n, genes)))


def test_means_are_off_by_as_much_as_means_of_so_many_cells_are():
    counts = cells(400)
    rng = np.random.default_rng(1)
    total = np.asarray(counts.sum(axis=0)).ravel()
    deep = total > 50
    spread = np.stack([error_of_means(counts, 400, rng) for _ in range(60)])[:, deep].std(axis=0)
    np.testing.assert_allclose(np.median(spread * np.sqrt(total[deep])), 1, atol=0.1)  # of Poisson counts: sd / mean
    of_more = np.stack([error_of_means(counts, 40_000, rng) for _ in range(60)])[:, deep].std(axis=0)
    np.testing.assert_allclose(np.median(spread / of_more), 10, rtol=0.15)


@pytest.mark.parametrize("n", [1, 3])
def test_means_of_a_handful_of_cells_are_off_too(n):
    assert error_of_means(cells(n), n, np.random.default_rng(2)).std() > 0.1


def test_genes_that_no_cell_has_stay_so():
    counts = cells(30) @ sparse.diags_array((np.arange(300) >= 5).astype(int)).tocsr()
    factor = error_of_means(counts, 30, np.random.default_rng(3))
    assert (factor[:5] == 1).all()


def test_cells_get_the_means_asked_for():
    counts, factor = cells(3000), np.linspace(0, 3.4, 300)
    made = with_means_off(counts, counts, factor, np.random.default_rng(4))
    expected = np.asarray(counts.mean(axis=0)).ravel() * factor
    np.testing.assert_allclose(np.asarray(made.mean(axis=0)).ravel(), expected, atol=0.12)
    assert made.data.min() > 0
    same = with_means_off(counts, counts, np.ones(300), np.random.default_rng(5))
    assert (same != counts).nnz == 0


def test_how_many_sets():
    assert [ceiling_sets({0: n, 1: 0}, asked) for n, asked in ((10, True), (6000, True), (10, False))] == [3, 1, 0]
    assert ceiling_in_words({"w2": {"floor": {"mean": 1.0}}}, 5) == []


@pytest.mark.heavy
def test_a_set_has_the_cells_and_depths_of_the_floor(tmp_path):
    real = open_cells(pbmc68k())
    train = real.rows_of("train")
    n = np.bincount(real.codes[train])
    wanted = {int(code): int(n[code] // 2) for code in np.flatnonzero(n > 1)}
    for name in ("a", "b"):
        write_ceiling(tmp_path / f"{name}.zarr", real, train, wanted, seed=1, draw=0)
    made, again = (open_cells(tmp_path / f"{name}.zarr", real.label) for name in "ab")
    assert (made.read(np.arange(len(made))) != again.read(np.arange(len(again)))).nnz == 0
    assert {made.types[code]: size for code, size in enumerate(np.bincount(made.codes)) if size} == {
        real.types[code]: size for code, size in wanted.items()
    }
    depth = [cells.read(rows).sum(axis=1).mean() for cells, rows in ((made, np.arange(len(made))), (real, train))]
    assert depth[0] == pytest.approx(depth[1], rel=0.1)


@pytest.mark.heavy
def test_it_is_a_column_of_the_report_and_a_line_of_the_terminal(tmp_path, capsys):
    real = pbmc68k()
    made = generated(real)
    real.write_zarr(tmp_path / "real.zarr")
    made.write_h5ad(tmp_path / "made.h5ad")
    command = ["evaluate", str(tmp_path / "real.zarr"), str(tmp_path / "made.h5ad"), "--sets", "1", "--floor-sets", "2"]
    assert main([*command, "--embedding", "pca", "--out", str(tmp_path / "with")]) == 0
    said = capsys.readouterr().out
    assert "Ceiling, what a perfect model that knows these" in said
    result = json.loads((tmp_path / "with" / "metrics.json").read_text())
    assert result["n_ceiling"] == len(result["sets"]["ceiling"]) == 3
    for key in ("auc_genes", "correlation_error"):  # as the floor in what genes do together, unlike independent genes
        row = result["metrics"][key]
        assert abs(row["ceiling"]["mean"] - row["floor"]["mean"]) < abs(row["generated"]["mean"] - row["floor"]["mean"])
    assert result["metrics"]["auc_linear"]["ceiling"]["mean"] > result["metrics"]["auc_linear"]["floor"]["mean"]
    assert '<th class="n">Ceiling</th>' in (tmp_path / "with" / "report.html").read_text()
    assert main([*command, "--embedding", "pca", "--no-ceiling", "--out", str(tmp_path / "without")]) == 0
    assert "Ceiling" not in capsys.readouterr().out
    assert "Ceiling" not in (tmp_path / "without" / "report.html").read_text()
    without = json.loads((tmp_path / "without" / "metrics.json").read_text())["metrics"]
    for key, row in without.items():
        assert "ceiling" not in row
        assert row["floor"] == result["metrics"][key]["floor"]


@pytest.mark.heavy
def test_cells_without_types_have_a_ceiling_too():
    real = pbmc68k()
    made = generated(real)
    del made.obs["cell_type"]
    found = evaluate(real, made, sets=1, floor_sets=1)
    assert "ceiling" in found["metrics"]["auc_linear"]
    assert found["ceiling_says"]
