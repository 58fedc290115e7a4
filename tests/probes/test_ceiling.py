"""The share of a ceiling: closed forms, and resampling by a slow loop."""

import numpy as np
import pytest

from probes import NoRoom, bootstrap_weights, share_above, share_of_ceiling

RNG = np.random.default_rng(0)
LOW = (RNG.random(300) < 0.3).astype(float)
HIGH = np.maximum(LOW, RNG.random(300) < 0.6).astype(float)
MIDDLE = np.where(RNG.random(300) < 0.5, LOW, HIGH)


def test_the_ceiling_reaches_all_of_itself_and_the_strongest_control_nothing():
    top = share_of_ceiling(HIGH, [LOW, MIDDLE], HIGH)
    assert (top.value, top.ci.low, top.ci.high) == (1.0, 1.0, 1.0)
    assert share_of_ceiling(MIDDLE, [LOW, MIDDLE], HIGH).value == 0.0
    assert share_of_ceiling(LOW, [LOW, MIDDLE], HIGH).value < 0


def test_value_and_interval_equal_a_slow_loop_over_the_same_resamples():
    found = share_of_ceiling(MIDDLE, [LOW, 1 - HIGH], HIGH, n_boot=401, seed=5)
    samples = []
    for weights in bootstrap_weights(300, 401, 5):
        rows = np.repeat(np.arange(300), weights.astype(int))
        control = max(LOW[rows].mean(), (1 - HIGH)[rows].mean())
        samples.append((MIDDLE[rows].mean() - control) / (HIGH[rows].mean() - control))
    low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
    assert found.ci.low == pytest.approx(low)
    assert found.ci.high == pytest.approx(high)
    control = max(LOW.mean(), (1 - HIGH).mean())
    expected = (MIDDLE.mean() - control) / (HIGH.mean() - control)
    assert found.value == pytest.approx(expected)


def test_a_lucky_weak_control_cannot_hide_a_strong_one():
    alone = share_of_ceiling(MIDDLE, [LOW], HIGH)
    beside = share_of_ceiling(MIDDLE, [LOW, np.zeros(300)], HIGH)
    assert beside.value == alone.value
    assert beside.ci.low <= alone.ci.low + 1e-12


def test_without_room_or_controls_there_is_no_share():
    with pytest.raises(NoRoom, match="in 100% of 2000 resamples"):
        share_of_ceiling(MIDDLE, [HIGH], HIGH)
    with pytest.raises(ValueError, match="NaN") as found:
        share_of_ceiling(MIDDLE, [np.full(300, np.nan)], HIGH)
    assert not isinstance(found.value, NoRoom)
    with pytest.raises(ValueError, match="no control"):
        share_of_ceiling(MIDDLE, [], HIGH)


def test_share_above_counts_resamples():
    samples = [
        (HIGH - MIDDLE)[np.repeat(np.arange(300), w.astype(int))].mean()
        for w in bootstrap_weights(300, 2000, 0)
    ]
    assert share_above(HIGH, MIDDLE) == np.mean(np.array(samples) > 0)
    assert share_above(LOW, HIGH) == 0.0
