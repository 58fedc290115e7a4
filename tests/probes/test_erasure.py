"""Erasure: no linear probe finds anything afterwards, and nothing else moves more than it has to."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from probes import leace, removal


def planted(seed=0, n=2000, d=12):
    draws = np.random.default_rng(seed)
    y = draws.random(n) < 0.4
    mix = draws.normal(size=(d, d))
    x = draws.normal(size=(n, d)) @ mix
    x[:, :3] += 2.0 * y[:, None]
    return x, y


def test_no_linear_probe_is_left_and_the_class_means_agree():
    x, y = planted()
    before = roc_auc_score(y, LogisticRegression().fit(x, y).decision_function(x))
    erased = leace(x, y, ridge=0.0)(x)
    np.testing.assert_allclose(erased[y].mean(0), erased[~y].mean(0), atol=1e-9)
    probe = LogisticRegression(C=1e6, max_iter=2000).fit(erased, y)
    assert before > 0.8
    assert roc_auc_score(y, probe.decision_function(erased)) < 0.51


def test_no_projection_that_erases_moves_less():
    x, y = planted()
    eraser = leace(x, y, ridge=0.0)
    moved = np.sum((eraser(x) - x) ** 2)
    d = x[y].mean(0) - x[~y].mean(0)
    for read in np.random.default_rng(1).normal(size=(50, len(d))):
        other = np.outer((x - x.mean(0)) @ (read / (d @ read)), d)
        assert moved <= np.sum(other**2) * (1 + 1e-9)


def test_removing_one_direction_of_two_leaves_a_probe_and_removing_both_leaves_none():
    draws = np.random.default_rng(0)
    y = draws.random(4000) < 0.5
    x = draws.normal(size=(4000, 8))
    x[:, 0] += 1.5 * y
    x[:, 1] += 1.5 * y
    train, test = slice(0, 2000), slice(2000, None)
    found = removal(x[train], y[train], x[test], y[test], 3, 5 * np.eye(8)[0])
    curve = found.auroc
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(3), atol=1e-9)
    assert abs(found.directions[1][1]) > 0.99
    assert curve[0] > 0.9 and 0.8 < curve[1] < 0.9 and curve[2] < 0.6
    random = removal(x[train], y[train], x[test], y[test], 1, np.eye(8)[5]).auroc
    assert random[1] == pytest.approx(random[0], abs=0.01)


def test_one_class_has_nothing_to_erase():
    with pytest.raises(ValueError, match="one class"):
        leace(np.ones((4, 2)), np.array([True] * 4))
