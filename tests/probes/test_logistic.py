"""Batched logistic probes against scikit-learn's, fit by fit."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from probes import LogisticProbe, logistic_sweep


def made(n=400, d=20, n_layers=2, seed=0, dtype=np.float32):
    """Dimensions of very different spread and offset; a rare behavior, a common one, and noise."""
    r = np.random.default_rng(seed)
    x = r.standard_t(4, size=(n_layers, n, d)) @ r.normal(size=(d, d)) * r.uniform(0.01, 30, size=d)
    x[:, :, 0] += 1000
    score = x[0] / x[0].std(0) @ r.normal(size=(d, 3)) / 3 + r.logistic(size=(n, 3))
    score[:, 2] = r.normal(size=n)
    y = score > [np.quantile(score[:, b], 1 - rate) for b, rate in enumerate((0.05, 0.5, 0.3))]
    return x.astype(dtype), y, np.arange(n) % 4


def oracle(x, y, out, C=1.0, tol=1e-10):
    """The converged fit of one layer and behavior without some rows: direction and scores of those rows."""
    scaler = StandardScaler().fit(x[~out].astype(np.float64))
    probe = LogisticRegression(C=C, tol=tol, max_iter=100_000, solver="newton-cholesky")
    probe.fit(scaler.transform(x[~out].astype(np.float64)), y[~out])
    return probe.coef_[0] / scaler.scale_, probe.decision_function(scaler.transform(x[out]))


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_fit_reaches_scikit_learns_optimum(C, dtype):
    x, y, folds = made(dtype=dtype)
    found = logistic_sweep(x, y, folds, C=C, tol=1e-12)
    for layer, b, k in np.ndindex(2, 3, 4):
        out = folds == k
        direction, scores = oracle(x[layer], y[:, b], out, C)
        spread = x[layer].std(0)  # compared where one unit is one standard deviation
        error = np.linalg.norm((found.directions[layer, b, k] - direction) * spread)
        assert error < 1e-3 * np.linalg.norm(direction * spread)
        np.testing.assert_allclose(found.scores[layer, b, out], scores, atol=5e-3)
        raw = (
            x[layer][out].astype(float) @ found.directions[layer, b, k]
            + found.intercepts[layer, b, k]
        )
        np.testing.assert_allclose(raw, found.scores[layer, b, out], atol=2e-3)


def test_the_default_tolerance_moves_no_auroc_by_more_than_half_a_point():
    x, y, folds = made(n=1200, d=60)
    found = logistic_sweep(x, y, folds)
    for layer, b in np.ndindex(2, 3):
        scores = np.empty(len(y))
        for k in range(4):
            scores[folds == k] = oracle(x[layer], y[:, b], folds == k)[1]
        expected = roc_auc_score(y[:, b], scores)
        assert found.auroc[layer, b] == pytest.approx(expected, abs=0.005)
        assert found.auroc[layer, b] == pytest.approx(
            roc_auc_score(y[:, b], found.scores[layer, b])
        )


def test_a_fit_is_that_of_the_probe_in_memory():
    x, y, folds = made()
    found = logistic_sweep(x[:1], y[:, 1:2], folds, C=0.5, tol=1e-9)
    probe = LogisticProbe(C=0.5).fit(x[0][folds != 2], y[folds != 2, 1])
    spread = x[0].std(0)
    np.testing.assert_allclose(
        found.directions[0, 0, 2] * spread, probe.direction_ * spread, atol=2e-3
    )


def test_rows_of_a_fold_do_not_touch_the_probe_that_has_not_seen_it():
    x, y, folds = made(dtype=np.float64)
    found = logistic_sweep(x, y, folds, tol=1e-10)
    other = x.copy()
    other[:, folds == 1] = other[:, folds == 1][:, ::-1] * 3 + 1
    with warnings.catch_warnings():  # float32 leaves no curvature to learn from at such a tolerance
        warnings.simplefilter("error")
        logistic_sweep(other.astype(np.float32), y, folds, tol=1e-10)
        again = logistic_sweep(other, y, folds, tol=1e-10)
    spread = x.std(1)[:, None]
    np.testing.assert_allclose(
        again.directions[:, :, 1] * spread, found.directions[:, :, 1] * spread, atol=1e-3
    )
    assert np.abs((again.directions[:, :, 0] - found.directions[:, :, 0]) * spread).max() > 0.1


def test_constant_dimensions_and_huge_test_rows_change_nothing():
    x, y, folds = made()
    wider = np.concatenate(
        [x, np.full((2, 400, 1), 7.3, np.float32), np.zeros((2, 400, 1), np.float32)], 2
    )
    wider[:, folds == 0, -1] = 1e6  # constant but in the fold that is left out
    found, expected = (logistic_sweep(v, y, folds, tol=1e-9) for v in (wider, x))
    spread = x.std(1)[:, None]
    np.testing.assert_allclose(
        found.directions[:, :, 0, :-2] * spread, expected.directions[:, :, 0] * spread, atol=2e-3
    )
    np.testing.assert_allclose(found.directions[:, :, 0, -1] * 1e6, 0, atol=1e-3)


def test_separable_classes_have_a_finite_optimum():
    r = np.random.default_rng(0)
    x = r.normal(size=(1, 90, 3)).astype(np.float32)
    y = x[0, :, :1] > 0
    folds = np.arange(90) % 3
    found = logistic_sweep(x, y, folds, C=10.0, tol=1e-9)
    direction, _ = oracle(x[0], y[:, 0], folds == 0, 10.0)
    np.testing.assert_allclose(found.directions[0, 0, 0], direction, rtol=2e-3, atol=2e-3)
    assert found.auroc[0, 0] > 0.99


def test_a_generator_of_layers_gives_the_same_numbers_whatever_the_threads():
    x, y, folds = made(n_layers=5)
    threads = torch.get_num_threads()
    found = []
    for n in (1, 3):
        torch.set_num_threads(n)
        found.append(logistic_sweep((layer for layer in x), y, folds))
        assert torch.get_num_threads() == n
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(found[0].directions, found[1].directions)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_half_precision_is_fitted_in_float32():
    x, y, folds = made()
    half = torch.from_numpy(x).bfloat16()
    found, expected = (logistic_sweep(values, y, folds) for values in (half, half.float()))
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_fits_that_do_not_converge_are_told(monkeypatch):
    monkeypatch.setattr("probes.logistic.MAX_STEPS", 2)
    with pytest.warns(ConvergenceWarning, match="of 24 fits did not converge in 2 steps"):
        logistic_sweep(*made())
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logistic_sweep(*made())


def test_bad_input_is_refused_in_a_sentence():
    x, y, folds = made()
    with pytest.raises(ValueError, match="C is 0"):
        logistic_sweep(x, y, folds, C=0.0)
    with pytest.raises(ValueError, match="one fold"):
        logistic_sweep(x, y, folds * 0)
    with pytest.raises(ValueError, match="layer 0 of x has 399 rows and y has 400"):
        logistic_sweep((layer[1:] for layer in x), y, folds)
    y[:, 1] = False
    y[folds == 2, 1] = True
    with pytest.raises(ValueError, match="outside fold 2 show behavior 1 always or never"):
        logistic_sweep(x, y, folds)
    x[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="layer 1 of x holds 1 NaN"):
        logistic_sweep(x, y[:, ::2], folds)
