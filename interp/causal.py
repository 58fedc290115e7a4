"""Does a direction cause its behavior? Selection by decision points, nulls through the same path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.behaviors import Annotator, annotate, segment
from interp.decisions import DecisionPoints
from interp.interventions import Add, MeanAblate, intervene
from interp.models import Model
from interp.traces import generate
from interp.types import Problem
from probes import paired_bootstrap, paired_ratio_bootstrap, permutation_p_value

DOSES = (0.1, 0.2, 0.4, 0.8)
"""Doses tried, in mean norms of the residual stream at the edited layer."""
MIN_SPREAD = 0.01
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
    dose: float | None = None,
) -> Candidate:
    """How to use a direction: where its effect stands out most from that of random directions.

    The dose is the smallest at which some reading and layer reaches half of the largest effect:
    half, because a direction that drives its behavior to certainty leaves room for nothing else.
    Nulls get that `dose`, so that their norm is matched. Of the readings and layers with at least
    half of the best effect at that dose, the one with the largest effect in units of `spreads` is
    taken (a studentized maximum, Westfall & Young 1993): any push moves a lot near the logits.
    """
    signed = sign * effects[..., behavior]
    if dose is None:
        by_dose = signed.max((0, 1))
        place = int(np.argmax(by_dose >= by_dose.max() / 2))
        dose = DOSES[place] if len(by_dose) > 1 else 0.0
    else:
        place = DOSES.index(dose) if signed.shape[2] > 1 else 0
    own = signed[:, :, place]
    works = own >= own.max() - abs(own.max()) / 2
    standing = np.where(works, own / spreads[:, :, place, behavior], -np.inf)
    reading, layer = np.unravel_index(int(standing.argmax()), own.shape)
    return Candidate(int(reading), int(layer), dose)


@dataclass(frozen=True)
class Arm:
    """One direction with its chosen use: `vector` [d_model] and `candidate`."""

    name: str
    vector: Float[Tensor, " d_model"]
    candidate: Candidate


@dataclass(frozen=True)
class ArmResult:
    """Segments of each behavior and in all, and correct answers, per problem."""

    counts: Float[np.ndarray, "behavior problem"]
    totals: Float[np.ndarray, " problem"]
    correct: Float[np.ndarray, " problem"]

    def rate(self, behavior: int, n: int | None = None) -> float:
        """Share of segments with the behavior, over the first `n` problems."""
        return float(self.counts[behavior, :n].sum() / max(1.0, self.totals[:n].sum()))


def run_arms(
    model: Model,
    problems: Sequence[Problem],
    arms: Sequence[Arm],
    behaviors: Sequence[str],
    annotator: str | Annotator,
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
                results[arm.name] = count(model, part, behaviors, annotator)
            advance(len(batch))
    return results


def count(model: Model, traces, behaviors: Sequence[str], annotator: str | Annotator) -> ArmResult:
    """Count the behaviors of traces, one per problem."""
    labels = [[s.behavior for s in annotate(segment(model, t), annotator)] for t in traces]
    return ArmResult(
        counts=np.array([[row.count(b) for row in labels] for b in behaviors], float),
        totals=np.array([len(row) for row in labels], float),
        correct=np.array([float(t.correct) for t in traces]),
    )


def effect_record(
    clean: ArmResult,
    steered: ArmResult,
    nulls: Sequence[ArmResult],
    scales: Float[np.ndarray, " null"],
    behavior: int,
    sign: int,
    seed: int,
) -> dict:
    """One behavior's causal effect by full generation, beside its nulls.

    The effect and its interval are over all problems; the p-value compares the direction with the
    nulls on the problems that the nulls ran on. A null's effect is multiplied by its entry of
    `scales`: the spread of random directions in the direction's use over that in the null's own.
    """
    estimate = paired_ratio_bootstrap(
        steered.counts[behavior],
        steered.totals,
        clean.counts[behavior],
        clean.totals,
        seed=seed,
    )
    n = len(nulls[0].totals)
    null = scales * np.array([r.rate(behavior) - clean.rate(behavior, n) for r in nulls])
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
        "n_problems": len(clean.totals),
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
