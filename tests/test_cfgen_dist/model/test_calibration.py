"""Offsets of a decoder: their formulas, and which cells get which."""

import numpy as np
import pytest
import torch

from cfgen_dist.model.calibration import Calibration, empty_state, odds_offsets, share_offsets


def calibration():
    tables = {"cell_type": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "donor": torch.tensor([[10.0, 20.0]])}
    return Calibration({"rna": tables})


def test_a_cell_gets_the_sum_of_its_attributes_and_nothing_where_it_has_none():
    codes = {"cell_type": torch.tensor([1, 0, -1, -1]), "donor": torch.tensor([0, -1, 0, -1])}
    shift = calibration().shift("rna", codes)
    np.testing.assert_array_equal(shift, [[13, 24], [1, 2], [10, 20], [0, 0]])
    np.testing.assert_array_equal(calibration().shift("rna", {"donor": torch.tensor([0])}), [[10, 20]])
    assert calibration().shift("rna", {}) is None
    assert calibration().shift("atac", codes) is None
    assert Calibration().shifts(codes) == {}


def test_adding_offsets_leaves_the_tables_as_they_are():
    found = calibration()
    for _ in range(2):
        codes = {"cell_type": torch.tensor([0, -1]), "donor": torch.tensor([0, 0])}
        np.testing.assert_array_equal(found.shift("rna", codes), [[11, 22], [10, 20]])


def test_what_is_kept_is_what_is_read():
    state = calibration().state()
    expected = empty_state({"cell_type": 2}, {"rna": 2}) | empty_state({"donor": 1}, {"rna": 2})
    assert {name: each.shape for name, each in state.items()} == {name: each.shape for name, each in expected.items()}
    again = Calibration.filled(state, {"cell_type": 2, "donor": 1}, {"rna": 2})
    assert again.tables["rna"]["donor"].tolist() == [[10.0, 20.0]]


def test_offsets_of_proportions_shrink_few_counts_by_one_of_each():
    observed = np.array([[3.0, 1.0], [0.0, 0.0]])  # of 4 cells, and of none
    expected = np.array([[2.0, 2.0], [0.0, 0.0]])
    found = share_offsets(observed, expected, np.array([10.0, 0.0]))
    np.testing.assert_allclose(found, [[np.log(31 / 21), np.log(11 / 21)], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_offsets_of_logits_bring_any_share_of_ones_to_that_observed(share):
    n, p = 100_000, np.array([[0.3]])
    shift = odds_offsets(np.array([[share * n]]), p * n, np.array([n]))
    np.testing.assert_allclose(1 / (1 + np.exp(-(np.log(p / (1 - p)) + shift))), share, rtol=1e-3)


def test_offsets_of_logits_of_peaks_that_are_always_or_never_open_are_finite():
    found = odds_offsets(np.array([[5.0, 0.0, 0.0]]), np.array([[5.0 + 1e-9, 1e-9, 5.0]]), np.array([5]))
    assert np.isfinite(found).all()
    assert abs(found[0, 0]) < 1e-6
    assert found[0, 2] == pytest.approx(2 * np.log(1 / 6))
