"""Batched ridge probes against scikit-learn's, layer by layer and fold by fold."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from probes import ridge_probes

ALPHAS = [0.1, 10.0, 1000.0]


def made(n=60, d=7, n_layers=3, seed=0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(n_layers, n, d)) * r.uniform(0.1, 5, size=d) + 20
    y = x[0] @ r.normal(size=(d, 2)) + r.normal(size=(n, 2)) > 0
    return x, y, r.integers(9, size=n)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 40)], ids=["tall", "wide"])
def test_every_layer_penalty_and_behavior_is_scikit_learns(n, d):
    x, y, groups = made(n, d)
    found = ridge_probes(x, y, ALPHAS, groups)
    for layer, a, b in np.ndindex(3, 3, 2):
        oracle = Ridge(alpha=ALPHAS[a]).fit(x[layer], y[:, b].astype(float))
        np.testing.assert_allclose(found.directions[layer, a, b], oracle.coef_, atol=1e-9)
        np.testing.assert_allclose(found.intercepts[layer, a, b], oracle.intercept_, atol=1e-8)


@pytest.mark.parametrize("n_groups", [2, 9, 60], ids=["halves", "problems", "rows"])
def test_scores_are_those_of_probes_fitted_without_the_group(n_groups):
    x, y, _ = made()
    groups = np.arange(60) % n_groups
    found = ridge_probes(x, y, ALPHAS, groups)
    for layer, a, b in np.ndindex(3, 3, 2):
        for g in range(n_groups):
            out = groups == g
            oracle = Ridge(alpha=ALPHAS[a]).fit(x[layer][~out], y[~out, b].astype(float))
            expected = oracle.predict(x[layer][out])
            np.testing.assert_allclose(found.scores[layer, a, b, out], expected, atol=1e-8)


def test_a_generator_of_half_precision_tensors_does_as_well_as_an_array():
    x, y, groups = made()
    half = torch.from_numpy(x).bfloat16()
    found = ridge_probes((layer for layer in half), y, ALPHAS, groups)
    expected = ridge_probes(half.double().numpy(), y, ALPHAS, groups)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-12)


def test_bad_input_is_refused_in_a_sentence():
    x, y, groups = made()
    with pytest.raises(ValueError, match="alphas are .*positive"):
        ridge_probes(x, y, [0.0], groups)
    with pytest.raises(ValueError, match="alphas are"):
        ridge_probes(x, y, [], groups)
    with pytest.raises(ValueError, match="one group"):
        ridge_probes(x, y, ALPHAS, np.zeros(60, int))
    with pytest.raises(ValueError, match="layer 0 of x has 59 rows and y has 60"):
        ridge_probes((layer[1:] for layer in x), y, ALPHAS, groups)
    with pytest.raises(ValueError, match="0 layers"):
        ridge_probes(x[:0], y, ALPHAS, groups)
    x[1, 3, 2] = np.inf
    x[1, 4, 2] = -np.inf
    with pytest.raises(ValueError, match="layer 1 of x holds 2 NaN or infinite values out of 420"):
        ridge_probes(x, y, ALPHAS, groups)
