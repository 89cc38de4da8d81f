"""Transfer to combinations never seen: which base and pairs are taken, the formula, the size factors."""

import numpy as np
import pytest
import torch

from cfgen_dist.model.transfer import FEW, find_change, size_factor_shift, transferred
from cfgen_dist.model.velocity import ABSENT

# (type, condition), condition 1 unseen in type 0
SEEN = np.array([[0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [3, 1]])


def test_the_base_differs_in_one_label_and_the_pairs_show_its_change():
    change = find_change(np.array([0, 1]), SEEN, np.full(6, 50))
    assert change.attribute == 1
    assert change.base.tolist() == [0, 0]
    assert change.without.tolist() == [[1, 0], [2, 0]], "type 3 was seen in one condition alone"
    assert change.with_.tolist() == [[1, 1], [2, 1]]


def test_rare_combinations_lend_nothing():
    counts = np.array([50, 50, FEW - 1, 50, FEW, 50])
    assert find_change(np.array([0, 1]), SEEN, counts).with_.tolist() == [[2, 1]]
    counts[4] = FEW - 1
    change = find_change(np.array([0, 1]), SEEN, counts)
    assert change.attribute == 0, "then the type is changed, as in condition 0"
    counts[1] = counts[3] = FEW - 1
    assert find_change(np.array([0, 1]), SEEN, counts) is None


def test_nothing_is_lent_to_what_differs_in_two_labels():
    assert find_change(np.array([0, 1]), np.array([[1, 0], [2, 0]]), np.full(2, 50)) is None


def test_pairs_that_agree_in_more_labels_come_first():
    # (type, donor, condition): type 0 of another donor says more than type 1 of the same one
    seen = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]])
    change = find_change(np.array([0, 0, 1]), seen, np.full(7, 50))
    assert change.base.tolist() == [0, 0, 0]
    assert change.with_.tolist() == [[0, 1, 1], [1, 0, 1]], "each agrees in one further label"
    change = find_change(np.array([0, 0, 1]), seen[[0, 1, 2, 5, 6]], np.full(5, 50))
    assert change.with_.tolist() == [[0, 1, 1]], "type 1 of another donor agrees in none"


def test_the_labels_before_translation_are_the_base_where_that_is_possible():
    seen = np.array([[0, 0], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1]])
    wanted = np.array([0, 1])
    assert find_change(wanted, seen, np.full(7, 50)).base.tolist() == [0, 0], "two pairs against one"
    assert find_change(wanted, seen, np.full(7, 50), base=np.array([0, 2])).base.tolist() == [0, 2]
    assert find_change(wanted, seen, np.full(7, 50), base=np.array([2, 0])).base.tolist() == [0, 0], "two labels away"


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_field_is_the_formula(velocity, guidance):
    z, size = torch.randn(3, 4), torch.linspace(5, 9, 3)
    base, without, with_ = (torch.tensor(rows) for rows in ([[0, 0]] * 3, [[1, 0], [2, 0], [1, 0]], [[1, 1]] * 3))
    weight = torch.tensor([0.5, 1.25, 2.0])

    def at(codes):
        return velocity(z, torch.full((3,), 0.4), codes, size)

    none = at(torch.full_like(base, ABSENT))
    expected = none + guidance * (at(base) - none) + weight[:, None] * (at(with_) - at(without))
    found = transferred(velocity, base, without, with_, weight, guidance, size)(z, 0.4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_three_evaluations_of_the_network(velocity):
    seen = []
    velocity.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    codes = torch.zeros(5, 2, dtype=torch.int64)
    transferred(velocity, codes, codes, codes, 1.25, 1.0, torch.full((5,), 6.0))(torch.randn(5, 4), 0.5)
    assert seen == [15]


def test_size_factors_change_as_in_the_pairs():
    change = find_change(np.array([0, 1]), SEEN, np.full(6, 50))
    mean_log = np.array([5.0, 6.0, 6.2, 7.0, 7.6, 1.0])
    base, shift = size_factor_shift(change, SEEN, mean_log)
    assert base == 5.0
    assert shift == pytest.approx((0.2 + 0.6) / 2)
