"""How well scores tell two classes apart, and how well probabilities are calibrated."""

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from probes._arrays import Array, Groups, finite, group_codes, same_length
from probes.inference import Estimate, bootstrap_weights, over_resamples, percentile_interval


def auroc(
    scores: Float[Array, " n"],
    y: Bool[np.ndarray, " n"],
    weights: Shaped[Array, " n"] | None = None,
) -> float:
    """Area under the ROC curve: P(positive scores above negative) + P(tie) / 2.

    `weights` [n] are row weights. Raises ValueError for NaN or where a class is absent.
    """
    s, y = _checked(scores, y)
    w = np.ones(len(s)) if weights is None else finite(weights, "weights")
    return float(_weighted_auroc(s, y, w[None])[0])


def auroc_bootstrap(
    scores: Float[Array, " n"],
    y: Bool[np.ndarray, " n"],
    groups: Groups,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """AUROC with a cluster bootstrap interval over groups.

    Resamples without one of the classes are left out.
    Raises ValueError as `auroc`, under 2 groups, or where a class is in so few groups that
    over a tenth of resamples miss it.
    """
    codes, n_groups = group_codes(groups)
    return auroc_estimate(scores, y, codes, bootstrap_weights(n_groups, n_boot, seed), level)


def paired_auroc_bootstrap(
    a: Float[Array, " n"],
    b: Float[Array, " n"],
    y: Bool[np.ndarray, " n"],
    groups: Groups,
    *,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """AUROC of scores a minus that of scores b on the same rows, with an interval over groups.

    Raises ValueError as `auroc_bootstrap`.
    """
    codes, n_groups = group_codes(groups)
    s, y = _checked(a, y)
    other, _ = _checked(b, y)
    same_length(a=s, b=other, groups=codes)

    def difference(w: Float[np.ndarray, "boot n"]) -> Float[np.ndarray, " boot"]:
        return _weighted_auroc(s, y, w) - _weighted_auroc(other, y, w)

    samples = over_resamples(difference, codes, bootstrap_weights(n_groups, n_boot, seed))
    value = difference(np.ones((1, len(s))))[0]
    return Estimate(float(value), percentile_interval(samples, level))


def auroc_estimate(
    scores: Float[Array, " n"],
    y: Bool[np.ndarray, " n"],
    codes: Shaped[np.ndarray, " n"],
    weights: Float[np.ndarray, "boot group"],
    level: float,
) -> Estimate:
    """`auroc_bootstrap` for groups numbered 0..G-1 and resamples drawn before."""
    s, y = _checked(scores, y)
    same_length(scores=s, groups=codes)
    value = _weighted_auroc(s, y, np.ones((1, len(s))))[0]
    samples = over_resamples(lambda w: _weighted_auroc(s, y, w), codes, weights)
    return Estimate(float(value), percentile_interval(samples, level))


def expected_calibration_error(
    probabilities: Float[Array, " n"], y: Bool[np.ndarray, " n"], n_bins: int = 10
) -> float:
    """Mean over rows of |mean probability - share of positives| of the row's bin.

    Bins hold equal numbers of rows (Nixon et al. 2019, arXiv:1904.01685, "adaptive"), except
    that equal probabilities share a bin, so the order of rows never matters.
    Raises ValueError for probabilities outside [0, 1].
    """
    p = finite(probabilities, "probabilities")
    n = same_length(probabilities=p, y=y)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(
            f"probabilities run from {p.min()} to {p.max()}, expected numbers in [0, 1]: "
            "pass predict_proba(X)[:, 1]"
        )
    bins = ((rankdata(p) - 0.5) * n_bins / n).astype(int)
    return float(np.abs(np.bincount(bins, p - y)).sum() / n)


def _checked(
    scores: Float[Array, " n"], y: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    s = finite(scores, "scores")
    same_length(scores=s, y=y)
    if y.all() or not y.any():
        raise ValueError(
            f"y holds {np.count_nonzero(y)} positives of {len(y)} rows, expected both classes: "
            "add rows of the other class"
        )
    return s, y


def _weighted_auroc(
    scores: Float[np.ndarray, " n"],
    y: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "boot n"],
) -> Float[np.ndarray, " boot"]:
    """AUROC under each row of weights; NaN where a class has no weight.

    A positive counts the weight of the negatives below it and half of that of its ties, read
    off one cumulative sum over the sorted negatives.
    """
    order = np.argsort(scores[~y])
    below = np.searchsorted(scores[~y][order], scores[y], side="left")
    not_above = np.searchsorted(scores[~y][order], scores[y], side="right")
    negative = weights[:, ~y][:, order]
    positive = weights[:, y]
    cumulative = np.zeros((len(weights), negative.shape[1] + 1))
    np.cumsum(negative, axis=1, out=cumulative[:, 1:])
    wins = np.einsum("bi,bi->b", positive, cumulative[:, below] + cumulative[:, not_above]) / 2
    pairs = positive.sum(1) * cumulative[:, -1]
    return wins / np.where(pairs > 0, pairs, np.nan)
