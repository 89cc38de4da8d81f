"""The table of the purposes of a seed."""

from pathlib import Path

import numpy as np
import pytest

import cfgen_dist
import data_loaders
from data_loaders.errors import BadInput
from data_loaders.seeds import Generation, Ingestion, check_seed, derived_seed, generator


def test_draws_are_a_function_of_seed_and_key():
    assert generator(3, Generation.SHARD, 7).integers(1 << 40) == generator(3, 1, 7).integers(1 << 40)
    keys = [(), (0,), (1,), (1, 0), (0, 1), (Ingestion.SHUFFLE,)]
    draws = {generator(3, *key).integers(1 << 60) for key in keys} | {generator(4).integers(1 << 60)}
    assert len(draws) == len(keys) + 1


def test_draws_are_the_ones_of_earlier_versions():
    assert generator(0, 1).integers(1 << 40) == np.random.default_rng(
        np.random.SeedSequence(0, spawn_key=(1,))
    ).integers(1 << 40)
    assert derived_seed(5, 2, 10, 0) == int(
        np.random.SeedSequence(5, spawn_key=(2, 10, 0)).generate_state(1, np.uint64)[0] >> 1
    )


def test_no_other_file_makes_random_numbers_of_a_key():
    for package in (data_loaders, cfgen_dist):
        for file in Path(package.__file__).parent.rglob("*.py"):
            if file.name != "seeds.py":
                assert "SeedSequence" not in file.read_text(), f"{file}: expected data_loaders.seeds.generator"


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "0"])
def test_what_no_generator_takes_is_refused(seed):
    with pytest.raises(BadInput, match=r"expected a whole number from 0 to 2\*\*63-1"):
        check_seed(seed)
