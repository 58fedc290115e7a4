"""Labels that no direction can be read from are refused; what labels explain is all taken out of residuals."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from interp.activations import ActivationStore
from interp.errors import UserError
from interp.readings import READINGS, check_labels, residuals


def store(labels, previous=None, groups=None):
    n = len(labels)
    return ActivationStore(
        values={("h", "before"): torch.zeros(n, 2)},
        labels=np.array(labels),
        groups=np.array(groups or [str(i) for i in range(n)]),
        previous=np.array(previous or ["deduction"] * n),
        trace_index=np.arange(n),
        segment_index=np.zeros(n, int),
        model="m",
    )


def test_the_labels_of_a_behavior_are_found():
    labels = ["verification", "deduction"] * 6
    assert check_labels(store(labels), "verification").tolist() == [True, False] * 6


@pytest.mark.parametrize("groups", [None, ["a"] * 9 + ["b"] * 9], ids=["segments", "problems"])
def test_too_few_segments_or_problems_for_the_folds(groups):
    labels = ["verification"] * (4 if groups is None else 9) + ["deduction"] * 9
    with pytest.raises(UserError, match="verification, fewer than the 5 folds"):
        check_labels(store(labels, groups=groups), "verification")


def test_a_single_class():
    with pytest.raises(UserError, match="Every segment shows verification"):
        check_labels(store(["verification"] * 9), "verification")


def test_a_behavior_that_is_never_a_choice():
    labels = ["initializing", "deduction"] * 9
    previous = ["start", "initializing"] * 9
    with pytest.raises(UserError, match="initializing never stands where another behavior might"):
        check_labels(store(labels, previous), "initializing")


@pytest.fixture(scope="module")
def told():
    """Traces of 4 to 9 segments, with activations that tell the label, its place, and the trace's habits."""
    draws = np.random.default_rng(0)
    labels, previous, traces = [], [], []
    for trace in range(150):
        habit = draws.random(2) < 0.5
        said = ["note", "deduction"]
        said += ["verification"] * int(habit[0]) + ["backtracking"] * int(habit[1])
        row = [str(x) for x in draws.choice(said, draws.integers(4, 10))]
        labels += row
        previous += ["start", *row[:-1]]
        traces += [trace] * len(row)
    n = len(labels)
    axes = {name: draws.standard_normal(6) for name in sorted({*labels, *previous})}
    by_trace = {t: {x for x, at in zip(labels, traces, strict=True) if at == t} for t in traces}
    x = draws.standard_normal((n, 6))
    for i in range(n):
        x[i] += 3 * axes[labels[i]] + 2 * axes[previous[i]]
        x[i] += sum(2 * axes[name] for name in by_trace[traces[i]])
    values = {("blocks.0.hook_resid_post", read): torch.tensor(x).float() for read, _ in READINGS}
    groups = np.array([f"p{t // 2}" for t in traces])
    return ActivationStore(
        values,
        np.array(labels),
        np.array(previous),
        groups,
        np.array(traces),
        np.zeros(n, int),
        "m",
    )


def test_residuals_are_those_of_the_regression_on_everything_that_labels_say(told):
    names = [str(x) for x in np.unique(told.labels)]
    kinds = [str(x) for x in np.unique(told.previous)]
    has = {
        (t, b): float(b in told.labels[told.trace_index == t])
        for t, b in itertools.product(np.unique(told.trace_index), names)
    }
    design = []  # a constant and a slope for each habit, in each place
    for t, label, before in zip(told.trace_index, told.labels, told.previous, strict=True):
        row = []
        for kind, name in itertools.product(kinds, names):
            here = float(kind == before and name == label)
            row += [here, *(here * has[t, b] for b in names)]
        design.append(row)
    for key, x in residuals(told, [0]).values.items():
        y = told.values[key].double().numpy()
        expected = y - LinearRegression(fit_intercept=False).fit(design, y).predict(design)
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-4)
        assert 0.1 < expected.std() < 0.8 * y.std()


def test_residuals_do_not_tell_whose_trace_a_segment_is_of(told):
    found = residuals(told, [0])
    for key, x in found.values.items():
        for label in ("note", "deduction"):
            for habit in ("verification", "backtracking"):
                here = (told.labels == label) & (told.previous == "deduction")
                has = np.isin(told.trace_index, told.trace_index[told.labels == habit])
                plain, left = (
                    (v[here & has].mean(0) - v[here & ~has].mean(0)).norm()
                    for v in (told.values[key], x)
                )
                assert left < 0.2 * plain
