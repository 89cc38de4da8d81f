"""What every message promises: one line that can be read, whatever a file of others holds."""

import pickle

import pytest

from data_loaders.errors import LONGEST_VALUE, BadInput, WorkFailed, nearest


@pytest.mark.parametrize("kind", [BadInput, WorkFailed])
def test_long_quoted_values_are_cut_and_their_length_is_said(kind):
    for value in ("a" * 5000, "it's " * 1000, 'say "x" ' * 1000):
        text = str(kind(f"card.json: theta_covariate is {value!r}, which is no label of the model"))
        assert len(text) < LONGEST_VALUE
        assert text.startswith("card.json: theta_covariate is ")
        assert f"({len(value):,} characters), which is no label of the model" in text


@pytest.mark.parametrize(
    "text",
    [
        "columns " + ", ".join(repr(f"column {i} (x)") for i in range(100)),
        "it can't be read " + "and so on " * 50 + "as it isn't a file",
        f"value {'a' * LONGEST_VALUE!r} stays",
        "/" + "folder/" * 100 + "file.h5ad: not found",
    ],
)
def test_lists_prose_and_paths_are_not_cut(text):
    assert str(BadInput(text)) == text


def test_errors_travel_between_processes():
    error = BadInput(f"x is {'a' * 999!r}")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_valid_names_of_any_length_are_listed_briefly():
    assert len(nearest("x", ["b" * 5000, "c"])) < LONGEST_VALUE + 50
