"""Whether two models represent a behavior along the same direction."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from probes._arrays import Array, Groups, finite, group_codes, same_length
from probes.inference import Interval, bootstrap_weights, percentile_interval


@dataclass(frozen=True)
class CosineEstimate:
    """Cosine between two estimated directions, and between the true ones.

    `plain` is the cosine of the two mean differences as they are. Noise shortens it (or
    lengthens it where both share their noise): in 160 dimensions with 120 positives and a shift
    of one standard deviation, a true 0.9 shows as about 0.6. `corrected` estimates the cosine
    without noise, is not clipped, and so may pass 1; `ci` is its interval over groups.
    """

    plain: float
    corrected: float
    ci: Interval


def cosine_with_ci(
    Xa: Float[Array, "n d_model"],
    Xb: Float[Array, "n d_model_b"],
    y: Bool[np.ndarray, " n"],
    groups: Groups,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> CosineEstimate:
    """Cosine between the mean differences of models A and B on the same rows.

    An inner product of two estimates exceeds the true one on average by the trace of their
    cross-covariance. That trace, from the groups' linear influences (the cluster-robust
    covariance of Liang & Zeger 1986), is subtracted from <a, b>, <a, a> and <b, b>; this is
    Spearman's (1904) correction for attenuation. A resample carries the noise twice, and has it
    subtracted twice. The percentile interval is then conservative.

    Raises ValueError for NaN, one class, widths or lengths that differ, under 2 groups, or where
    a direction does not stand out from its noise.
    """
    a, b = finite(Xa, "Xa"), finite(Xb, "Xb")
    same_length(Xa=a, Xb=b, y=y, groups=groups)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"Xa is {a.shape[1]} wide and Xb is {b.shape[1]}, expected one d_model: "
            "compare models of the same width"
        )
    if y.all() or not y.any():
        raise ValueError(
            f"y holds {np.count_nonzero(y)} positives of {len(y)} rows, expected both classes: "
            "add rows of the other class"
        )
    codes, n_groups = group_codes(groups)
    weights = bootstrap_weights(n_groups, n_boot, seed)
    direction_a, influence_a, samples_a = _mean_differences(a, y, codes, weights)
    direction_b, influence_b, samples_b = _mean_differences(b, y, codes, weights)
    noise = np.array([np.sum(u * v) for u, v in _pairs(influence_a, influence_b)])
    observed = np.array([u @ v for u, v in _pairs(direction_a, direction_b)])
    resampled = np.array([np.sum(u * v, axis=1) for u, v in _pairs(samples_a, samples_b)])
    corrected = float(_cosine(observed - noise))
    if np.isnan(corrected):
        (_, aa, bb), (_, noise_a, noise_b) = observed, noise
        raise ValueError(
            f"the directions have squared lengths {aa:.3g} and {bb:.3g}, of which sampling noise "
            f"explains {noise_a:.3g} and {noise_b:.3g}, expected less than all: use more problems"
        )
    return CosineEstimate(
        plain=float(_cosine(observed)),
        corrected=corrected,
        ci=percentile_interval(_cosine(resampled - 2 * noise[:, None]), level),
    )


def _pairs(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return (a, b), (a, a), (b, b)


def _cosine(products: Float[np.ndarray, "3 ..."]) -> Float[np.ndarray, "..."]:
    """From <a, b>, <a, a> and <b, b>; NaN where a squared length is not positive."""
    ab, aa, bb = products
    defined = (aa > 0) & (bb > 0)
    return np.where(defined, ab / np.sqrt(np.where(defined, aa * bb, 1)), np.nan)


def _mean_differences(
    x: Float[np.ndarray, "n d_model"],
    y: Bool[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, "boot group"],
) -> tuple[
    Float[np.ndarray, " d_model"],
    Float[np.ndarray, "group d_model"],
    Float[np.ndarray, "boot d_model"],
]:
    """The direction, each group's influence on it, and the direction of each resample.

    The outer products of the influences sum to the covariance of the direction.
    """
    n_groups = weights.shape[1]
    direction, influence = np.zeros(x.shape[1]), np.zeros((n_groups, x.shape[1]))
    samples = np.zeros((len(weights), x.shape[1]))
    for mask, sign in ((y, 1), (~y, -1)):
        rows = np.flatnonzero(mask)
        members = csr_array((np.ones(len(rows)), (codes[rows], rows)), shape=(n_groups, len(x)))
        sums = members @ x
        counts = np.bincount(codes, mask, minlength=n_groups)
        mean = sums.sum(0) / counts.sum()
        drawn = weights @ counts
        direction += sign * mean
        influence += sign * (sums - counts[:, None] * mean) / counts.sum()
        samples += sign * (weights @ sums) / np.where(drawn > 0, drawn, np.nan)[:, None]
    return direction, influence * np.sqrt(n_groups / (n_groups - 1)), samples
