"""AUROC and calibration against scikit-learn and slow loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from probes import (
    auroc,
    auroc_bootstrap,
    expected_calibration_error,
    paired_auroc_bootstrap,
)
from probes.inference import bootstrap_weights


@given(seed=st.integers(0, 10**6), levels=st.integers(1, 30), n=st.integers(2, 60))
@settings(deadline=None, max_examples=60)
def test_weighted_auroc_with_ties_is_that_of_scikit_learn(seed, levels, n):
    r = np.random.default_rng(seed)
    scores = r.integers(levels, size=n) / 7
    y = r.random(n) < 0.4
    y[:2] = [True, False]
    weights = r.integers(4, size=n).astype(float)
    weights[:2] = 1
    expected = roc_auc_score(y, scores, sample_weight=weights)
    assert auroc(scores, y, weights) == pytest.approx(expected)
    assert auroc(scores, y) == pytest.approx(roc_auc_score(y, scores))


def test_auroc_interval_is_that_of_a_slow_resampling_loop():
    r = np.random.default_rng(0)
    groups = r.integers(12, size=60)
    y = r.random(60) < 0.4
    scores = np.round(y + r.normal(size=12)[groups] + r.normal(size=60), 1)
    found = auroc_bootstrap(scores, y, groups, n_boot=1500, level=0.8, seed=1)
    slow = []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in r.integers(12, size=12)])
        slow.append(roc_auc_score(y[rows], scores[rows]))
    expected = np.quantile(slow, [0.1, 0.9])
    tolerance = 0.12 * np.ptp(expected)
    assert found.value == pytest.approx(roc_auc_score(y, scores))
    assert abs(found.ci.low - expected[0]) < tolerance
    assert abs(found.ci.high - expected[1]) < tolerance


def test_resamples_done_in_blocks_are_all_there():
    r = np.random.default_rng(1)
    n = 20_000  # of which 200 resamples fit a block
    groups, y, scores = r.integers(30, size=n), r.random(n) < 0.2, r.integers(9, size=n) / 8
    found = auroc_bootstrap(scores, y, groups, n_boot=350, level=0.5, seed=2)
    weights = bootstrap_weights(30, 350, seed=2)
    slow = [roc_auc_score(y, scores, sample_weight=w[groups]) for w in weights]
    assert (found.ci.low, found.ci.high) == pytest.approx(
        tuple(np.quantile(slow, [0.25, 0.75], method="inverted_cdf"))
    )


def test_auroc_interval_over_problems_covers():
    covered = 0
    for seed in range(200):
        r = np.random.default_rng(seed)
        groups = np.repeat(np.arange(50), 6)
        y = r.random(300) < r.beta(2, 3, size=50)[groups]
        scores = r.normal(size=50)[groups] + r.normal(size=300)  # unrelated to y
        covered += 0.5 in auroc_bootstrap(scores, y, groups, n_boot=300, seed=seed).ci
    assert 0.89 <= covered / 200 <= 0.99


def test_a_class_in_too_few_groups_is_refused():
    y = np.arange(40) < 2
    with pytest.raises(ValueError, match="resamples leave the statistic undefined"):
        auroc_bootstrap(np.arange(40.0), y, np.arange(40) // 2)


def test_one_class_and_nan_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="y holds 3 positives of 3 rows, expected both classes"):
        auroc(np.ones(3), np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="scores holds 1 NaN or infinite values out of 2"):
        auroc(np.array([np.nan, 1]), np.array([True, False]))
    with pytest.raises(ValueError, match="probabilities run from 0.5 to 1.5"):
        expected_calibration_error(np.array([0.5, 1.5]), np.array([True, False]))


@given(seed=st.integers(0, 10**6), n_bins=st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_calibration_error_of_distinct_probabilities_is_that_of_equal_bins(seed, n_bins):
    r = np.random.default_rng(seed)
    p = r.random(n_bins * 7)
    y = r.random(len(p)) < p**2
    bins = np.array_split(np.argsort(p), n_bins)
    expected = np.mean([abs(p[b].mean() - y[b].mean()) for b in bins])
    assert expected_calibration_error(p, y, n_bins) == pytest.approx(expected)


def test_calibration_error_sees_no_order_among_ties():
    p = np.full(1000, 0.3)
    y = np.arange(1000) < 300  # sorted: bins that split the tie would hold 0% or 100%
    assert expected_calibration_error(p, y) == pytest.approx(0)
    assert expected_calibration_error(p, ~y) == pytest.approx(0.4)


def test_calibration_error_vanishes_for_true_probabilities():
    r = np.random.default_rng(2)
    p = r.random(20_000)
    assert expected_calibration_error(p, r.random(20_000) < p) < 0.015


def test_paired_difference_of_aurocs_equals_a_slow_resampling_loop():
    draws = np.random.default_rng(4)
    groups = np.repeat(np.arange(12), 5)
    y = draws.random(60) < 0.5
    a, b = draws.normal(size=60) + y, draws.normal(size=60) + 0.4 * y
    found = paired_auroc_bootstrap(a, b, y, groups, n_boot=150, seed=3)
    samples = []
    for weights in bootstrap_weights(12, 150, 3):
        rows = np.repeat(np.arange(60), weights[groups].astype(int))
        samples.append(roc_auc_score(y[rows], a[rows]) - roc_auc_score(y[rows], b[rows]))
    low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
    assert found.value == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b))
    assert (found.ci.low, found.ci.high) == (pytest.approx(low), pytest.approx(high))
    assert paired_auroc_bootstrap(a, a, y, groups).value == 0
