"""Values of the command line."""

import argparse

import pytest

from cfgen_dist.cli.values import whole


@pytest.mark.parametrize(
    ("text", "number"),
    [("5", 5), ("-3", -3), ("50_000", 50_000), ("1e12", 10**12), ("2.5e9", 2_500_000_000), ("1E3", 1000), ("5.0", 5)],
)
def test_whole_numbers_as_people_type_them(text, number):
    assert whole(text) == number


@pytest.mark.parametrize("text", ["five", "", "1.5", "1e-3", "nan", "inf", "1e999999999", "0x10", "1,000"])
def test_what_is_no_whole_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match="invalid int value"):
        whole(text)
