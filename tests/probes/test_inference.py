"""Intervals and p-values against brute force, slow resampling loops, scipy and coverage."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from probes import (
    GapTooSmall,
    bootstrap_over_groups,
    estimate_effect,
    gap_recovery,
    holm,
    paired_bootstrap,
    paired_ratio_bootstrap,
    permutation_p_value,
    ratio_bootstrap,
    rng,
    simplest_near_best,
)


def clustered(n_groups, size, seed):
    """Rows that share most of their variance with their group; the true mean is 0."""
    r = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), size)
    return r.normal(size=n_groups)[groups] + 0.5 * r.normal(size=n_groups * size), groups


def test_cluster_bootstrap_covers_and_row_bootstrap_does_not():
    runs, cluster, rows = 300, 0, 0
    for seed in range(runs):
        values, groups = clustered(40, 8, seed)
        cluster += 0.0 in bootstrap_over_groups(values, groups, n_boot=400, seed=seed).ci
        every = np.arange(len(values))
        rows += 0.0 in bootstrap_over_groups(values, every, n_boot=200, seed=seed).ci
    assert 0.90 <= cluster / runs <= 0.98
    assert rows / runs < 0.70


def test_intervals_are_those_of_a_slow_resampling_loop():
    r = np.random.default_rng(1)
    groups = r.choice(["a", "b", "c", "d", "e", "f"], size=40)
    a, b = r.normal(size=40), r.random(40) < 0.3
    estimates = {
        "mean": bootstrap_over_groups(a, groups, n_boot=4000, level=0.8, seed=2),
        "difference": paired_bootstrap(a, b, groups, n_boot=4000, level=0.8, seed=2),
    }
    names = np.unique(groups)
    slow = {"mean": [], "difference": []}
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in r.choice(names, size=6)])
        slow["mean"].append(a[rows].mean())
        slow["difference"].append(a[rows].mean() - b[rows].mean())
    assert estimates["mean"].value == pytest.approx(a.mean())
    assert estimates["difference"].value == pytest.approx(a.mean() - b.mean())
    for name, estimate in estimates.items():
        expected = np.quantile(slow[name], [0.1, 0.9])
        tolerance = 0.06 * np.ptp(expected)  # of two sets of 4000 resamples
        assert abs(estimate.ci.low - expected[0]) < tolerance
        assert abs(estimate.ci.high - expected[1]) < tolerance


def test_ratio_bootstrap_is_the_bootstrap_of_its_rows():
    r = np.random.default_rng(3)
    trials = r.integers(1, 9, size=20)
    hits = r.binomial(trials, 0.4)
    groups = np.repeat(np.arange(20), trials)
    rows = np.concatenate([np.arange(n) < k for n, k in zip(trials, hits, strict=True)])
    assert ratio_bootstrap(hits, trials, seed=4) == bootstrap_over_groups(rows, groups, seed=4)


def test_pairing_removes_what_the_arms_share():
    r = np.random.default_rng(5)
    trials = r.integers(5, 9, size=30)
    hits = r.binomial(trials, r.random(30))
    same = paired_ratio_bootstrap(hits, trials, hits, trials)
    assert (same.value, same.ci.low, same.ci.high) == (0, 0, 0)
    # One more trial and hit in each group moves both rates in every resample, but together.
    shifted = paired_ratio_bootstrap(hits + trials, trials, hits, trials)
    assert (shifted.value, shifted.ci.low, shifted.ci.high) == pytest.approx((1, 1, 1))


def test_groups_without_trials_are_allowed_until_resamples_lack_trials():
    hits, trials = np.zeros(20), np.zeros(20)
    trials[:10], hits[:10] = 4, 1
    assert ratio_bootstrap(hits, trials).value == 0.25
    trials[1:] = hits[1:] = 0
    with pytest.raises(ValueError, match="of 2000 resamples leave the statistic undefined"):
        ratio_bootstrap(hits, trials)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap_over_groups(np.ones(3), ["a"] * 3), "there is 1 group, expected at"),
        (lambda: bootstrap_over_groups(np.array([1, np.nan]), [0, 1]), "1 NaN or infinite"),
        (lambda: bootstrap_over_groups(np.array([]), []), "expected the same number, at least 1"),
        (lambda: ratio_bootstrap(np.ones(2), np.zeros(2)), "denominators run from 0.0 with sum 0"),
        (lambda: ratio_bootstrap(np.ones(2), np.array([-1, 3])), "denominators run from -1.0"),
        (lambda: permutation_p_value(np.nan, np.ones(3)), "observed is nan"),
        (lambda: permutation_p_value(0.0, np.ones(3), "more"), "alternative is 'more'"),
        (lambda: permutation_p_value(0.0, np.ones(0)), "null has 0 rows"),
        (lambda: holm(np.array([0.1, 1.2])), "p_values run from 0.1 to 1.2"),
        (lambda: gap_recovery(*np.full((3, 9), 2.0)), r"base runs from 2.0 to 2.0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@given(
    seed=st.integers(0, 10**6),
    alternative=st.sampled_from(["greater", "less", "two-sided"]),
)
@settings(deadline=None, max_examples=40)
def test_p_values_are_those_of_scipy_ties_included(seed, alternative):
    r = np.random.default_rng(seed)
    null = r.integers(6, size=19).astype(float)
    observed = float(r.integers(-1, 7))
    oracle = stats.monte_carlo_test(
        [observed],
        rvs=lambda size: null[:, None],
        statistic=lambda x, axis: np.take(x, 0, axis=axis),
        n_resamples=19,
        alternative=alternative,
    )
    assert permutation_p_value(observed, null, alternative) == pytest.approx(oracle.pvalue)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_p_values_of_exchangeable_draws_never_fall_short(alternative):
    draws = np.random.default_rng(6).normal(size=100)
    draws[:10] = draws[0]
    p = np.array(
        [permutation_p_value(draws[i], np.delete(draws, i), alternative) for i in range(100)]
    )
    assert p.min() > 0
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level


def test_rounding_does_not_break_a_tie():
    assert permutation_p_value(0.3, np.array([0.1 + 0.2, 0.0, 0.0])) == 0.5
    assert permutation_p_value(0.1 + 0.2, np.array([0.3, 0.0, 0.0])) == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_holm_is_the_closure_of_bonferroni(p):
    n = len(p)
    subsets = [s for k in range(1, n + 1) for s in combinations(range(n), k)]
    expected = [
        max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in range(n)
    ]
    np.testing.assert_allclose(holm(np.array(p)), expected)


def test_holm_keeps_the_family_wise_error_rate():
    r = np.random.default_rng(7)
    wrong = [holm(r.random(10)).min() <= 0.05 for _ in range(2000)]
    assert np.mean(wrong) < 0.065


def accuracies(base, hybrid, thinking, n=200):
    return [(np.arange(n) < round(share * n)) for share in (base, hybrid, thinking)]


@pytest.mark.parametrize(
    ("hybrid", "recovery"), [(0.2, 0.0), (0.65, 0.75), (0.1, -1 / 6), (0.9, 7 / 6), (0.8, 1.0)]
)
def test_gap_recovery_is_signed_and_not_clipped(hybrid, recovery):
    found = gap_recovery(*accuracies(0.2, hybrid, 0.8))
    assert (found.base, found.hybrid, found.thinking) == pytest.approx((0.2, hybrid, 0.8))
    assert found.gap.value == pytest.approx(0.6)
    assert found.recovery.value == pytest.approx(recovery)
    assert found.recovery.ci.low <= found.recovery.value <= found.recovery.ci.high
    if recovery in (0.0, 1.0):  # equal problem by problem, so equal in every resample
        assert found.recovery.ci.low == pytest.approx(recovery)
        assert found.recovery.ci.high == pytest.approx(recovery)


@pytest.mark.parametrize(
    ("base", "thinking", "n"),
    [(0.50, 0.54, 5000), (0.5, 0.5, 100), (0.8, 0.2, 100), (0.4, 0.6, 5)],
)
def test_gap_recovery_is_refused_where_the_gap_is_small_or_spans_zero(base, thinking, n):
    with pytest.raises(GapTooSmall, match="gap too small: thinking minus base is") as refusal:
        gap_recovery(*accuracies(base, 0.5, thinking, n))
    assert refusal.value.gap.value == pytest.approx(thinking - base)


def test_gap_recovery_interval_covers_also_where_the_gap_is_barely_there():
    r = np.random.default_rng(8)
    covered = total = 0
    for seed in range(300):
        difficulty = r.random(60)
        base, hybrid, thinking = (
            r.random(60) < np.clip(0.5 + s - 0.6 * (difficulty - 0.5), 0, 1)
            for s in (-0.15, 0.0, 0.15)
        )
        try:
            found = gap_recovery(base, hybrid, thinking, n_boot=400, seed=seed)
        except GapTooSmall:
            continue
        total += 1
        covered += 0.5 in found.recovery.ci
        assert np.isfinite([found.recovery.ci.low, found.recovery.ci.high]).all()
    assert total > 150
    assert 0.90 <= covered / total <= 0.99


def test_resamples_without_a_gap_count_as_infinite_recovery():
    # The gain is 0.25 on every problem, so recovery is 0.25 / gap, decreasing in the gap; at
    # this level a fifth of the resamples may have no gap and belong at its upper end.
    thinking = np.random.default_rng(9).beta(0.4, 0.7, size=12)
    base = np.full(12, thinking.mean() - 0.11)
    found = gap_recovery(base, base + 0.25, thinking, n_boot=999, level=0.5)
    assert found.gap.ci.low < 0.05  # many resamples fall below 0
    assert found.recovery.ci.low == pytest.approx(0.25 / found.gap.ci.high, rel=0.02)
    assert found.recovery.ci.high == pytest.approx(0.25 / found.gap.ci.low, rel=0.02)


def test_effects_stand_beside_their_null():
    trials = np.full(50, 10)
    null = np.linspace(-0.1, 0.1, 199)
    up = estimate_effect(np.full(50, 2), trials, np.full(50, 5), trials, null)
    assert (up.baseline_rate, up.steered_rate, up.effect) == pytest.approx((0.2, 0.5, 0.3))
    assert (up.ci.low, up.ci.high, up.ci.level) == pytest.approx((0.3, 0.3, 0.95))
    assert (up.p_value, up.n_null) == (1 / 200, 199)
    assert up.null_q95 == pytest.approx(0.09)
    down = estimate_effect(np.full(50, 5), trials, np.full(50, 2), trials, null, alternative="less")
    assert (down.effect, down.null_q95) == pytest.approx((-0.3, -0.09))
    assert down.p_value == 1 / 200
    both = estimate_effect(
        np.full(50, 5), trials, np.full(50, 5), trials, null, alternative="two-sided"
    )
    assert (both.p_value, both.null_q95) == pytest.approx((1, 0.095), abs=1e-3)


def test_named_streams_differ_and_repeat():
    def draw(*names):
        return rng(0, *names).random()

    assert draw("a", 1) == draw("a", 1)
    assert len({draw("a", 1), draw("a", 2), draw("b", 1), draw("a"), draw("a:1"), draw()}) == 6
    assert rng(1, "a").random() != rng(2, "a").random()


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(deadline=None, max_examples=20)
def test_intervals_follow_a_change_of_units(seed, scale, shift):
    values, groups = clustered(10, 3, seed)
    assume(len(set(values)) > 1)
    plain = bootstrap_over_groups(values, groups, n_boot=200)
    changed = bootstrap_over_groups(values * scale + shift, groups, n_boot=200)
    assert changed.ci.low == pytest.approx(plain.ci.low * scale + shift)
    assert changed.ci.high == pytest.approx(plain.ci.high * scale + shift)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([0.50, 0.52, 0.60, 0.59], 2),  # the best is far above all simpler ones
        ([0.575, 0.50, 0.60, 0.59], 0),  # the simplest is within the best's error
        ([0.50, 0.585, 0.60, 0.59], 1),
        ([0.60, 0.60, 0.60, 0.60], 0),
        ([0.50, 0.59, 0.58, 0.62], 3),  # the error that counts is the best's own
    ],
)
def test_the_simplest_within_one_standard_error_of_the_best_is_chosen(scores, chosen):
    assert simplest_near_best(scores, [0.5, 0.5, 0.03, 0.02]) == chosen
