"""Does a direction cause its behavior? Selection by decision points, nulls through the same path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.behaviors import annotate, segment
from interp.decisions import DecisionPoints
from interp.interventions import Add, MeanAblate, intervene
from interp.models import Model
from interp.traces import generate
from interp.types import Problem
from probes import paired_bootstrap, paired_ratio_bootstrap, permutation_p_value

DOSES = (0.2, 0.4, 0.8, 1.2)
"""Doses tried, in mean norms of the residual stream at the edited layer."""


@dataclass(frozen=True)
class Candidate:
    """One way to use a direction: which of its readings, at which layer, at which dose."""

    reading: int
    layer: int
    dose: float


def addition_effects(
    points: DecisionPoints, vectors: Float[Tensor, "reading layer d_model"], units: Sequence[float]
) -> Float[np.ndarray, "reading layer dose behavior point"]:
    """Change of every behavior's probability at the points, for every way to add the vectors."""
    rows = []
    for reading in vectors:
        for layer, vector in enumerate(reading):
            unit = vector / vector.norm().clamp_min(1e-12) * units[layer]
            for dose in DOSES:
                steered = points.probabilities(layer, points.resid[layer] + dose * unit)
                rows.append((steered - points.clean).T)
    shape = (*vectors.shape[:2], len(DOSES), *rows[0].shape)
    return torch.stack(rows).reshape(shape).cpu().numpy()


def ablation_effects(
    points: DecisionPoints,
    vectors: Float[Tensor, "reading layer d_model"],
    means: Float[Tensor, "layer d_model"],
) -> Float[np.ndarray, "reading layer one behavior point"]:
    """Change of every behavior's probability when the component is reset to the mean's."""
    rows = []
    for reading in vectors:
        for layer, vector in enumerate(reading):
            unit, resid = vector / vector.norm().clamp_min(1e-12), points.resid[layer]
            edited = resid + ((means[layer] - resid) @ unit)[:, None] * unit
            rows.append((points.probabilities(layer, edited) - points.clean).T)
    return torch.stack(rows).reshape(*vectors.shape[:2], 1, *rows[0].shape).cpu().numpy()


def effects_at(
    points: DecisionPoints,
    vector: Float[Tensor, " d_model"],
    candidate: Candidate,
    units: Sequence[float],
    means: Float[Tensor, "layer d_model"] | None,
) -> Float[np.ndarray, "behavior point"]:
    """The change of every behavior's probability for one chosen candidate."""
    layer = candidate.layer
    unit, resid = vector / vector.norm().clamp_min(1e-12), points.resid[layer]
    if means is None:
        edited = resid + candidate.dose * units[layer] * unit
    else:
        edited = resid + ((means[layer] - resid) @ unit)[:, None] * unit
    return (points.probabilities(layer, edited) - points.clean).T.cpu().numpy()


def choose(effects: Float[np.ndarray, "reading layer dose"], sign: int) -> Candidate:
    """The reading and layer with the largest effect, at the smallest dose that gives half of it.

    Half, because a direction that drives its behavior to certainty leaves room for nothing else.
    """
    signed = sign * effects
    reading, layer, _ = np.unravel_index(int(np.argmax(signed)), signed.shape)
    by_dose = signed[reading, layer]
    dose = int(np.argmax(by_dose >= by_dose.max() / 2))
    return Candidate(int(reading), int(layer), DOSES[dose] if len(by_dose) > 1 else 0.0)


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
    annotator: str,
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


def count(model: Model, traces, behaviors: Sequence[str], annotator: str) -> ArmResult:
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
    behavior: int,
    sign: int,
    seed: int,
) -> dict:
    """One behavior's causal effect by full generation, beside its nulls.

    The effect and its interval are over all problems; the p-value compares the direction with the
    nulls on the problems that the nulls ran on.
    """
    estimate = paired_ratio_bootstrap(
        steered.counts[behavior],
        steered.totals,
        clean.counts[behavior],
        clean.totals,
        seed=seed,
    )
    n = len(nulls[0].totals)
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
