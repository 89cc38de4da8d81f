"""Ingest: genes, cells, splits, several sources, and the command."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix
from small_data import same_counts, small_adata

from cfgen_dist.cli import main
from data_loaders import BadInput, ingest, open_atlas
from data_loaders.ingestion import buckets
from data_loaders.ingestion.splits import holdout_split, random_split
from data_loaders.sources import matrices
from data_loaders.sources.matrices import CompressedMatrix, DenseMatrix


@pytest.fixture
def source(tmp_path):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def ingested(source, **options):
    out = (source[0] if isinstance(source, list) else source).with_name("out.zarr")
    shutil.rmtree(out, ignore_errors=True)
    card = ingest(source, out, **({"min_cells": 0} | options))
    return ad.read_zarr(out), card


def refused(source, **options):
    folder = (source[0] if isinstance(source, list) else source).parent
    before = set(folder.iterdir())
    with pytest.raises(BadInput) as caught:
        ingest(source, folder / "refused.zarr", **({"min_cells": 0} | options))
    assert set(folder.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- genes


def choosers(source, **options):
    """The names of the cells that train or validate, when no cell is left out."""
    out, _ = ingested(source, **options)
    return out.obs_names[out.obs["split"] != "test"]


def test_min_cells(source):
    adata = small_adata()
    chosen_by = choosers(source)
    n_cells = np.asarray((adata[chosen_by].X > 0).sum(0)).ravel()
    bound = int(np.median(n_cells))
    out, card = ingested(source, min_cells=bound, drop_empty=True)
    assert list(out.var_names) == list(adata.var_names[n_cells >= bound])
    assert card["dropped"]["genes_below_min_cells"] == (n_cells < bound).sum()
    assert card["genes_chosen_by"] == {"splits": ["train", "val"], "n_cells": 48}
    assert same_counts(out, adata)
    message = refused(source, min_cells=61)
    assert "`min_cells=61`: no gene is left of 25; the most common one has counts in 48 of 48 cells that" in message


def with_test_only_genes(folder, column="donor"):
    """Donor d5 alone shows gene g3 and, of the others, mostly g7; the rest is small_adata()."""
    adata = small_adata()
    adata.obs[column] = pd.Categorical([f"d{i % 6}" for i in range(adata.n_obs)])
    counts = adata.X.toarray()
    held = (adata.obs[column] == "d5").to_numpy()
    counts[~held, 3] = 0
    counts[held, 3] = 900
    counts[held, 7] = np.where(np.arange(held.sum()) % 2, 0, 700)
    adata.X = csr_matrix(counts)
    adata.write_h5ad(folder / "donors.h5ad")
    return adata


def seed_that_holds_out(name, source):
    for seed in range(100):
        _, card = ingested(source, holdout=("donor", 0.17), seed=seed, drop_empty=True)
        if card["options"]["held_out"] == [name]:
            return seed
    raise AssertionError


@pytest.mark.parametrize("options", [{"min_cells": 1}, {"genes": "hvg:5", "min_cells": 1}, {"genes": "hvg:5"}])
def test_held_out_donors_never_choose_genes(tmp_path, options):
    """Whatever the held-out donor's counts are, the genes are the same, and so are the split and the other cells."""
    adata = with_test_only_genes(tmp_path)
    seed = seed_that_holds_out("d5", tmp_path / "donors.h5ad")
    options = {"holdout": ("donor", 0.17), "seed": seed, "drop_empty": True} | options
    out, card = ingested(tmp_path / "donors.h5ad", **options)
    held = adata.obs["donor"] == "d5"
    adata.X[held.to_numpy()] = np.random.default_rng(1).poisson(3, (held.sum(), adata.n_vars)) + 1
    adata.write_h5ad(tmp_path / "donors.h5ad")
    other, _ = ingested(tmp_path / "donors.h5ad", **options)
    assert list(out.var_names) == list(other.var_names)
    assert ("g3" in out.var_names) == (options.get("min_cells") is None and "genes" not in options)
    common = out.obs_names[out.obs["split"] != "test"]
    assert (out[common].X != other[common].X).nnz == 0
    pd.testing.assert_series_equal(out.obs["split"][common], other.obs["split"][common])
    assert card["genes_chosen_by"]["n_cells"] == len(common) == (~held).sum()


def test_a_list_of_genes_is_chosen_by_nobody(source):
    names = source.with_name("genes.txt")
    names.write_text("g7\ng0\n")
    assert "genes_chosen_by" not in ingested(source, genes=str(names), drop_empty=True)[1]


def test_cells_that_the_choice_leaves_empty(tmp_path):
    """They are refused or dropped, wherever they are, and counted; the split of the others does not change."""
    adata = small_adata()
    counts = adata.X.toarray()
    counts[:, :2] = 0
    counts[3, 0], counts[4, 1] = 5, 5
    counts[[3, 4], 2:] = 0  # cells whose only gene is in a single cell
    counts[5] = 0
    adata.X = csr_matrix(counts)
    adata.write_h5ad(tmp_path / "a.h5ad")
    whole, card = ingested(tmp_path / "a.h5ad", drop_empty=True)
    assert card["dropped"]["empty_cells"] == 1
    out, card = ingested(tmp_path / "a.h5ad", drop_empty=True, min_cells=2)
    assert card["dropped"]["empty_cells"] == 3
    assert set(whole.obs_names) - set(out.obs_names) == {adata.obs_names[3], adata.obs_names[4]}
    assert list(whole.obs_names[whole.obs_names.isin(out.obs_names)]) == list(out.obs_names)
    assert (whole.obs["split"][out.obs_names] == out.obs["split"]).all()
    assert sum(card["splits"].values()) == out.n_obs == 57
    adata[np.arange(60) != 5].write_h5ad(tmp_path / "a.h5ad")
    assert "has no counts in the chosen genes, one of 2 such cells" in refused(tmp_path / "a.h5ad", min_cells=2)


def test_highly_variable_genes_are_scanpys(tmp_path, real_data, monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET_VALUES", 500_000)
    adata = ad.read_h5ad(real_data / "pbmc3k.h5ad")
    ingest(real_data / "pbmc3k.h5ad", tmp_path / "out.zarr", genes="hvg:2000", min_cells=30)
    out = ad.read_zarr(tmp_path / "out.zarr")
    adata = adata[out.obs_names[out.obs["split"] != "test"]].copy()
    sc.pp.filter_genes(adata, min_cells=30)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat_v3")
    assert list(out.var_names) == list(adata.var_names[adata.var["highly_variable"]])


def test_highly_variable_genes_refusals(source):
    assert "`genes='hvg:26'`: only 25 genes have counts in 0 cells or more" in refused(source, genes="hvg:26")
    for text in ("hvg:x", "hvg:0", "hvg:"):
        assert f"`genes={text!r}`: expected hvg:N with N a whole number above 0" in refused(source, genes=text)


def test_gene_list(source):
    names = source.with_name("genes.txt")
    names.write_text("g7\ng0\n\ng3\n")
    out, card = ingested(source, genes=str(names), min_cells=100)
    assert list(out.var_names) == ["g7", "g0", "g3"]  # the file's order, whatever min_cells says
    assert same_counts(out, small_adata())
    assert card["dropped"]["genes_not_chosen"] == 22
    names.write_text("g7\ng24x\n")
    assert "1 of 2 genes are not in the counts, such as 'g24x'; did you mean 'g24'?" in refused(source, genes=names)
    names.write_text("g7\ng7\n")
    assert "gene 'g7' is named more than once" in refused(source, genes=str(names))
    names.write_text("\n")
    assert "no gene names in it; expected one a line" in refused(source, genes=str(names))
    assert "cannot be read as a list of genes" in refused(source, genes="nowhere.txt")


# ---- cells


def test_empty_cells(source):
    adata = small_adata()
    dense = adata.X.toarray()
    dense[[4, 30]] = 0
    dense[7, 1:] = 0  # has counts only in a gene that is not chosen below
    adata.X = csr_matrix(dense)
    adata.write_h5ad(source)
    message = refused(source)
    assert "a.h5ad: cell 'cell4' has no counts in the chosen genes, one of 2 such cells; `drop_empty=True`" in message
    out, card = ingested(source, drop_empty=True, labels=["cell_type"])
    assert card["dropped"]["empty_cells"] == 2
    assert sorted(set(range(60)) - set(out.obs["source_row"])) == [4, 30]
    assert same_counts(out, adata)
    names = source.with_name("genes.txt")
    names.write_text("".join(f"g{i}\n" for i in range(1, 25)))
    out, card = ingested(source, drop_empty=True, genes=str(names))
    assert {4, 7, 30} <= set(range(60)) - set(out.obs["source_row"])
    assert (out.obs["size_factor"] > 0).all()
    adata.X = csr_matrix(dense * 0)
    adata.write_h5ad(source)
    assert "no cell has counts in the chosen genes" in refused(source, drop_empty=True)


def test_shuffle_is_a_permutation_that_can_be_undone(source, monkeypatch):
    kept, _ = ingested(source, keep_order=True, labels=["cell_type"])
    assert list(kept.obs_names) == list(small_adata().obs_names)
    stores = []
    for bucket in (50, 10_000):  # the order does not depend on the number of buckets
        monkeypatch.setattr(buckets, "BUCKET_VALUES", bucket)
        stores.append(ingested(source, labels=["cell_type"])[0])
        assert list(stores[-1].obs_names) != list(kept.obs_names)
    assert list(stores[0].obs_names) == list(stores[1].obs_names)
    back = stores[0][np.argsort(stores[0].obs["source_row"])]
    assert (back.X != kept.X).nnz == 0
    pd.testing.assert_frame_equal(back.obs, kept.obs)
    other, _ = ingested(source, labels=["cell_type"], seed=1)
    assert list(other.obs_names) != list(stores[0].obs_names)


@pytest.mark.parametrize("by_row", [True, False])
def test_blocks_are_bounded(monkeypatch, by_row):
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 40)
    counts = (csr_matrix if by_row else csc_matrix)(small_adata().X)
    matrix = CompressedMatrix("m", counts.data, counts.indices, counts.indptr, counts.shape, by_row=by_row)
    longest = np.diff(counts.indptr).max()
    total = np.zeros(counts.shape)
    for rows, block in matrix.blocks():
        assert block.nnz <= max(40, longest)
        total[rows] += block.toarray()
    np.testing.assert_array_equal(total, counts.toarray())


def test_dense_blocks_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 100)
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("x", data=small_adata().X.toarray())
        assert [len(rows) for rows, _ in DenseMatrix("x", array).blocks()] == [4] * 15


# ---- labels


def test_label_refusals(source):
    adata = small_adata()
    assert "no obs column 'cell_typ'; did you mean 'cell_type'?" in refused(source, labels=["cell_typ"])
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[[9, 11], 0] = None
    adata.write_h5ad(source)
    message = refused(source, labels=["donor", "cell_type"])
    assert "obs column 'cell_type' has no value in 2 of 60 cells, the first is row 9 ('cell9')" in message
    assert "`unlabelled='drop'`" in message
    adata.obs["score"] = np.linspace(0, 1, 60)
    adata.write_h5ad(source)
    assert "'score' holds fractional numbers; expected text or whole numbers" in refused(source, labels=["score"])


def test_labels_of_other_types(source):
    adata = small_adata()
    adata.obs["cluster"] = np.arange(60) % 12
    adata.obs["spare"] = pd.Categorical(["a"] * 60, categories=["never", "a"])
    adata.write_h5ad(source)
    out, card = ingested(source, labels=["cluster", "treated", "spare"])
    assert card["labels"]["cluster"]["categories"] == [str(i) for i in range(12)]  # 2 before 10
    assert card["labels"]["treated"]["categories"] == ["False", "True"]
    assert card["labels"]["spare"]["categories"] == ["a"]
    assert (out.obs["cluster"].astype(str) == adata.obs["cluster"][out.obs_names].astype(str)).all()


def test_obs_columns_of_every_type(source, tmp_path):
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None, *range(58)], dtype="Int64"),
            "maybe": pd.array([True, None, *[False] * 58], dtype="boolean"),
            "text": [None, *["x"] * 59],
            "ranked": pd.Categorical(["lo", "hi"] * 30, categories=["lo", "hi"], ordered=True),
            "group": pd.Categorical([np.nan, *["g"] * 59]),
            "when": pd.Timestamp("2026-01-01"),
            "mixed": [1, "a"] * 30,
            "part/whole": 1.0,
        },
        index=[f"cell{i}" for i in range(60)],
    )
    from data_loaders.ingestion.cells import merge_obs
    from data_loaders.sources.source import Source

    opened = Source("s", frame, pd.DataFrame(index=["g"]), None, np.zeros(1, int), "X")
    merged, notes, _ = merge_obs([opened], ["ranked"])
    assert list(merged.columns) == ["ranked", "whole", "maybe", "text", "group", "source_row"]
    assert np.isnan(merged["whole"].iloc[1])
    assert merged["text"].iloc[0] == ""
    assert merged["group"].isna().sum() == 1
    assert any("['when', 'mixed', 'part/whole']" in note for note in notes)
    for name in ("split", "n", "row", "shard", "is_generated", "size_factor", "source_row"):
        with pytest.raises(BadInput, match=f"label '{name}': this name cannot be a label column; rename it"):
            merge_obs([opened], [name])
    with pytest.raises(BadInput, match="label 'ranked': given more than once; expected each label once"):
        merge_obs([opened], ["ranked", "ranked"])


def test_measurements_are_no_labels(tmp_path):
    adata = small_adata(400)
    adata.obs["n_genes"] = np.where(np.arange(400) < 150, np.arange(400), 1000)
    adata.obs["clone"] = np.arange(400) // 2  # many, but of two cells each
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path / "a.h5ad", labels=["n_genes"])
    assert "a.h5ad: obs column 'n_genes' has 151 categories in 400 cells, 150 of them with a single cell;" in message
    assert message.endswith("expected a label, not a measurement")
    _, card = ingested(tmp_path / "a.h5ad", labels=["clone"])
    assert len(card["labels"]["clone"]["categories"]) == 200


def test_a_source_given_twice(source):
    again = source.parent / "." / ".." / source.parent.name / source.name
    assert refused([source, again]) == f"{again}: given more than once; expected each source once"


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_seeds_that_are_none(source, seed):
    assert refused(source, seed=seed) == f"seed is {seed}, expected a whole number from 0 to 2**63-1"


# ---- splits


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    test=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]),
    val=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 5),
)
def test_random_split_is_stratified(sizes, test, val, seed):
    strata = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    split = random_split(strata, test_fraction=test, val_fraction=val, seed=seed)
    for code, n in enumerate(sizes):
        seen = split[strata == code].value_counts()
        n_test = min(round(n * test), n - 1)
        n_val = min(round((n - n_test) * val), n - n_test - 1)
        assert (seen["test"], seen["val"], seen["train"]) == (n_test, n_val, n - n_test - n_val)
        assert seen["train"] >= 1
    again = random_split(strata, test_fraction=test, val_fraction=val, seed=seed)
    assert (split == again).all()


@settings(max_examples=50, deadline=None)
@given(n_groups=st.integers(2, 30), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_holdout_split_holds_whole_groups(n_groups, fraction, seed):
    groups = pd.Categorical(np.arange(300) % n_groups)
    strata = np.arange(300) % 2
    split, held = holdout_split(groups, fraction, strata, val_fraction=0.1, seed=seed)
    assert len(held) == min(max(round(n_groups * fraction), 1), n_groups - 1)
    assert ((split == "test") == np.isin(groups.astype(str), held)).all()
    left = np.bincount(strata[split != "test"], minlength=2)
    assert list(np.bincount(strata[split == "val"], minlength=2)) == [round(n * 0.1) for n in left]


def test_holdout(source):
    out, card = ingested(source, labels=["cell_type", "donor"], holdout=("donor", 0.4), seed=3)
    held = card["options"]["held_out"]
    assert len(held) == 2
    assert set(out.obs["donor"][out.obs["split"] == "test"]) == set(held)
    assert not set(out.obs["donor"][out.obs["split"] != "test"]) & set(held)
    assert card["size_factor"]["by"]["donor"][held[0]]["mean_log"] is None
    assert "no obs column 'doner'; did you mean 'donor'?" in refused(source, holdout=("doner", 0.2))
    assert "`holdout` has 1.5 for 'donor': expected a share above 0" in refused(source, holdout=("donor", 1.5))
    adata = small_adata()
    adata.obs["donor"] = "d"
    adata.write_h5ad(source)
    assert "the column has a single category; expected two" in refused(source, holdout=("donor", 0.5))


def test_one_combination_of_labels_is_held_out(source):
    wanted = {"cell_type": "B", "donor": "d1"}
    out, card = ingested(source, labels=["cell_type", "donor"], holdout=wanted)
    held = (out.obs["cell_type"] == "B") & (out.obs["donor"] == "d1")
    assert held.any()
    assert ((out.obs["split"] == "test") == held).all()
    assert (out.obs["split"] == "val").any()
    assert card["options"]["holdout"] == wanted
    assert card["options"]["held_out"] == ["cell_type=B, donor=d1"]
    assert "`holdout` names donor=d9: did you mean" in refused(source, holdout=wanted | {"donor": "d9"})
    assert "no obs column 'doner'" in refused(source, holdout={"doner": "d1"})
    adata = small_adata()
    adata.obs["donor"] = np.where(adata.obs["cell_type"] == "B", "d1", "d2")
    adata.write_h5ad(source)
    assert "`holdout`: no cell is cell_type=B, donor=d2; expected some of the cells" in refused(
        source, holdout={"cell_type": "B", "donor": "d2"}
    )
    adata.obs["donor"] = "d1"
    adata.write_h5ad(source)
    assert "`holdout`: all cells are donor=d1; expected some of the cells" in refused(source, holdout={"donor": "d1"})


def test_options_out_of_range(source):
    assert "`test_fraction=1.0`: expected a share of at least 0" in refused(source, test_fraction=1.0)
    assert "`val_fraction=-1`: expected" in refused(source, val_fraction=-1)
    assert "`min_cells=-1`: expected 0 or more" in refused(source, min_cells=-1)
    assert "`join='outr'`: did you mean 'outer'?" in refused(source, join="outr")
    with pytest.raises(BadInput, match="no sources; expected at least one"):
        ingest([], source.with_name("out.zarr"))
    with pytest.raises(BadInput, match=r"a\.h5ad: exists already"):
        ingest(source, source)


# ---- several sources


def write_two(folder, second):
    small_adata().write_h5ad(folder / "a.h5ad")
    second.write_h5ad(folder / "b.h5ad")
    return [folder / "a.h5ad", folder / "b.h5ad"]


def test_same_genes_in_another_order(tmp_path):
    second = small_adata(seed=1)[:, ::-1].copy()
    out, card = ingested(write_two(tmp_path, second), labels=["cell_type", "source"])
    assert card["labels"]["source"]["categories"] == ["a", "b"]
    assert card["labels"]["source"]["counts"] == [60, 60]
    assert list(out.var_names) == list(small_adata().var_names)
    assert any("'-SOURCE' was added" in note for note in card["notes"])
    for key, adata in (("a", small_adata()), ("b", second)):
        part = out[out.obs["source"] == key].copy()
        part.obs_names = part.obs_names.str.removesuffix(f"-{key}")
        assert same_counts(part, adata)
        assert (part.obs_names == adata.obs_names[part.obs["source_row"]]).all()


def test_other_genes_need_a_join(tmp_path):
    second = small_adata(seed=1)
    second.var_names = [f"g{i + 5}" for i in range(25)]
    second.obs_names = [f"other{i}" for i in range(60)]
    second.obs["cell_type"] = second.obs["cell_type"].cat.rename_categories({"T": "T2"})
    second.obs["only_here"] = 1
    paths = write_two(tmp_path, second)
    message = refused(paths)
    assert "b.h5ad: lacks 5 genes of" in message
    assert "and has 5 others ('g0', 'g1', 'g25', 'g26'); expected the same genes, or `join='inner'`" in message
    inner, _ = ingested(paths, join="inner", labels=["cell_type"])
    assert list(inner.var_names) == [f"g{i}" for i in range(5, 25)]
    outer, card = ingested(paths, join="outer", labels=["cell_type"])
    assert list(outer.var_names) == [f"g{i}" for i in range(30)]
    assert set(outer.obs["cell_type"].cat.categories) == {"T", "B", "NK", "T2"}
    assert any("['only_here']" in note for note in card["notes"])
    merged = ad.concat([small_adata(), second], join="outer", fill_value=0)
    assert same_counts(outer, merged)
    assert same_counts(inner, merged)
    assert set(outer.obs_names) == set(merged.obs_names)  # unique already: kept as they are
    second.var_names = [f"h{i}" for i in range(25)]
    assert "no gene is in all of them" in refused(write_two(tmp_path, second), join="inner")


def test_a_label_missing_in_the_second_source(tmp_path):
    second = small_adata(seed=1)
    del second.obs["donor"]
    assert "b.h5ad: no obs column 'donor'; valid: " in refused(write_two(tmp_path, second), labels=["donor"])


# ---- an atlas as a source, and the command


def test_an_atlas_can_be_ingested_again(source):
    first, _ = ingested(source, labels=["cell_type"])
    source.with_name("out.zarr").rename(source.with_name("first.zarr"))
    again, card = ingested(source.with_name("first.zarr"), labels=["cell_type"], keep_order=True)
    assert (first.X != again.X).nnz == 0
    assert list(again.var.columns) == ["symbol", "n_cells", "mean", "variance"]
    assert any("obs columns ['split', 'size_factor', 'source_row'] were replaced" in note for note in card["notes"])


def test_command(source, capsys):
    out = source.with_name("out.zarr")
    words = ["ingest", str(source), str(out), "--labels", "cell_type, donor", "--min-cells", "3", "--seed", "5"]
    assert main([*words, "--holdout", "donor=0.2"]) == 0
    printed = capsys.readouterr().out
    assert f"{source}: 60 cells x 25 genes, counts from X" in printed
    assert f"{out}: 60 cells x" in printed
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out}: exists already")
    assert error.count("\n") == 1
    shutil.rmtree(out)
    assert main([*words, "--holdout", "donor"]) == 2
    assert "--holdout donor: expected COLUMN=SHARE, such as donor=0.2, or a combination" in capsys.readouterr().err


def test_the_reader_knows_whether_cells_were_shuffled(source):
    small_adata().write_h5ad(source)
    for keep_order in (False, True):
        out = source.with_name(f"{keep_order}.zarr")
        ingest(source, out, labels=["cell_type"], min_cells=0, keep_order=keep_order)
        assert open_atlas(out).is_shuffled is not keep_order
