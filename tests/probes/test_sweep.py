"""The sweep finds what was planted, and nothing where nothing was."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from probes import (
    LogisticProbe,
    MeanDifference,
    cosine_with_ci,
    grouped_folds,
    shuffle_labels,
    sweep,
)


def segments(n_groups, size, d_model, seed):
    """Labels, problems, and activations that know the problem but not the label."""
    r = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), size)
    x = r.normal(size=(n_groups, d_model))[groups] + r.normal(size=(len(groups), d_model))
    return x, r.random(len(groups)) < 0.25, groups


def test_the_planted_cell_is_best_and_its_score_is_that_of_cross_validation():
    x, y, groups = segments(60, 8, 12, seed=0)
    names = np.array([f"problem {g}" for g in groups])
    signal = y[:, None] * np.eye(12)[0]
    activations = {
        ("before", 0): x,
        ("before", 1): x + 1.0 * signal,
        ("first", 1): x + 2.5 * signal,
        ("last", 2): torch.tensor(x + 0.5 * signal, dtype=torch.float32),
    }
    probe = LogisticProbe(C=0.1)
    result = sweep(activations, y, names, probe, seed=3)
    assert [(cell.read, cell.layer) for cell in result.cells] == list(activations)
    assert (result.best().read, result.best().layer) == ("first", 1)
    assert (result.n_rows, result.n_groups, result.n_folds) == (480, 60, 5)
    assert result.estimator == "LogisticProbe(C=0.1)"
    split = PredefinedSplit(grouped_folds(names, y, 5, seed=3))
    for cell, values in zip(result.cells, activations.values(), strict=True):
        scores = cross_val_predict(probe, values, y, cv=split, method="decision_function")
        assert cell.auroc == pytest.approx(roc_auc_score(y, scores))
        assert cell.auroc_ci.low < cell.auroc < cell.auroc_ci.high
        assert 0 <= cell.ece < 0.15
    best = result.best()
    assert best.selectivity > 0.3
    with pytest.raises(dataclasses.FrozenInstanceError):
        best.auroc = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_on_shuffled_labels_intervals_cover_one_half_and_nothing_is_selective():
    covered, selectivity = [], []
    for seed in range(15):
        x, y, groups = segments(50, 6, 10, seed)
        x[:, 0] += 3 * y  # there before shuffling
        labels = shuffle_labels(y, groups, seed)
        cells = {("before", layer): x[:, layer::5] for layer in range(5)}
        result = sweep(cells, labels, groups, MeanDifference(), n_boot=200, seed=seed)
        covered += [0.5 in cell.auroc_ci for cell in result.cells]
        selectivity += [cell.selectivity for cell in result.cells]
    assert np.mean(covered) >= 0.88
    assert abs(np.mean(selectivity)) < 0.03


def test_labels_of_whole_problems_are_swept_too():
    x, _, groups = segments(40, 5, 6, seed=1)
    y = groups % 2 == 0
    cell = sweep({("last", 0): x + 3 * y[:, None]}, y, groups, MeanDifference()).best()
    assert cell.auroc > 0.9
    assert cell.selectivity > 0.2


def test_bad_activations_are_refused_naming_the_cell():
    x, y, groups = segments(20, 5, 4, seed=2)
    broken = x.copy()
    broken[3, 1], broken[4, 2] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"cell \('last', 7\) holds 2 NaN or infinite values"):
        sweep({("last", 0): x, ("last", 7): broken}, y, groups, MeanDifference())
    with pytest.raises(ValueError, match="activations hold 0 cells"):
        sweep({}, y, groups, MeanDifference())
    with pytest.raises(ValueError, match="y holds one class, False"):
        sweep({("last", 0): x}, y & ~y, groups, MeanDifference())


def models(r, true_cosine, shared, n_groups=80, d_model=60):
    """Two models' activations on the same rows, sharing noise, with a known cosine."""
    groups = np.repeat(np.arange(n_groups), 8)
    y = r.random(len(groups)) < 0.25
    u, v = np.linalg.qr(r.normal(size=(d_model, 2)))[0].T
    noise = [
        r.normal(size=(len(groups), d_model)) + 0.5 * r.normal(size=(n_groups, d_model))[groups]
        for _ in range(2)
    ]
    a = noise[0] + 1.2 * y[:, None] * u
    other = true_cosine * u + np.sqrt(1 - true_cosine**2) * v
    b = shared * noise[0] + np.sqrt(1 - shared**2) * noise[1] + 1.2 * y[:, None] * other
    return a, b, y, groups


@pytest.mark.parametrize(("true_cosine", "shared"), [(0.9, 0.0), (0.3, 0.9), (0.0, 0.5)])
def test_corrected_cosine_is_unbiased_and_covered_where_the_plain_one_is_not(true_cosine, shared):
    r = np.random.default_rng(4)
    corrected, plain, covered = [], [], []
    for seed in range(60):
        found = cosine_with_ci(*models(r, true_cosine, shared), n_boot=200, seed=seed)
        corrected.append(found.corrected)
        plain.append(found.plain)
        covered.append(true_cosine in found.ci)
    assert abs(np.mean(corrected) - true_cosine) < 0.04
    assert np.mean(covered) > 0.9
    if true_cosine:
        assert abs(np.mean(plain) - true_cosine) > 0.1


def test_plain_cosine_is_that_of_the_fitted_directions():
    a, b, y, groups = models(np.random.default_rng(5), 0.5, 0.5)
    left, right = (MeanDifference().fit(x, y).direction_ for x in (a, b))
    expected = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    found = cosine_with_ci(torch.tensor(a), b + 1000.0, y, groups.astype(str), n_boot=50)
    assert found.plain == pytest.approx(expected)


def test_cosine_interval_is_over_groups():
    # Rows repeated inside their groups add no information: same estimate, same interval.
    a, b, y, groups = models(np.random.default_rng(6), 0.5, 0.5, d_model=20)
    thrice = np.repeat(np.arange(len(y)), 3)
    once = cosine_with_ci(a, b, y, groups, n_boot=100)
    again = cosine_with_ci(a[thrice], b[thrice], y[thrice], groups[thrice], n_boot=100)
    assert again.corrected == pytest.approx(once.corrected)
    assert again.ci.low == pytest.approx(once.ci.low)
    assert again.ci.high == pytest.approx(once.ci.high)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_agrees_with_itself(sign):
    a, _, y, groups = models(np.random.default_rng(7), 0.5, 0.5, d_model=10)
    found = cosine_with_ci(a, sign * 2 * a, y, groups, n_boot=50)
    assert (found.plain, found.corrected) == pytest.approx((sign, sign))
    assert (found.ci.low, found.ci.high) == pytest.approx((sign, sign))


def test_cosine_of_noise_is_refused_in_a_sentence():
    r = np.random.default_rng(8)
    x = r.normal(size=(200, 500))
    y = r.random(200) < 0.3
    with pytest.raises(ValueError, match="squared lengths 0 and .* noise explains 0 and"):
        cosine_with_ci(x * 0, x, y, np.arange(200) // 4)
    with pytest.raises(ValueError, match="of which sampling noise|statistic undefined"):
        cosine_with_ci(x, x[::-1], y, np.arange(200) // 4)
    with pytest.raises(ValueError, match="Xa is 500 wide and Xb is 499"):
        cosine_with_ci(x, x[:, 1:], y, np.arange(200) // 4)
    with pytest.raises(ValueError, match="y holds 0 positives of 200 rows"):
        cosine_with_ci(x, x, y & ~y, np.arange(200))


def test_probes_stand_without_the_rest_of_the_project():
    code = "import sys, probes; print({'interp', 'figures', 'transformer_lens'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
