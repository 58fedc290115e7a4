"""Does a direction cause its behavior? Selection by decision points, nulls through the same path."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import previous_behaviors
from interp.behaviors import Annotator, annotate, segment
from interp.decisions import DecisionPoints
from interp.interventions import Add, MeanAblate, intervene
from interp.models import Model
from interp.traces import generate
from interp.types import Problem, Trace
from probes import Estimate, paired_bootstrap, paired_ratio_bootstrap, permutation_p_value

DOSES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Doses tried, in mean norms of the residual stream at the edited layer."""
MIN_SPREAD = 0.02
"""Smallest spread that effects are divided by: less is not told from sampling noise."""


@dataclass(frozen=True)
class Candidate:
    """One way to use a direction: which of its readings, at which layer, at which dose."""

    reading: int
    layer: int
    dose: float


def edited(
    points: DecisionPoints,
    layer: int,
    vector: Float[Tensor, " d_model"],
    doses: Sequence[float],
    units: Sequence[float],
    means: Float[Tensor, "layer d_model"] | None,
) -> Float[Tensor, "dose point d_model"]:
    """The residual stream at the points with the vector added at each dose.

    With `means`, the component along the vector is reset to the mean's instead, which has one dose.
    """
    unit, resid = vector / vector.norm().clamp_min(1e-12), points.resid[layer]
    if means is None:
        lengths = torch.tensor(doses, device=resid.device) * units[layer]
        return resid + lengths[:, None, None] * unit
    return (resid + ((means[layer] - resid) @ unit)[:, None] * unit)[None]


def effects(
    points: DecisionPoints,
    vectors: Float[Tensor, "reading layer d_model"],
    units: Sequence[float],
    means: Float[Tensor, "layer d_model"] | None,
) -> Float[np.ndarray, "reading layer dose behavior point"]:
    """Change of every behavior's probability at the points, for every way to use the vectors."""
    layers = []
    for layer in range(vectors.shape[1]):
        rows = [edited(points, layer, v, DOSES, units, means) for v in vectors[:, layer]]
        changed = points.probabilities(layer, torch.cat(rows)) - points.clean
        layers.append(changed.unflatten(0, (len(vectors), -1)))
    return torch.stack(layers, 1).transpose(-1, -2).cpu().numpy()


def spread(
    effects: Float[np.ndarray, "direction reading layer dose behavior"],
) -> Float[np.ndarray, "reading layer dose behavior"]:
    """Root mean square effect of random directions in every use of them, at least `MIN_SPREAD`."""
    return np.maximum(np.sqrt((effects**2).mean(0)), MIN_SPREAD)


def choose(
    effects: Float[np.ndarray, "reading layer dose behavior"],
    spreads: Float[np.ndarray, "reading layer dose behavior"],
    behavior: int,
    sign: int,
) -> Candidate:
    """How to use a direction: where its effect stands out most from that of random directions.

    Of the uses with at least a third of the largest effect, the one with the largest effect in
    units of `spreads` is taken (a studentized maximum, Westfall & Young 1993), because any large
    push moves a lot, above all near the logits. Nulls choose by the same rule.
    """
    own = sign * effects[..., behavior]
    works = own >= own.max() - abs(own.max()) * 2 / 3
    standing = np.where(works, own / spreads[..., behavior], -np.inf)
    reading, layer, place = map(int, np.unravel_index(int(standing.argmax()), own.shape))
    return Candidate(reading, layer, DOSES[place] if own.shape[2] > 1 else 0.0)


@dataclass(frozen=True)
class Arm:
    """One direction with its chosen use: `vector` [d_model] and `candidate`."""

    name: str
    vector: Float[Tensor, " d_model"]
    candidate: Candidate


@dataclass(frozen=True)
class ArmResult:
    """How often each behavior was a choice and was taken, and correct answers, per problem."""

    taken: Float[np.ndarray, "behavior problem"]
    chances: Float[np.ndarray, "behavior problem"]
    correct: Float[np.ndarray, " problem"]

    def rate(self, behavior: int, n: int | None = None) -> float:
        """Share of the behavior's chances that were taken, over the first `n` problems."""
        chances = self.chances[behavior, :n].sum()
        return float(self.taken[behavior, :n].sum() / max(1.0, chances))


def run_arms(
    model: Model,
    problems: Sequence[Problem],
    arms: Sequence[Arm],
    annotator: str | Annotator,
    after: Mapping[str, Set[str]],
    units: Sequence[float],
    means: Float[Tensor, "layer d_model"] | None,
    grade: Callable[[Problem, str], bool],
    seed: int,
    advance: Callable[[int], None] = lambda n: None,
    rows_per_batch: int = 1024,
) -> dict[str, ArmResult]:
    """Generate every arm's traces on the same problems with the same draws.

    Arms that edit the same layer share batches, each row with its own vector and dose. With
    `means`, arms ablate; without, they add. Arms are numbered by row, so results do not depend on
    the batching.
    """
    results: dict[str, ArmResult] = {}
    per_batch = max(1, rows_per_batch // len(problems))
    for layer in sorted({arm.candidate.layer for arm in arms}):
        here = [arm for arm in arms if arm.candidate.layer == layer]
        for begin in range(0, len(here), per_batch):
            batch = here[begin : begin + per_batch]
            vectors = torch.stack([arm.vector for arm in batch]).repeat_interleave(len(problems), 0)
            if means is None:
                doses = torch.tensor([arm.candidate.dose for arm in batch])
                edit = Add(vectors, layer, doses.repeat_interleave(len(problems)), units[layer])
            else:
                edit = MeanAblate(vectors, {layer: means[layer]}, at="starts")
            asked = list(problems) * len(batch)
            with intervene(model, edit):
                traces = generate(model, asked, grade, seed=seed, batch_size=len(asked))
            for i, arm in enumerate(batch):
                part = traces[i * len(problems) : (i + 1) * len(problems)]
                results[arm.name] = count(model, part, annotator, after)
            advance(len(batch))
    return results


def count(
    model: Model,
    traces: Sequence[Trace],
    annotator: str | Annotator,
    after: Mapping[str, Set[str]],
) -> ArmResult:
    """Count each behavior's chances and how many were taken, in one trace per problem.

    A segment is a chance of a behavior where the segment before is one of `after[behavior]`, so a
    trace that repeats a sentence for ever counts little.
    """
    rows = [annotate(segment(model, t), annotator) for t in traces]
    previous = [previous_behaviors(row) for row in rows]
    taken, chances = np.zeros((2, len(after), len(rows)))
    for i, (behavior, kinds) in enumerate(after.items()):
        for j, (row, befores) in enumerate(zip(rows, previous, strict=True)):
            here = [s.behavior == behavior for s, b in zip(row, befores, strict=True) if b in kinds]
            taken[i, j], chances[i, j] = sum(here), len(here)
    return ArmResult(taken, chances, np.array([float(t.correct) for t in traces]))


def rate_change(clean: ArmResult, steered: ArmResult, behavior: int, seed: int) -> Estimate:
    """Steered minus clean rate of one behavior; where there was no chance, the rate is 0."""
    parts = []
    for result in (steered, clean):
        chances = result.chances[behavior]
        parts += [result.taken[behavior], chances if chances.any() else np.ones_like(chances)]
    return paired_ratio_bootstrap(*parts, seed=seed)


def effect_record(
    clean: ArmResult,
    steered: ArmResult,
    nulls: Sequence[ArmResult],
    behavior: int,
    sign: int,
    seed: int,
) -> dict:
    """One behavior's causal effect by full generation, beside its nulls.

    The effect and its interval are over all problems; the p-value compares the direction with the
    nulls on the problems that the nulls ran on.
    """
    estimate = rate_change(clean, steered, behavior, seed)
    n = len(nulls[0].correct)
    null = np.array([r.rate(behavior) - clean.rate(behavior, n) for r in nulls])
    observed = steered.rate(behavior, n) - clean.rate(behavior, n)
    return {
        "baseline_rate": clean.rate(behavior),
        "steered_rate": steered.rate(behavior),
        "effect": estimate.value,
        "ci": [estimate.ci.low, estimate.ci.high],
        "null_q05": float(np.quantile(null, 0.05)),
        "null_q95": float(np.quantile(null, 0.95)),
        "p_value": permutation_p_value(observed, null, "greater" if sign > 0 else "less"),
        "n_null": len(null),
        "n_problems": len(clean.correct),
        "n_null_problems": n,
    }


def proxy_record(real: np.ndarray, null: np.ndarray, sign: int, groups, seed: int) -> dict:
    """The same effect by decision points: mean change of probability, with its nulls."""
    estimate = paired_bootstrap(real, np.zeros_like(real), groups, seed=seed)
    return {
        "effect": estimate.value,
        "ci": [estimate.ci.low, estimate.ci.high],
        "null_q05": float(np.quantile(null, 0.05)),
        "null_q95": float(np.quantile(null, 0.95)),
        "p_value": permutation_p_value(float(real.mean()), null, "greater" if sign > 0 else "less"),
        "n_null": len(null),
    }
