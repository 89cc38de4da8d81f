"""The numbers of an audit: areas, intervals, near copies and distances, against brute force and known laws."""

import numpy as np
import pytest
from audit_data import atlas, drawn
from scipy import sparse
from sklearn.metrics import roc_auc_score

from cfgen_dist.evaluation.sources import open_cells
from cfgen_dist.evaluation.spaces.log_normalised import Space
from cfgen_dist.privacy import attacks, nearest
from cfgen_dist.privacy.attacks import area, areas, attack_scores, donor_scores, measures, near_copies, replicates
from cfgen_dist.privacy.cohort import Cohort, draw_cohort
from cfgen_dist.privacy.nearest import Nearest, Queries, overlap, squared_distances


def cohort_of(n, cluster=None):
    rows = np.arange(n)
    cluster = np.arange(2 * n) if cluster is None else cluster
    return Cohort(rows, rows + n, *[np.empty(0, int)] * 3, np.arange(2 * n) % 5, np.ones((5, n), bool), cluster)


@pytest.fixture(scope="module")
def asked():
    """Cohort, queries, space and counts of a small audit."""
    real = open_cells(atlas(400), "cell_type", "real")
    cohort = draw_cohort(real, None, 5000, 300, 0)
    counts = real.read(cohort.rows)
    space = Space.fit(counts)
    return (
        cohort,
        Queries.of(space.project(counts), counts, cohort.fold, cohort.reference),
        space,
        real.codes[cohort.rows],
    )


def test_the_area_is_that_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    is_member = rng.random(200) < 0.4
    for scores in (rng.normal(size=200), rng.integers(0, 5, 200).astype(float), np.full(200, -np.inf)):
        finite = np.where(np.isfinite(scores), scores, -1e9)
        assert area(scores, is_member) == pytest.approx(roc_auc_score(is_member, finite))
        weights = rng.integers(0, 4, (3, 200))
        expected = [roc_auc_score(is_member, finite, sample_weight=weight) for weight in weights]
        assert areas(scores, is_member, weights) == pytest.approx(expected)
    assert np.isnan(area(np.ones(3), np.ones(3, bool)))


def test_intervals_cover_chance_as_often_as_they_say():
    rng, cohort, covered = np.random.default_rng(1), cohort_of(60), 0
    for _ in range(100):
        scores = rng.normal(size=120)
        drawn = areas(scores, cohort.is_member, replicates(cohort, rng)[:200])
        low, high = np.quantile(drawn, [0.025, 0.975])
        covered += low <= 0.5 <= high
    assert covered >= 88


def test_the_bootstrap_draws_donors_whole_and_sides_apart():
    cohort = cohort_of(30, np.repeat(np.arange(6), 10))
    weights = replicates(cohort, np.random.default_rng(0))
    assert (weights.reshape(len(weights), 6, 10).min(axis=2) == weights.reshape(len(weights), 6, 10).max(axis=2)).all()
    assert (weights[:, :30].sum(axis=1) == 30).all()
    assert (weights[:, 30:].sum(axis=1) == 30).all()


def test_p_values_of_near_copies_are_exact_or_careful():
    rng, n = np.random.default_rng(2), 100
    is_member = np.arange(2 * n) < n
    p_values = np.array([near_copies(rng.random(2 * n), is_member)["p"] for _ in range(2000)])
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).mean() <= level + 3 * np.sqrt(level / 2000)
    shared = np.concatenate([np.full(12, 0.9), rng.random(2 * n - 12) / 2])
    found = near_copies(shared, is_member)
    assert found["value"] >= 12
    assert found["p"] < 1e-3


def test_scores_of_donors_leave_the_types_out():
    types, place = np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 1])
    assert donor_scores(10.0 * types, types, place) == pytest.approx([0, 0])
    assert donor_scores(10.0 * types + place, types, place)[1] > 0


def test_blocks_and_shards_do_not_matter(asked, monkeypatch):
    _, queries, space, _ = asked
    made = drawn(70, 5).X
    whole = Nearest.empty(len(queries.points)).add(queries, space.project(made), made)
    monkeypatch.setattr(nearest, "BLOCK", 9)
    parts = [Nearest.empty(len(queries.points)).add(queries, space.project(x), x) for x in (made[:31], made[31:])]
    merged = parts[0].merge(parts[1])
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(merged, name), value, rtol=1e-9, err_msg=name)


def test_distances_overlaps_and_densities_are_those_of_brute_force(asked):
    cohort, queries, space, _ = asked
    made = drawn(50, 6).X
    found = Nearest.empty(len(queries.points)).add(queries, space.project(made), made)
    differences = queries.points[:, None] - space.project(made)[None]
    distances = np.sqrt((differences**2).sum(axis=2))
    np.testing.assert_allclose(found.distance, distances.min(axis=1))
    np.testing.assert_array_equal(found.attached, np.bincount(distances.argmin(axis=0), minlength=len(queries.points)))
    one, other = queries.counts.toarray(), made.toarray()[distances.argmin(axis=1)]
    shared = np.minimum(one, other).sum(axis=1) / np.maximum(one.sum(axis=1), other.sum(axis=1))
    np.testing.assert_allclose(found.overlap, shared)
    kernel = np.exp(-(distances**2) / (2 * queries.width**2)).mean(axis=1)
    scores = attack_scores(found, queries)
    dense = kernel > 1e-200
    np.testing.assert_allclose((scores["domias"] + queries.reference_density)[dense], np.log(kernel[dense]))
    n = len(cohort.members)
    for i in (0, n - 1, n, 2 * n - 1):
        others = np.flatnonzero(cohort.reference[cohort.fold[i]]) + n
        assert queries.reference[i] == pytest.approx(
            np.sqrt(((queries.points[others] - queries.points[i]) ** 2).sum(1)).min()
        )


def test_a_copy_is_at_distance_zero_with_all_counts_in_common(asked):
    _, queries, space, _ = asked
    copy = queries.counts[[3]]
    found = Nearest.empty(len(queries.points)).add(queries, space.project(copy), copy)
    assert found.distance[3] == pytest.approx(0, abs=1e-5)
    assert found.overlap[3] == 1
    empty = sparse.csr_matrix(copy.shape, dtype=np.int64)
    assert overlap(empty, empty) == [0]
    assert squared_distances(np.ones((1, 3)), np.ones((2, 3))).min() >= 0


def test_honest_cells_give_a_half(asked, monkeypatch):
    """Over many draws of cells of the same law, the mean of each measure is 0.5."""
    monkeypatch.setattr(attacks, "REPLICATES", 2)
    values = []
    for seed in range(12):
        real = open_cells(atlas(500, seed=100 + seed), "cell_type", "real")
        cohort = draw_cohort(real, None, 5000, 200, seed)
        counts, made = real.read(cohort.rows), drawn(200, 300 + seed).X
        space = Space.fit(made)
        queries = Queries.of(space.project(counts), counts, cohort.fold, cohort.reference)
        of_set = Nearest.empty(len(cohort.rows)).add(queries, space.project(made), made)
        found = measures(of_set, queries, cohort, real.codes[cohort.rows], np.random.default_rng(0), donors=False)
        values.append([found[name]["value"] for name in ("nearest_is_training", *attacks.ATTACKS)])
    mean, error = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(mean - 0.5) < 3.5 * error + 0.01).all(), (mean, error)
