"""Splits and folds keep groups whole, and stay where they were."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from probes import grouped_folds, split_groups

THIRDS = {"fit": 0.5, "select": 0.2, "report": 0.3}


@given(seed=st.integers(0, 10**6), n_groups=st.integers(40, 80))
@settings(deadline=None, max_examples=30)
def test_splits_partition_the_rows_and_share_no_group(seed, n_groups):
    groups = np.random.default_rng(seed).integers(n_groups, size=300)
    try:
        masks = split_groups(groups, THIRDS, seed)
    except ValueError:
        assume(False)
        raise
    np.testing.assert_array_equal(sum(m.astype(int) for m in masks.values()), 1)
    owned = [set(groups[mask].tolist()) for mask in masks.values()]
    assert sum(map(len, owned)) == len(set(groups.tolist()))


def test_new_problems_move_none_that_is_there():
    old = [f"problem-{i}" for i in range(100)]
    new = [f"extra-{i}" for i in range(50)]
    before = split_groups(old, THIRDS, seed=3)
    after = split_groups(new + old[::-1], THIRDS, seed=3)
    for name in THIRDS:
        np.testing.assert_array_equal(after[name][len(new) :][::-1], before[name])


def test_splits_are_the_same_in_every_process():
    masks = split_groups([f"p{i}" for i in range(12)], {"a": 0.5, "b": 0.5}, seed=0)
    assert np.flatnonzero(masks["a"]).tolist() == [0, 3, 7, 10]


def test_fractions_are_met_up_to_binomial_noise_and_seeds_differ():
    groups = [str(i) for i in range(5000)]
    masks = split_groups(groups, THIRDS, seed=0)
    for name, fraction in THIRDS.items():
        sd = np.sqrt(fraction * (1 - fraction) / 5000)
        assert abs(masks[name].mean() - fraction) < 4 * sd
    other = split_groups(groups, THIRDS, seed=1)
    assert 0.15 < (masks["fit"] & other["fit"]).mean() < 0.35  # independent: 0.25


@pytest.mark.parametrize(
    ("groups", "fractions", "sentence"),
    [
        (["a", "b"], {"fit": 0.5, "report": 0.6}, "expected positive numbers with sum 1"),
        (["a", "b"], {}, "expected positive numbers with sum 1"),
        (["a", "b"], {"fit": 1.5, "report": -0.5}, "expected positive numbers with sum 1"),
        (["a", "a"], {"fit": 0.5, "report": 0.5}, "got none of the 1 groups"),
    ],
)
def test_bad_splits_are_refused_in_a_sentence(groups, fractions, sentence):
    with pytest.raises(ValueError, match=sentence):
        split_groups(groups, fractions, seed=0)


@given(seed=st.integers(0, 10**6), n_folds=st.integers(2, 5), rate=st.floats(0.05, 0.9))
@settings(deadline=None, max_examples=40)
def test_folds_keep_groups_whole_and_train_on_both_classes(seed, n_folds, rate):
    r = np.random.default_rng(seed)
    groups = r.integers(30, size=200)
    y = r.random(200) < rate
    for positive in (True, False):
        assume(len(set(groups[y == positive].tolist())) >= n_folds)
    folds = grouped_folds(groups, y, n_folds, seed)
    assert set(folds.tolist()) == set(range(n_folds))
    for group in set(groups.tolist()):
        assert len(set(folds[groups == group].tolist())) == 1
    for k in range(n_folds):
        assert set(y[folds != k].tolist()) == {True, False}


def test_classes_are_spread_evenly():
    groups = np.repeat(np.arange(100), 5)
    y = np.random.default_rng(0).random(500) < 0.2
    folds = grouped_folds(groups, y, 5, seed=0)
    assert np.ptp([y[folds == k].sum() for k in range(5)]) <= 2


def test_bad_folds_are_refused_in_a_sentence():
    groups = np.arange(8) // 2
    with pytest.raises(ValueError, match="y holds one class, True"):
        grouped_folds(groups, np.ones(8, dtype=bool), 2, seed=0)
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="class 1 occurs in 2 groups, expected at least n_folds"):
        grouped_folds(groups, y, 3, seed=0)
