"""The hash that counts are drawn from: its numbers are part of the results and never change."""

import numpy as np

from data_loaders.uniforms import random_bits, uniform, uniform_to_one

# from Vigna's splitmix64.c
SPLITMIX64_OF_0 = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC)


def test_the_numbers_are_those_of_splitmix64():
    seed = np.uint64(0)
    assert [int(random_bits(seed, i)) for i in range(4)] == [number >> 11 for number in SPLITMIX64_OF_0]


def test_uniform_numbers():
    seed = np.uint64(2**63 + 5)
    bits = np.array([int(random_bits(seed, i)) for i in range(1_000)])
    drawn = np.array([uniform(seed, i) for i in range(1_000)])
    np.testing.assert_array_equal(drawn, (bits + 0.5) * 2.0**-53)
    np.testing.assert_array_equal([uniform_to_one(seed, i) for i in range(1_000)], (bits + 1.0) * 2.0**-53)
    assert abs(drawn.mean() - 0.5) < 0.05
    assert 0 < drawn.min() < drawn.max() <= 1
