"""Markers against scanpy, and their correlation against numpy."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from peaks_data import KINDS, peaks
from scipy import sparse

from cfgen_dist.evaluation.metrics.markers import find_markers, marker_correlation, read_markers
from data_loaders.errors import BadInput

FEATURES = [f"p{i}" for i in range(80)]


def test_markers_are_scanpys():
    counts = peaks()
    ours = find_markers(counts, KINDS, FEATURES, n=5)
    cells = ad.AnnData(counts.astype(np.float32), obs=pd.DataFrame({"k": pd.Categorical(KINDS)}))
    cells.obs_names, cells.var_names = [str(i) for i in range(180)], FEATURES
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "k", method="t-test_overestim_var", n_genes=5)
    for kind in "abc":
        found = ours.loc[ours["type"] == kind, "feature"]
        assert set(found) == set(cells.uns["rank_genes_groups"]["names"][kind])
        assert all(20 * "abc".index(kind) <= int(name[1:]) < 20 * "abc".index(kind) + 20 for name in found)


def test_types_of_few_cells_have_no_markers():
    kinds = np.array([*KINDS[:-2], "rare", "rare"])
    assert set(find_markers(peaks(), kinds, FEATURES)["type"]) == {"a", "b", "c"}
    with pytest.raises(BadInput, match="markers: 1 types with at least 3 cells, expected two or more"):
        find_markers(peaks()[:60], KINDS[:60], FEATURES)


@pytest.mark.parametrize("binary", [True, False])
def test_correlation_is_numpys(binary):
    real, other = peaks(0), peaks(1)
    markers = find_markers(real, KINDS, FEATURES, binary=binary, n=4)
    table = marker_correlation(real, KINDS, other, KINDS, FEATURES, markers, binary=binary)
    columns = [FEATURES.index(name) for name in pd.unique(markers["feature"])]

    def means(counts):
        dense = counts.toarray().astype(float)
        dense = (dense > 0) if binary else np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))
        return {kind: dense[kind == KINDS][:, columns].mean(axis=0) for kind in "abc"}

    for kind in "abc":
        assert table.loc[kind, "r"] == pytest.approx(np.corrcoef(means(real)[kind], means(other)[kind])[0, 1])
    assert (table["r"] > 0.8).all()
    assert (table["cells"] == 60).all()
    swapped = marker_correlation(real, KINDS, other, np.roll(KINDS, 60), FEATURES, markers, binary=binary)
    assert (swapped["r"] < 0.2).all()


def test_cells_without_any_marker_have_no_correlation():
    markers = pd.DataFrame({"type": ["a", "b"], "feature": ["p1", "p30"]})
    nothing = sparse.csr_matrix((180, 80))
    assert marker_correlation(peaks(), KINDS, nothing, KINDS, FEATURES, markers)["r"].isna().all()


def test_marker_tables(tmp_path):
    (tmp_path / "m.csv").write_text("type,feature,score\na,p1,3\nb,p2,4\n")
    table = read_markers(tmp_path / "m.csv")
    assert table.to_dict("list") == {"type": ["a", "b"], "feature": ["p1", "p2"]}
    (tmp_path / "x.csv").write_text("type,featur\na,p1\n")
    with pytest.raises(BadInput, match=r"x\.csv: no column 'feature'; did you mean 'featur'\?"):
        read_markers(tmp_path / "x.csv")
    (tmp_path / "e.csv").write_text("type,feature\n")
    with pytest.raises(BadInput, match=r"e\.csv: a table without markers; expected columns type and feature"):
        read_markers(tmp_path / "e.csv")
    with pytest.raises(BadInput, match=r"nothing\.csv: cannot be read as a table"):
        read_markers(tmp_path / "nothing.csv")
    markers = pd.DataFrame({"type": ["a"], "feature": ["p100"]})
    with pytest.raises(BadInput, match="`markers`: no feature 'p100', did you mean 'p10'"):
        marker_correlation(peaks(), KINDS, peaks(), KINDS, FEATURES, markers)
