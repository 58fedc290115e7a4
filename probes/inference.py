"""Intervals from resampling groups (problems), p-values, and gap recovery."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from probes._arrays import Array, Groups, finite, group_codes, rng, same_length

MIN_GAP = 0.05
"""Gap in accuracy, thinking minus base, under which recovery is refused."""


@dataclass(frozen=True)
class Interval:
    """Confidence interval at `level`; `0.0 in interval` asks whether it covers a value."""

    low: float
    high: float
    level: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    ci: Interval

    def as_json(self) -> dict:
        """`{value, ci}` as results hold it."""
        return {"value": self.value, "ci": [self.ci.low, self.ci.high]}


@dataclass(frozen=True)
class EffectEstimate:
    """A causal effect beside its null: rates without and with the intervention.

    `effect` is steered_rate - baseline_rate with its interval `ci` over groups. `null_q95` is
    the value that 5% of the null effects reach in the tested direction (for "two-sided": in
    size). `p_value` is from `permutation_p_value` over `n_null` null effects.
    """

    baseline_rate: float
    steered_rate: float
    effect: float
    ci: Interval
    null_q95: float
    p_value: float
    n_null: int


@dataclass(frozen=True)
class GapRecovery:
    """(hybrid - base) / (thinking - base) as `recovery`: signed, never clipped."""

    base: float
    hybrid: float
    thinking: float
    gap: Estimate
    recovery: Estimate


class GapTooSmall(ValueError):
    """Thinking minus base is too small, or too uncertain, to be divided by; see `gap`."""

    def __init__(self, gap: Estimate) -> None:
        super().__init__(
            f"gap too small: thinking minus base is {gap.value:.3f} with "
            f"{gap.ci.level:.0%} interval [{gap.ci.low:.3f}, {gap.ci.high:.3f}], expected at "
            f"least {MIN_GAP} and an interval above 0: use more problems or another pair"
        )
        self.gap = gap


def bootstrap_weights(n_groups: int, n_boot: int, seed: int) -> Float[np.ndarray, "boot group"]:
    """How often each group is drawn in each resample of `n_groups` with replacement.

    Depends on the arguments only, so statistics that share a seed share their resamples.
    Raises ValueError under 2 groups.
    """
    if n_groups < 2:
        raise ValueError(
            f"there is {n_groups} group, expected at least 2 to resample: add problems"
        )
    drawn = rng(seed, "bootstrap").integers(n_groups, size=(n_boot, n_groups))
    drawn += np.arange(n_boot)[:, None] * n_groups
    counts = np.bincount(drawn.ravel(), minlength=n_boot * n_groups)
    return counts.reshape(n_boot, n_groups).astype(np.float64)


def over_resamples(
    statistic: Callable[[Float[np.ndarray, "boot n"]], Float[np.ndarray, " boot"]],
    codes: Shaped[np.ndarray, " n"],
    weights: Float[np.ndarray, "boot group"],
) -> Float[np.ndarray, " boot"]:
    """A statistic of weighted rows in every resample of their groups, numbered by `codes`."""
    # Blocks of resamples bound the memory to about 30 MB for each array of [block, n].
    block = max(1, 4_000_000 // len(codes))
    return np.concatenate(
        [statistic(weights[i : i + block][:, codes]) for i in range(0, len(weights), block)]
    )


def percentile_interval(samples: Float[np.ndarray, " boot"], level: float) -> Interval:
    """Percentile bootstrap interval. NaN marks a resample where the statistic is undefined.

    Those are left out; raises ValueError where they are more than a tenth of all.
    """
    undefined = np.count_nonzero(np.isnan(samples))
    if undefined > 0.1 * len(samples):
        raise ValueError(
            f"{undefined} of {len(samples)} resamples leave the statistic undefined, expected at "
            "most a tenth: too few groups carry it, so add problems"
        )
    tail = (1 - level) / 2
    # An order statistic, not an interpolation: samples may be infinite.
    low, high = np.nanquantile(samples, [tail, 1 - tail], method="inverted_cdf")
    return Interval(float(low), float(high), level)


def bootstrap_over_groups(
    values: Shaped[Array, " n"],
    groups: Groups,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of values [n] over rows, with a cluster bootstrap interval over groups.

    Whole groups are resampled (Davison & Hinkley 1997, section 3.8), because rows of one problem
    are not independent; the mean of a resample is sum_g w_g sum_g(values) / sum_g w_g n_g.
    Raises ValueError for NaN, lengths that differ, or under 2 groups.
    """
    v = finite(values, "values")
    same_length(values=v, groups=groups)
    codes, n_groups = group_codes(groups)
    return ratio_bootstrap(
        np.bincount(codes, v, minlength=n_groups),
        np.bincount(codes, minlength=n_groups),
        n_boot=n_boot,
        level=level,
        seed=seed,
    )


def paired_bootstrap(
    a: Shaped[Array, " n"],
    b: Shaped[Array, " n"],
    groups: Groups,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of a - b, measured on the same rows, with a cluster bootstrap interval over groups."""
    difference = finite(a, "a") - finite(b, "b")
    return bootstrap_over_groups(difference, groups, n_boot=n_boot, level=level, seed=seed)


def ratio_bootstrap(
    numerators: Shaped[Array, " group"],
    denominators: Shaped[Array, " group"],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """sum(numerators) / sum(denominators), one of each a group, with an interval over groups.

    For rates such as backtracks a sentence, where problems have different numbers of sentences.
    Raises ValueError for NaN, negative denominators or a sum of 0, or under 2 groups.
    """
    num, den = _ratio_parts(numerators, denominators)
    samples = _ratio_samples(bootstrap_weights(len(num), n_boot, seed), num, den)
    return Estimate(float(num.sum() / den.sum()), percentile_interval(samples, level))


def paired_ratio_bootstrap(
    numerators_a: Shaped[Array, " group"],
    denominators_a: Shaped[Array, " group"],
    numerators_b: Shaped[Array, " group"],
    denominators_b: Shaped[Array, " group"],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Ratio a minus ratio b, where entry g of all four arrays belongs to the same group.

    Raises ValueError as `ratio_bootstrap`.
    """
    num_a, den_a = _ratio_parts(numerators_a, denominators_a)
    num_b, den_b = _ratio_parts(numerators_b, denominators_b)
    same_length(a=num_a, b=num_b)
    weights = bootstrap_weights(len(num_a), n_boot, seed)
    samples = _ratio_samples(weights, num_a, den_a) - _ratio_samples(weights, num_b, den_b)
    value = num_a.sum() / den_a.sum() - num_b.sum() / den_b.sum()
    return Estimate(float(value), percentile_interval(samples, level))


def estimate_effect(
    baseline_hits: Shaped[Array, " group"],
    baseline_trials: Shaped[Array, " group"],
    steered_hits: Shaped[Array, " group"],
    steered_trials: Shaped[Array, " group"],
    null_effects: Shaped[Array, " null"],
    *,
    alternative: str = "greater",
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> EffectEstimate:
    """Effect of an intervention on a rate, beside the effects of null interventions.

    Hits and trials are counts for each group: correct answers out of samples, or sentences of
    a behavior out of sentences. `null_effects` are steered minus baseline rates of directions
    from `probes.nulls` that went through the same selection.
    Raises ValueError as `ratio_bootstrap` and `permutation_p_value`.
    """
    difference = paired_ratio_bootstrap(
        steered_hits,
        steered_trials,
        baseline_hits,
        baseline_trials,
        n_boot=n_boot,
        level=level,
        seed=seed,
    )
    null = finite(null_effects, "null_effects")
    p_value = permutation_p_value(difference.value, null, alternative)
    tested = np.abs(null) if alternative == "two-sided" else null
    baseline_num, baseline_den = _ratio_parts(baseline_hits, baseline_trials)
    baseline_rate = float(baseline_num.sum() / baseline_den.sum())
    return EffectEstimate(
        baseline_rate=baseline_rate,
        steered_rate=baseline_rate + difference.value,
        effect=difference.value,
        ci=difference.ci,
        null_q95=float(np.quantile(tested, 0.05 if alternative == "less" else 0.95)),
        p_value=p_value,
        n_null=len(null),
    )


def permutation_p_value(
    observed: float | np.floating, null: Shaped[Array, " null"], alternative: str = "greater"
) -> float:
    """P-value (1 + #{null at least as extreme}) / (1 + n), Phipson & Smyth 2010.

    Never 0, and ties, up to rounding, count against the observation. "two-sided" is twice the
    smaller one-sided p-value, at most 1, so the null need not be centered at 0.
    Raises ValueError for NaN, an empty null or an unknown alternative.
    """
    values = finite(null, "null")
    same_length(null=values)
    if not np.isfinite(observed):
        raise ValueError(f"observed is {observed}, expected a finite number: check the statistic")
    slack = 1e-12 * max(1.0, abs(observed))
    greater = (1 + np.count_nonzero(values >= observed - slack)) / (1 + len(values))
    less = (1 + np.count_nonzero(values <= observed + slack)) / (1 + len(values))
    if alternative == "greater":
        return float(greater)
    if alternative == "less":
        return float(less)
    if alternative == "two-sided":
        return float(min(1.0, 2 * min(greater, less)))
    raise ValueError(
        f"alternative is {alternative!r}, expected 'greater', 'less' or 'two-sided': "
        "pass one of the three"
    )


def holm(p_values: Float[Array, " n"]) -> Float[np.ndarray, " n"]:
    """Adjusted p-values that control the family-wise error rate, in the given order (Holm 1979).

    Sorted ascending, the i-th of n is max over j <= i of min(1, (n - j + 1) p_j).
    Raises ValueError for a value outside [0, 1].
    """
    p = finite(p_values, "p_values")
    if ((p < 0) | (p > 1)).any():
        raise ValueError(
            f"p_values run from {p.min()} to {p.max()}, expected numbers in [0, 1]: pass p-values"
        )
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(p), 0, -1) * p[order]))
    return adjusted


def gap_recovery(
    base: Bool[Array, " problem"] | Float[Array, " problem"] | Int[Array, " problem"],
    hybrid: Bool[Array, " problem"] | Float[Array, " problem"] | Int[Array, " problem"],
    thinking: Bool[Array, " problem"] | Float[Array, " problem"] | Int[Array, " problem"],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> GapRecovery:
    """Share of the accuracy gap that the hybrid closes, (hybrid - base) / (thinking - base).

    Each array holds a problem's accuracy in [0, 1] under one model, with problems in the same
    order. Venhoff et al., arXiv:2510.07364, but signed and never clipped, with a bootstrap
    interval over problems. A resample whose gap is not positive counts as minus or plus
    infinity, the limit of its ratio; the refusal below keeps these outside of the interval.

    Raises GapTooSmall where thinking - base is under 0.05 or its interval reaches 0, and
    ValueError for NaN, accuracies outside [0, 1] or lengths that differ.
    """
    b, h, t = finite(base, "base"), finite(hybrid, "hybrid"), finite(thinking, "thinking")
    n = same_length(base=b, hybrid=h, thinking=t)
    for name, accuracy in (("base", b), ("hybrid", h), ("thinking", t)):
        if accuracy.min() < 0 or accuracy.max() > 1:
            raise ValueError(
                f"{name} runs from {accuracy.min()} to {accuracy.max()}, expected accuracies in "
                "[0, 1]: pass the share of correct answers for each problem"
            )
    weights = bootstrap_weights(n, n_boot, seed)
    gaps, gains = weights @ (t - b) / n, weights @ (h - b) / n
    gap = Estimate(float((t - b).mean()), percentile_interval(gaps, level))
    if gap.value < MIN_GAP or gap.ci.low <= 0:
        raise GapTooSmall(gap)
    positive = gaps > 0
    ratios = np.where(positive, gains / np.where(positive, gaps, 1), np.copysign(np.inf, gains))
    return GapRecovery(
        base=float(b.mean()),
        hybrid=float(h.mean()),
        thinking=float(t.mean()),
        gap=gap,
        recovery=Estimate(float((h - b).mean() / gap.value), percentile_interval(ratios, level)),
    )


def _ratio_parts(
    numerators: Shaped[Array, " group"], denominators: Shaped[Array, " group"]
) -> tuple[Float[np.ndarray, " group"], Float[np.ndarray, " group"]]:
    num, den = finite(numerators, "numerators"), finite(denominators, "denominators")
    same_length(numerators=num, denominators=den)
    if den.min() < 0 or den.sum() == 0:
        raise ValueError(
            f"denominators run from {den.min()} with sum {den.sum()}, expected counts with a "
            "positive sum: pass the number of trials for each group"
        )
    return num, den


def _ratio_samples(
    weights: Float[np.ndarray, "boot group"],
    num: Float[np.ndarray, " group"],
    den: Float[np.ndarray, " group"],
) -> Float[np.ndarray, " boot"]:
    total = weights @ den
    return weights @ num / np.where(total > 0, total, np.nan)


def simplest_near_best(scores: Sequence[float], errors: Sequence[float]) -> int:
    """The first of what is ordered from simple to complex whose score is within one standard error, the
    best's, of the best score (Breiman et al. 1984, section 3.4.3).
    """
    best = int(np.argmax(scores))
    return next(i for i, score in enumerate(scores) if score >= scores[best] - errors[best])
