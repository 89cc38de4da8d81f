"""Size-factor laws: maximum likelihood, per category, categories with one cell or none, resampling."""

import numpy as np
import pytest

from cfgen_dist.model.size_factor import KEPT, SizeFactorLaw

RNG = np.random.default_rng(0)


def test_lognormal_is_the_maximum_likelihood_estimate():
    size = RNG.lognormal(7, 0.4, 5000)
    law = SizeFactorLaw.fit(size)
    assert law.mean[0] == pytest.approx(np.log(size).mean())
    assert law.std[0] == pytest.approx(np.log(size).std(ddof=0))
    draws = np.log(law.draw(np.zeros(100_000, int), np.random.default_rng(1)))
    assert draws.mean() == pytest.approx(law.mean[0], abs=0.01)
    assert draws.std() == pytest.approx(law.std[0], abs=0.01)


@pytest.mark.parametrize("kind", ["lognormal", "resample"])
def test_categories_with_one_cell_or_none(kind):
    size = np.array([100.0, 120.0, 5000.0])
    law = SizeFactorLaw.fit(size, np.array([0, 0, 1]), 3, kind=kind, covariate="donor")
    draws = law.draw(np.array([1, 1, 0, 2] * 50), np.random.default_rng(0)).reshape(50, 4)
    assert np.isfinite(draws).all()
    np.testing.assert_allclose(draws[:, :2], 5000.0)
    assert (draws[:, 2] < 1000).all()
    assert draws[:, 3].max() > 500, "no cell of its own: the law of all cells"


def test_resampling_draws_observed_values_of_the_category():
    size = RNG.lognormal(7, 0.4, 300)
    codes = RNG.integers(0, 4, 300)
    law = SizeFactorLaw.fit(size, codes, 4, kind="resample")
    for category in range(4):
        draws = law.draw(np.full(5000, category), np.random.default_rng(2))
        assert set(draws) == set(size[codes == category])


def test_what_is_kept_does_not_grow_with_the_cells():
    size = RNG.lognormal(7, 0.4, 50_000)
    law = SizeFactorLaw.fit(size, kind="resample")
    assert len(law.values) == KEPT
    quantiles = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(np.quantile(law.values, quantiles), np.quantile(size, quantiles), rtol=0.01)


# ---- size factors of further modalities


@pytest.mark.parametrize("kind", ["lognormal", "resample"])
def test_size_factors_are_drawn_together(kind):
    rng = np.random.default_rng(3)
    n = 30_000
    codes = rng.integers(0, 3, n)
    log_first = rng.normal(7 + codes, 0.4)
    log_other = 2 + 0.8 * log_first + rng.normal(0, 0.3, n)
    law = SizeFactorLaw.fit(
        np.exp(log_first), codes, 3, kind=kind, covariate="batch", others={"adt": np.exp(log_other)}
    )
    category = rng.integers(0, 3, n)
    first = law.draw(category, rng)
    other = law.draw_others(first, category, rng)["adt"]
    for k in range(3):
        drawn = np.log(np.stack([first, other])[:, category == k])
        real = np.stack([log_first, log_other])[:, codes == k]
        np.testing.assert_allclose(drawn.mean(axis=1), real.mean(axis=1), atol=0.03)
        np.testing.assert_allclose(np.cov(drawn), np.cov(real), atol=0.012)


def test_one_cell_in_a_category():
    law = SizeFactorLaw.fit([100.0, 50.0, 70.0], np.array([0, 1, 1]), 3, kind="lognormal", others={"adt": [9, 5, 6]})
    rng = np.random.default_rng(0)
    assert law.draw(np.zeros(5, int), rng) == pytest.approx(100.0)
    assert law.draw_others(np.full(5, 100.0), np.zeros(5, int), rng)["adt"] == pytest.approx(9.0)
    assert np.isfinite(law.draw(np.full(5, 2), rng)).all(), "a category without cells takes the law of all"
