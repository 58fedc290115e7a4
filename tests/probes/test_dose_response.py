"""Dose-response fits against planted curves with known half-effective and collapse doses."""

import numpy as np
import pytest

from probes import dose_response, hill
from probes.dose_response import collapse_dose, fit_hill, order

DOSES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0])


def test_a_planted_hill_curve_is_found():
    top, ec50, slope = fit_hill(DOSES, hill(DOSES, 0.6, 0.35, 3.0))
    assert (top, ec50, slope) == pytest.approx((0.6, 0.35, 3.0), rel=1e-3)


def test_half_of_the_top_is_reached_at_the_half_effective_dose():
    assert hill(np.array([0.35]), 0.6, 0.35, 3.0)[0] == pytest.approx(0.3)


def test_what_falls_has_no_curve():
    assert fit_hill(DOSES, -DOSES) is None
    assert fit_hill(DOSES, np.zeros(len(DOSES))) is None


def planted(seed, noise=0.1, n=200, collapse=1.2):
    draws = np.random.default_rng(seed)
    effects = hill(DOSES, 0.6, 0.35, 3.0)[:, None] + draws.normal(0, noise, (len(DOSES), n))
    broken = (
        draws.random((len(DOSES) + 1, n))
        < np.r_[0.02, np.where(collapse < DOSES, 0.6, 0.02)][:, None]
    )
    return effects, np.repeat(np.arange(n // 2), 2), broken.astype(float)


def test_intervals_hold_the_planted_doses_and_the_window_is_their_ratio():
    hits = 0
    for seed in range(20):
        found = dose_response(DOSES, *planted(seed), 0.1, 0.05, 2.0, seed, n_boot=100)
        low, high = found.ec50.ci
        hits += low <= 0.35 <= high
        assert found.collapse.value == 1.5
        assert found.window.value == pytest.approx(1.5 / found.onset.value)
        reached = hill(
            np.array([found.onset.value]), found.top.value, found.ec50.value, found.slope.value
        )
        assert reached[0] == pytest.approx(0.05)
    assert hits >= 16


def test_a_model_that_never_collapses_has_no_collapse_dose():
    found = dose_response(DOSES, *planted(0, collapse=9.0), 0.1, 0.05, 2.0, 0)
    assert found.collapse.value is None and found.collapse.ci == (None, None)
    assert found.window.value is None
    assert collapse_dose(DOSES, np.zeros(len(DOSES)), 0.1) == np.inf


def test_what_never_reaches_the_least_effect_has_no_onset():
    found = dose_response(DOSES, *planted(0), 0.1, 0.9, 2.0, 0)
    assert found.onset.value is None and found.window.value is None
    assert found.ec50.value == pytest.approx(0.35, abs=0.05)


def test_order_is_that_of_ranks():
    assert order(DOSES, DOSES**2) == pytest.approx(1)
    assert order(DOSES, -DOSES) == pytest.approx(-1)
    assert order(DOSES, np.zeros(len(DOSES))) == 0


def test_only_doses_up_to_the_deployed_one_have_to_grow():
    effects, groups, broken = planted(0)
    effects[6:] = effects[:3].mean(0)  # from dose 1 on it does less
    whole, part = (
        dose_response(DOSES, effects, groups, broken, 0.1, 0.05, deployed, 0).order
        for deployed in (2.0, 0.7)
    )
    assert part.value == pytest.approx(1) and part.ci[0] > 0.8
    assert whole.value < 0.8


def test_doses_have_to_ascend_and_rows_to_match():
    effects, groups, broken = planted(0)
    with pytest.raises(ValueError, match="ascending"):
        dose_response(DOSES[::-1].copy(), effects, groups, broken, 0.1, 0.05, 2.0, 0)
    with pytest.raises(ValueError, match="rows of effects"):
        dose_response(DOSES, effects, groups, broken[1:], 0.1, 0.05, 2.0, 0)
    with pytest.raises(ValueError, match="above 0"):
        dose_response(DOSES, effects, groups, broken, 0.1, 0.0, 2.0, 0)
