"""How far a method gets from its controls to its ceiling, and how surely it is above another."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from probes._arrays import Array, finite, same_length
from probes.inference import Estimate, bootstrap_weights, percentile_interval


class NoRoom(ValueError):
    """The ceiling is not surely above the controls, so that there is nothing to take a share of."""


def share_of_ceiling(
    method: Float[Array, " problem"],
    controls: Sequence[Shaped[Array, " problem"]],
    ceiling: Float[Array, " problem"],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """(method - control) / (ceiling - control) in mean accuracy, for the strongest control.

    Each array holds a problem's accuracy, problems in the same order. In every resample of the problems
    the control with the highest mean counts, so that luck of one control cannot help the method.
    A resample whose ceiling is not above the control has no ratio. Raises ValueError for NaN, lengths
    that differ or no control, `NoRoom` where the ceiling is not above the controls, or not in more than
    a tenth of resamples.
    """
    if not controls:
        raise ValueError(
            "there is no control, expected at least one: pass the controls' accuracies"
        )
    m, top = finite(method, "method"), finite(ceiling, "ceiling")
    others = np.stack([finite(c, "controls") for c in controls])
    n = same_length(method=m, ceiling=top, controls=others[0])

    def ratio(weights: Float[np.ndarray, "boot problem"]) -> Float[np.ndarray, " boot"]:
        control = (weights @ others.T / n).max(1)
        room = weights @ top / n - control
        return (weights @ m / n - control) / np.where(room > 0, room, np.nan)

    value = float(ratio(np.ones((1, n)))[0])
    samples = ratio(bootstrap_weights(n, n_boot, seed))
    undefined = np.isnan(samples).mean()
    if np.isnan(value) or undefined > 0.1:
        raise NoRoom(
            f"the ceiling is not above the strongest control in {undefined:.0%} of {n_boot} resamples, "
            "expected at most 10%: add problems, or steer at more places"
        )
    return Estimate(value, percentile_interval(samples, level))


def share_above(
    a: Shaped[Array, " problem"], b: Shaped[Array, " problem"], *, n_boot: int = 2000, seed: int = 0
) -> float:
    """Share of bootstrap resamples of the problems in which the mean of a is above that of b."""
    difference = finite(a, "a") - finite(b, "b")
    samples = bootstrap_weights(len(difference), n_boot, seed) @ difference
    return float((samples > 0).mean())
