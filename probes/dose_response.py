"""Dose-response as a fitted object: order, half-effective dose, collapse, and the window before it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import curve_fit
from scipy.stats import spearmanr

from probes._arrays import Groups, finite, group_codes, same_length
from probes.inference import bootstrap_weights, percentile_interval

MAX_TOP = 1.05
"""The top of a fitted curve is at most so many times the largest effect."""


@dataclass(frozen=True)
class Bounded:
    """An estimate with its 95% interval; None stands for beyond the largest dose."""

    value: float | None
    ci: tuple[float | None, float | None]


@dataclass(frozen=True)
class DoseResponse:
    """A Hill curve, top x d^slope / (ec50^slope + d^slope), below the dose at which the model collapses.

    `mean` [dose] is the mean effect at each of `doses`. `order` is the Spearman correlation of dose and
    effect up to the deployed dose, dose 0 with effect 0 included. `onset` is the dose at which the curve
    reaches the least effect that counts, `window` collapse dose over onset (the therapeutic index).
    """

    doses: tuple[float, ...]
    mean: tuple[float, ...]
    order: Bounded
    top: Bounded
    ec50: Bounded
    slope: Bounded
    onset: Bounded
    collapse: Bounded
    window: Bounded


def hill(dose: Float[np.ndarray, " dose"], top: float, ec50: float, slope: float) -> np.ndarray:
    """The Hill equation: half of `top` at `ec50`."""
    powered = np.power(dose, slope)
    return top * powered / (ec50**slope + powered)


def fit_hill(
    doses: Float[np.ndarray, " dose"], effects: Float[np.ndarray, " dose"]
) -> tuple[float, float, float] | None:
    """Top, EC50 and slope of the rising part, up to the largest effect; None where nothing rises."""
    if len(doses) < 2:
        return None
    last = int(np.argmax(effects)) + 1
    if effects[last - 1] <= 0 or last < 2:
        return None
    d, e = np.r_[0.0, doses[:last]], np.r_[0.0, effects[:last]]
    half = float(np.interp(e[-1] / 2, np.maximum.accumulate(e), d))
    start = (float(e[-1]), max(half, 1e-3), 2.0)
    # Half of what is seen, not half of a top that no dose came near.
    limits = ([0.0, 1e-3, 0.3], [MAX_TOP * e[-1], 3 * doses[-1], 12.0])
    try:
        found, _ = curve_fit(hill, d, e, p0=np.clip(start, *limits), bounds=limits, maxfev=400)
    except RuntimeError:  # no convergence: no curve
        return None
    return float(found[0]), float(found[1]), float(found[2])


def dose_for(effect: float, top: float, ec50: float, slope: float) -> float:
    """The dose at which a Hill curve reaches an effect; infinite where it never does."""
    return ec50 * (effect / (top - effect)) ** (1 / slope) if effect < top else np.inf


def collapse_dose(
    doses: Float[np.ndarray, " dose"], excess: Float[np.ndarray, " dose"], limit: float
) -> float:
    """The smallest dose whose excess is above the limit; infinite where there is none."""
    above = np.flatnonzero(excess > limit)
    return float(doses[above[0]]) if len(above) else np.inf


def order(doses: Float[np.ndarray, " dose"], effects: Float[np.ndarray, " dose"]) -> float:
    """Spearman correlation of dose and effect, dose 0 with effect 0 included."""
    if not effects.any():
        return 0.0
    found: Any = spearmanr(np.r_[0.0, doses], np.r_[0.0, effects])
    return float(found.statistic)


def dose_response(
    doses: Float[np.ndarray, " dose"],
    effects: Float[np.ndarray, "dose point"],
    groups: Groups,
    broken: Float[np.ndarray, "level problem"],
    limit: float,
    least: float,
    deployed: float,
    seed: int,
    n_boot: int = 300,
) -> DoseResponse:
    """Fit the curve and find the collapse, with intervals over groups and over problems.

    `effects` are changes at single points, of which `groups` [point] says the problem; `broken`
    is 1 where a problem's trace is broken, first without an edit (level 0) and then at each dose.
    `limit` is the rise of the broken share that counts as collapse, `least` the least effect that counts,
    `deployed` the dose up to which effects have to grow. Raises ValueError where doses do not ascend,
    numbers of rows do not match, or `least` is not above 0.
    """
    doses, effects, broken = (finite(x, n) for x, n in
                              ((doses, "doses"), (effects, "effects"), (broken, "broken")))  # fmt: skip
    if (np.diff(doses) <= 0).any() or doses[0] <= 0:
        raise ValueError(f"doses are {doses.tolist()}, expected ascending numbers above 0")
    if least <= 0:
        raise ValueError(f"the least effect that counts is {least}, expected a number above 0")
    if len(effects) != len(doses) or len(broken) != len(doses) + 1:
        raise ValueError(
            f"{len(effects)} rows of effects and {len(broken)} of broken, expected one for each of the "
            f"{len(doses)} doses, and one more of broken for dose 0"
        )
    same_length(effects=effects.T, groups=groups)
    codes, n_groups = group_codes(groups)
    sums = np.stack([np.bincount(codes, e, minlength=n_groups) for e in effects])
    sizes = np.bincount(codes, minlength=n_groups)
    weights = bootstrap_weights(n_groups, n_boot, seed)
    means = (weights @ sums.T) / (weights @ sizes)[:, None]
    rows = bootstrap_weights(broken.shape[1], n_boot, seed + 1)
    shares = rows @ broken.T / rows.sum(1, keepdims=True)
    collapses = np.array([collapse_dose(doses, s[1:] - s[0], limit) for s in shares])
    share = broken.mean(1)
    collapse = collapse_dose(doses, share[1:] - share[0], limit)
    held = doses < collapse
    fitted, *curves = (fit_hill(doses[held], m[held]) for m in (effects.mean(1), *means))
    onsets = np.array(
        [np.inf if c is None else dose_for(least, *c) for c in (fitted, *curves)], float
    )

    def part(i: int) -> Bounded:
        value = None if fitted is None else fitted[i]
        return _bounded(value, np.array([np.inf if c is None else c[i] for c in curves]))

    grown = doses <= deployed
    # Where nothing is reached there is no window, and where nothing collapses none that ends.
    ends, reached = np.r_[collapse, collapses], np.isfinite(onsets)
    ratios = np.divide(ends, onsets, out=np.full(len(onsets), np.inf), where=reached)
    return DoseResponse(
        tuple(doses.tolist()),
        tuple(effects.mean(1).tolist()),
        _bounded(
            order(doses[grown], effects.mean(1)[grown]),
            np.array([order(doses[grown], m[grown]) for m in means]),
        ),
        part(0),
        part(1),
        part(2),
        _bounded(onsets[0], onsets[1:]),
        _bounded(collapse, collapses),
        _bounded(ratios[0], ratios[1:]),
    )


def _bounded(value: float | None, samples: Float[np.ndarray, " boot"]) -> Bounded:
    interval = percentile_interval(samples, 0.95)

    def finite_or_none(x: float | None) -> float | None:
        return None if x is None or np.isinf(x) else float(x)

    return Bounded(
        finite_or_none(value), (finite_or_none(interval.low), finite_or_none(interval.high))
    )
