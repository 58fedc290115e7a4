"""Linear probes against scikit-learn, closed forms of Gaussian models, and a slow reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from probes import LogisticProbe, MeanDifference, WhitenedMeanDifference

PROBES = [
    MeanDifference(),
    MeanDifference(contrast="overall"),
    WhitenedMeanDifference(),
    LogisticProbe(),
]


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_conforms_to_scikit_learn(probe):
    check_estimator(probe, on_skip=None)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def gaussian(n, mean, covariance, share, seed):
    """Two Gaussian classes that differ by `mean`, with a share of positives."""
    r = np.random.default_rng(seed)
    y = r.random(n) < share
    x = r.multivariate_normal(np.zeros(len(mean)), covariance, size=n)
    return x + y[:, None] * mean, y


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_planted_directions_are_recovered(shift):
    r = np.random.default_rng(0)
    a = r.normal(size=(20, 20))
    covariance = a @ a.T / 20 + 0.1 * np.eye(20)
    mean = r.normal(size=20) * 0.7
    x, y = gaussian(4000, mean, covariance, 0.3, seed=1)
    x = x + shift  # residual streams are far from the origin
    optimal = np.linalg.solve(covariance, mean)
    assert cosine(mean, optimal) < 0.8  # else the two kinds could not be told apart
    assert cosine(MeanDifference().fit(x, y).direction_, mean) > 0.98
    assert cosine(WhitenedMeanDifference().fit(x, y).direction_, optimal) > 0.95
    assert cosine(LogisticProbe().fit(x, y).direction_, optimal) > 0.95


@given(seed=st.integers(0, 10**6), n=st.integers(2, 40))
@settings(deadline=None, max_examples=30)
def test_mean_difference_keeps_the_raw_norm_of_the_difference_of_means(seed, n):
    r = np.random.default_rng(seed)
    x, y = r.normal(size=(n, 3)) * 10, np.arange(n) % 3 == 0
    rows = {True: [], False: []}
    for row, positive in zip(x.tolist(), y.tolist(), strict=True):
        rows[positive].append(row)
    positive, negative, everything = (
        [sum(column) / len(group) for column in zip(*group, strict=True)]
        for group in (rows[True], rows[False], rows[True] + rows[False])
    )
    rest = MeanDifference().fit(x, y).direction_
    overall = MeanDifference(contrast="overall").fit(x, y).direction_
    np.testing.assert_allclose(rest, np.subtract(positive, negative), atol=1e-9)
    np.testing.assert_allclose(overall, np.subtract(positive, everything), atol=1e-9)


@pytest.mark.parametrize("shrinkage", ["auto", 0.3])
def test_whitened_mean_difference_is_the_eigenvector_of_linear_discriminant_analysis(shrinkage):
    x, y = gaussian(60, np.ones(8) / 2, np.diag(np.arange(1.0, 9.0)), 0.4, seed=2)
    oracle = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage).fit(x, y)
    probe = WhitenedMeanDifference(shrinkage=shrinkage).fit(x, y)
    assert cosine(probe.direction_, oracle.coef_[0]) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(probe.predict_proba(x), oracle.predict_proba(x), atol=1e-9)


def test_logistic_probe_in_raw_coordinates_is_the_standardized_regression():
    x, y = gaussian(500, np.ones(6) / 2, np.diag([1e-4, 1, 9, 100, 1, 1e4]), 0.4, seed=3)
    x = x + 50
    newton = LogisticRegression(solver="newton-cholesky", tol=1e-10, C=0.1)
    oracle = make_pipeline(StandardScaler(), newton).fit(x, y)
    probe = LogisticProbe(C=0.1).fit(x, y)
    np.testing.assert_allclose(probe.decision_function(x), oracle.decision_function(x), atol=2e-3)


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_probabilities_are_the_posterior_of_a_gaussian_model(probe):
    mean = np.array([1.5, -1.0, 0.5])
    x, y = gaussian(6000, mean, np.eye(3), 0.1, seed=4)
    posterior = expit(x @ mean - mean @ mean / 2 + np.log(0.1 / 0.9))
    found = probe.fit(x, y).predict_proba(x)[:, 1]
    assert np.abs(found - posterior).mean() < 0.015


def test_classes_with_equal_means_get_the_base_rate():
    x = np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0], [-1.0]])
    y = np.array([1, 1, 0, 0, 0, 0])
    probe = MeanDifference().fit(x, y)
    np.testing.assert_allclose(probe.direction_, 0, atol=1e-15)
    np.testing.assert_allclose(probe.predict_proba(x)[:, 1], 3 / 8)  # (2 + 1) / (6 + 2)


def matched_by_hand(x, y, strata, contrast):
    total, positives = np.zeros(x.shape[1]), 0
    for s in set(strata.tolist()):
        inside = strata == s
        if y[inside].any() and not y[inside].all():
            other = x[inside & ~y] if contrast == "rest" else x[inside]
            n = int(y[inside].sum())
            total += n * (x[inside & y].mean(0) - other.mean(0))
            positives += n
    return total / positives


@given(seed=st.integers(0, 10**6), contrast=st.sampled_from(["rest", "overall"]))
@settings(deadline=None, max_examples=30)
def test_matched_contrast_averages_strata_by_positives(seed, contrast):
    r = np.random.default_rng(seed)
    strata = r.integers(6, size=60)
    y = r.random(60) < strata / 6  # stratum 0 has no positives
    y[:2], strata[:2] = [True, False], 3
    x = r.normal(size=(60, 4)) + strata[:, None]
    probe = MeanDifference(contrast=contrast).fit(x, y, strata=strata)
    expected = matched_by_hand(x, y, strata, contrast)
    np.testing.assert_allclose(probe.direction_, expected, atol=1e-12)
    # What is added to every row of a stratum does not matter.
    moved = x + r.normal(size=(6, 4))[strata] * 10
    again = MeanDifference(contrast=contrast).fit(moved, y, strata=strata)
    np.testing.assert_allclose(again.direction_, expected, atol=1e-12)


@pytest.mark.parametrize("contrast", ["rest", "overall"])
def test_matched_contrast_kills_a_planted_stratum_effect(contrast):
    r = np.random.default_rng(5)
    strata = r.choice(["early", "middle", "late"], size=3000)
    place = np.select([strata == "early", strata == "middle"], [0, 1], 2)
    y = r.random(3000) < np.array([0.6, 0.3, 0.1])[place]
    where, sought = np.eye(10)[0] * 5 + np.eye(10)[1] * 3, np.eye(10)[1]
    x = r.normal(size=(3000, 10)) + place[:, None] * where + y[:, None] * sought
    plain = MeanDifference(contrast=contrast).fit(x, y)
    matched = MeanDifference(contrast=contrast).fit(x, y, strata=strata)
    assert cosine(plain.direction_, where) < -0.9  # late in the trace, and so without behavior
    assert cosine(matched.direction_, sought) > 0.95
    # Overall, rows far along the direction are the late ones and seldom positive (Simpson's
    # paradox). Calibration inside strata keeps more of the direction likelier.
    assert x[y].mean(0) @ matched.direction_ < x[~y].mean(0) @ matched.direction_
    weight = np.zeros(3000)
    for s in set(strata.tolist()):
        inside = strata == s
        share = y[inside].sum() * (1 if contrast == "rest" else (~y[inside]).mean())
        weight[inside & y] = share / y[inside].sum() * y.sum()
        weight[inside & ~y] = share / (~y[inside]).sum() * (~y).sum()
    z = (x @ matched.direction_)[:, None]
    oracle = LogisticRegression(C=1e9, tol=1e-8).fit(z, y, sample_weight=weight / weight.mean())
    found, expected = matched.predict_proba(x), oracle.predict_proba(z)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.corrcoef(z[:, 0], found[:, 1])[0, 1] > 0.9


def test_separable_classes_keep_finite_probabilities():
    x = np.array([[0.0], [0.0], [0.0], [1.0], [1.0]])
    probe = MeanDifference().fit(x, [0, 0, 0, 1, 1])
    # Platt's targets, (2 + 1) / (2 + 2) and 1 / (3 + 2), are met exactly.
    np.testing.assert_allclose(probe.predict_proba(x)[:, 1], [0.2, 0.2, 0.2, 0.75, 0.75])


@pytest.mark.parametrize(
    ("arguments", "y", "strata", "sentence"),
    [
        ({"contrast": "all"}, [0, 1, 0, 1], None, "contrast is 'all', expected 'rest'"),
        ({}, [1, 1, 1, 1], None, "y holds one class"),
        ({}, [0, 1, 2, 1], None, "Only binary classification is supported"),
        ({}, [0, 1, 0, 1], list("abab"), "none of the 2 strata has both classes"),
        ({}, [0, 1, 0, 1], list("ab"), "strata has 2 rows and X has 4"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, y, strata, sentence):
    with pytest.raises(ValueError, match=sentence):
        MeanDifference(**arguments).fit(np.eye(4), y, strata=strata)
