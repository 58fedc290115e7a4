"""Null directions and labels have the distribution they promise."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from probes import (
    covariance_matched_directions,
    permutation_p_value,
    random_directions,
    shuffle_labels,
)


def p_value(result: Any) -> float:
    return float(result.pvalue)


def test_random_directions_have_the_norm_and_no_preferred_axis():
    directions = random_directions(4000, 8, norm=3.5, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 3.5)
    # One coordinate of an isotropic unit vector, squared, is Beta(1/2, (d - 1)/2).
    for axis in range(8):
        share = directions[:, axis] ** 2 / 3.5**2
        assert p_value(stats.kstest(share, stats.beta(0.5, 3.5).cdf)) > 1e-4
    assert np.abs(directions.mean(0)).max() < 4 * 3.5 / np.sqrt(8 * 4000)


def test_covariance_matched_directions_follow_the_covariance():
    r = np.random.default_rng(1)
    basis = np.linalg.qr(r.normal(size=(6, 6)))[0]
    x = 50 + r.normal(size=(500, 3)) * [10, 5, 5] @ basis[:3]
    directions = covariance_matched_directions(x, 3000, norm=2.0, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 2)
    np.testing.assert_allclose(directions @ basis[3:].T, 0, atol=1e-9)  # nothing varies there
    # z1^2 a / (z1^2 a + z2^2 b + z3^2 b): the share of a draw from N(0, diag(a, b, b)).
    z = r.normal(size=(3000, 3)) ** 2 * [100, 25, 25]
    share = (directions @ basis[0]) ** 2 / 4
    assert p_value(stats.ks_2samp(share, z[:, 0] / z.sum(1))) > 1e-4


def test_within_groups_directions_ignore_what_differs_between_groups():
    r = np.random.default_rng(3)
    groups = np.repeat(np.arange(50), 8)
    between, within = 100 * r.normal(size=(50, 1)), r.normal(size=(400, 2))
    x = np.column_stack([between[groups, 0], within])
    x[:, 0] += 1e-3 * r.normal(size=400)
    directions = covariance_matched_directions(x, 200, norm=1.0, seed=0, groups=groups)
    assert np.abs(directions[:, 0]).max() < 0.1
    assert np.abs(covariance_matched_directions(x, 200, norm=1.0, seed=0)[:, 0]).mean() > 0.9


def test_one_seed_gives_directions_of_two_matrices_that_belong_together():
    r = np.random.default_rng(4)
    x = r.normal(size=(60, 3))
    turn = np.linalg.qr(r.normal(size=(3, 3)))[0]
    first = covariance_matched_directions(x, 5, norm=1.0, seed=0)
    np.testing.assert_allclose(
        covariance_matched_directions(x @ turn, 5, norm=1.0, seed=0), first @ turn, atol=1e-12
    )


def test_within_groups_directions_are_like_differences_of_means_under_shuffled_labels():
    r = np.random.default_rng(5)
    groups = np.repeat(np.arange(80), 10)
    x = r.normal(size=(800, 4)) * [5, 2, 1, 1] + 9 * r.normal(size=(80, 4))[groups]
    y = np.tile(np.arange(10) < 3, 80)  # as many in every group, so groups cancel

    def difference(labels):
        found = x[labels].mean(0) - x[~labels].mean(0)
        return abs(found[0]) / np.linalg.norm(found)

    shuffled = [difference(shuffle_labels(y, groups, seed)) for seed in range(400)]
    drawn = np.abs(covariance_matched_directions(x, 400, 1.0, seed=0, groups=groups)[:, 0])
    assert p_value(stats.ks_2samp(shuffled, drawn)) > 1e-3


def test_constant_activations_have_no_covariance_to_match():
    with pytest.raises(ValueError, match="the 5 rows of X are all equal"):
        covariance_matched_directions(np.ones((5, 3)), 2, norm=1.0, seed=0)


def test_shuffling_keeps_the_counts_of_every_group_and_stratum():
    r = np.random.default_rng(2)
    groups, strata = r.integers(20, size=400), r.choice(["start", "end"], size=400)
    labels = r.choice(["deduction", "backtracking", "verification"], size=400)
    shuffled = shuffle_labels(labels, groups, seed=0, strata=strata)
    assert 0.3 < (shuffled != labels).mean()

    def counts(names):
        return Counter(zip(groups.tolist(), strata.tolist(), names.tolist(), strict=True))

    assert counts(shuffled) == counts(labels)
    np.testing.assert_array_equal(shuffled, shuffle_labels(labels, groups, 0, strata=strata))


def test_every_permutation_of_a_group_is_equally_likely():
    labels, groups = np.array([0, 1, 2, 7, 7]), np.array(["a", "a", "a", "b", "b"])
    seen = Counter(tuple(shuffle_labels(labels, groups, s)[:3].tolist()) for s in range(1200))
    assert len(seen) == 6
    assert p_value(stats.chisquare(list(seen.values()))) > 1e-4


def test_groups_of_one_label_swap_labels_whole():
    groups = np.repeat([3, 1, 2, 0], [1, 2, 3, 4])
    labels = np.repeat([True, False, False, False], [1, 2, 3, 4])
    holders = Counter()
    for seed in range(400):
        shuffled = shuffle_labels(labels, groups, seed)
        positive = set(groups[shuffled].tolist())
        assert len(positive) == 1 and not positive & set(groups[~shuffled].tolist())
        holders.update(positive)
    assert p_value(stats.chisquare([holders[g] for g in range(4)])) > 1e-4


@pytest.mark.parametrize(
    ("labels", "strata", "sentence"),
    [
        ([1, 1, 1, 1], None, "all 4 labels are 1, expected at least two labels"),
        ([0, 1, 0, 1], [0, 1, 0, 1], "each of the 4 cells of group and stratum has one label"),
    ],
)
def test_what_cannot_be_shuffled_is_refused_in_a_sentence(labels, strata, sentence):
    with pytest.raises(ValueError, match=sentence):
        shuffle_labels(np.array(labels), [0, 0, 1, 1], seed=0, strata=strata)


def test_p_values_are_uniform_where_problems_confound():
    # Problems differ in content (x) and, in step with it, in how often the behavior occurs.
    # Inside a problem nothing is related, which is what the null says.
    r = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 6)
    p = []
    for run in range(200):
        content = r.normal(size=30)[groups]
        y = r.random(180) < 1 / (1 + np.exp(-2 * content))
        x = content + 0.5 * r.normal(size=180)
        nulls = [shuffle_labels(y, groups, 100 * run + i) for i in range(39)]
        statistics = [x[labels].mean() - x[~labels].mean() for labels in [y, *nulls]]
        p.append(permutation_p_value(float(statistics[0]), np.array(statistics[1:])))
    assert np.mean(np.array(p) <= 0.05) <= 0.08
    jitter = np.array(p) - r.random(200) / 40  # p is uniform on 1/40, 2/40, ..., 1
    assert p_value(stats.kstest(jitter, "uniform")) > 1e-3
