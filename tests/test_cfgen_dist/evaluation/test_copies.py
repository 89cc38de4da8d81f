"""`find_copies`: generated cells that are real ones are found, whatever their form, beside what chance gives."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from evaluation_data import generated as drawn
from evaluation_data import pbmc68k
from scipy import sparse

from cfgen_dist.evaluation import copies, evaluate
from cfgen_dist.evaluation.copies import find_copies
from cfgen_dist.evaluation.sources import open_cells
from data_loaders.errors import BadInput

N_REAL, N_GENES = 300, 60


def cells(counts, split=None):
    obs = pd.DataFrame({"cell_type": pd.Categorical(["a"] * len(counts))}, index=[f"c{i}" for i in range(len(counts))])
    if split is not None:
        obs["split"] = pd.Categorical(split)
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))


@pytest.fixture(scope="module")
def real():
    counts = np.random.default_rng(0).poisson(2, (N_REAL, N_GENES))
    return cells(counts, np.repeat(["train", "val", "test"], [200, 40, 60]))


def made(n=100, seed=1):
    return np.random.default_rng(seed).poisson(2, (n, N_GENES))


def found_in(real, generated):
    opened = open_cells(real, "cell_type", "real")
    return find_copies(opened, [open_cells(generated, "cell_type", "made").in_order_of(opened.genes)])[0]


def planted(real, train=7, val=2, test=3):
    counts = made()
    rows = np.concatenate([np.arange(train), 200 + np.arange(val), 240 + np.arange(test)])
    counts[10 : 10 + len(rows)] = real.X[rows].toarray()
    return cells(counts)


def test_planted_copies_are_counted_by_split(real):
    found = found_in(real, planted(real))
    assert found.of == {"train": 7, "val": 2, "test": 3}
    assert (found.n_cells, found.n_compared, found.n_copies, found.n_repeated) == (100, 100, 12, 0)
    assert found.warnings() == [
        "12 of 100 cells of made are exact copies of real cells, 7 of training cells, 2 of validation cells, "
        "3 of test cells (of real test cells none equal a training cell)."
    ]
    alone = found_in(real, planted(real, 7, 0, 0))
    assert alone.warnings()[0].startswith("7 of 100 cells of made are exact copies of training cells (")


def test_the_order_of_genes_and_the_type_of_counts_do_not_matter(real):
    generated = planted(real)
    forms = {
        "genes reversed": generated[:, ::-1].copy(),
        "floats": ad.AnnData(generated.X.astype(np.float32), generated.obs, generated.var),
        "small integers": ad.AnnData(generated.X.astype(np.uint8), generated.obs, generated.var),
        "dense": ad.AnnData(generated.X.toarray(), generated.obs, generated.var),
    }
    for name, form in forms.items():
        assert found_in(real, form) == found_in(real, generated), name
    counts = generated.X
    missing = np.flatnonzero(counts[10].toarray() == 0)[1]  # of a copy, of which a zero is stored
    at = counts.indptr[10]
    data, indices = np.insert(counts.data, at, 0), np.insert(counts.indices, at, missing)
    stored = sparse.csr_matrix((data, indices, counts.indptr + (np.arange(101) > 10)), counts.shape)
    assert found_in(real, ad.AnnData(stored, generated.obs, generated.var)).n_copies == 12


def test_blocks_do_not_matter(real, monkeypatch):
    whole = found_in(real, planted(real))
    monkeypatch.setattr(copies, "BLOCK", 7)
    assert found_in(real, planted(real)) == whole


def test_honest_cells_are_no_copies(real):
    found = found_in(real, cells(made()))
    assert (found.n_copies, found.warnings(), found.notes()) == (0, [], [])


def test_the_real_cells_themselves_are_named(real):
    found = found_in(real, real)
    assert found.of == {"train": 200, "val": 40, "test": 60}
    assert found.warnings()[0].startswith("made holds the real cells themselves: 300 of its 300 cells are exact copies")


def test_equal_hashes_are_confirmed_count_by_count(real, monkeypatch):
    monkeypatch.setattr(copies, "add_row_hashes", lambda *args: args[5].__iadd__((args[1] > 0).astype(np.int32) * 5))
    assert found_in(real, cells(made())).n_copies == 0


def test_chance_copies_of_tiny_gene_sets_are_no_alarm():
    rng = np.random.default_rng(0)
    few = np.zeros((600, N_GENES), int)
    few[:, :4] = rng.poisson(3, (600, 4))
    real = cells(few, np.repeat(["train", "test"], [400, 200]))
    honest = np.zeros((300, N_GENES), int)
    honest[:, :4] = rng.poisson(3, (300, 4))
    found = found_in(real, cells(honest))
    assert found.n_copies > 5
    assert found.n_test_copies > 5
    assert found.warnings() == []
    assert any("which may be chance" in note for note in found.notes())
    assert any("too few to tell whether they are copies" in note for note in found.notes())
    honest[:150] = few[:150]
    assert found_in(real, cells(honest)).warnings()


def test_empty_cells_are_never_copies(real):
    counts = real.X.toarray()
    counts[:5] = counts[240:245] = 0
    generated = made()
    generated[:20] = 0
    found = found_in(cells(counts, real.obs["split"].to_numpy()), cells(generated))
    assert (found.n_copies, found.n_compared, found.n_test) == (0, 80, 55)


def test_cells_that_repeat_each_other_are_said(real):
    counts = made()
    counts[50:] = counts[:50]
    found = found_in(real, cells(counts))
    assert found.n_repeated == 50
    assert found.warnings() == [
        "50 of 100 cells of made equal an earlier one of them (of real training cells none do)."
    ]


def test_values_that_are_no_counts_are_refused(real):
    generated = planted(real)
    generated.X = generated.X * 0.5
    with pytest.raises(BadInput, match=r"counts hold .*5; expected whole numbers"):
        found_in(real, generated)


@pytest.mark.heavy
def test_an_evaluation_says_it_before_any_score(caplog):
    atlas = pbmc68k()
    honest = drawn(atlas, sets=1)
    leaked = ad.concat([honest, atlas[atlas.obs["split"] == "train"][:9]])
    leaked.obs_names_make_unique()
    leaked.obs["is_generated"] = True
    caplog.set_level("INFO")
    result = evaluate(atlas, leaked, sets=1, floor_sets=1, embedding="pca")
    said = [record.getMessage() for record in caplog.records]
    assert "9 of 149 cells of generated set 1 are exact copies of training cells" in result["warnings"][0]
    assert result["warnings"][0] in said
    assert result["copies"][0]["of"] == {"test": 0, "train": 9}
