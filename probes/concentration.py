"""How much of a sum stands on how few rows."""

import numpy as np
from jaxtyping import Float, Shaped

from probes._arrays import Array, Groups, finite, group_codes, same_length
from probes.inference import Estimate, bootstrap_weights, over_resamples, percentile_interval


def gini(values: Shaped[Array, " n"]) -> float:
    """Gini coefficient of non-negative values: 0 where all are equal, near 1 where one has all.

    sum_ij |x_i - x_j| / (2 n^2 mean(x)). Raises ValueError for NaN, negative values or a sum of 0.
    """
    x = _checked(values)
    return float(_weighted_gini(np.sort(x), np.ones((1, len(x))))[0])


def gini_bootstrap(
    values: Shaped[Array, " n"],
    groups: Groups,
    *,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`gini` with a cluster bootstrap interval over groups.

    Raises ValueError as `gini`, or under 2 groups.
    """
    x = _checked(values)
    same_length(values=x, groups=groups)
    codes, n_groups = group_codes(groups)
    order = np.argsort(x, kind="stable")
    x, codes = x[order], codes[order]
    weights = bootstrap_weights(n_groups, n_boot, seed)
    samples = over_resamples(lambda w: _weighted_gini(x, w), codes, weights)
    value = float(_weighted_gini(x, np.ones((1, len(x))))[0])
    return Estimate(value, percentile_interval(samples, level))


def _checked(values: Shaped[Array, " n"]) -> Float[np.ndarray, " n"]:
    x = finite(values, "values")
    if x.min() < 0 or x.sum() == 0:
        raise ValueError(
            f"values run from {x.min()} with sum {x.sum()}, expected non-negative numbers with a "
            "positive sum: pass divergences, counts or sizes"
        )
    return x


def _weighted_gini(
    x: Float[np.ndarray, " n"], weights: Float[np.ndarray, "boot n"]
) -> Float[np.ndarray, " boot"]:
    # x is sorted; a row of weight w stands for w equal rows.
    below = weights.cumsum(1) - weights / 2
    total = weights.sum(1) * (weights @ x)
    return 2 * ((weights * below) @ x) / np.where(total > 0, total, np.nan) - 1
