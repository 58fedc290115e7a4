"""Does a direction cause its behavior? Selection by decision points, nulls through the same path."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import previous_behaviors
from interp.behaviors import Annotator, annotate, segment
from interp.decisions import DecisionPoints
from interp.engine import HERE, Engine
from interp.interventions import Add, Audit, Intervention, MeanAblate, intervene
from interp.models import Model
from interp.traces import MAX_NEW_TOKENS, generate
from interp.types import Problem, Trace
from probes import paired_ratio_bootstrap, permutation_p_value

DOSES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Doses tried, in mean norms of the residual stream at the edited layer."""
EDITS_PER_BATCH = 48
MIN_SPREAD = 0.02
"""Smallest spread that effects are divided by: less is not told from sampling noise."""
MIN_PROBLEMS = 5
"""Problems that must carry a statistic before its interval is resampled."""


@dataclass(frozen=True)
class Candidate:
    """One way to use a direction: which of its readings, at which layer, at which dose.

    The dose of an ablation is the mean size of its change at `layer`; `strength` scales it.
    """

    reading: int
    layer: int
    dose: float
    strength: float = 1.0


def changes(
    points: DecisionPoints,
    layer: int,
    vectors: Float[Tensor, "edit d_model"],
    amounts: Float[Tensor, " edit"],
    means: Float[Tensor, "layer d_model"] | None,
) -> Float[Tensor, "edit point behavior"]:
    """Change of every behavior's probability at the points under each of several edits.

    Without `means`, `amounts` x the unit vector is added at the layer. With them, the component
    along the vector is moved to the mean's at the layer, with `amounts` as strength, and its distance
    from the mean is held there at all layers above.
    """
    unit = (vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12))[:, None]
    scale = amounts[:, None, None]
    if means is None:
        return points.probabilities(layer, points.resid[layer] + scale * unit) - points.clean

    def ablate(
        k: int, resid: Float[Tensor, "edit point d_model"]
    ) -> Float[Tensor, "edit point d_model"]:
        return resid + (held - ((resid - means[k]) * unit).sum(-1, keepdim=True)) * unit

    clean = points.resid[layer].expand(len(vectors), -1, -1)
    held = (1 - scale) * ((clean - means[layer]) * unit).sum(-1, keepdim=True)
    return points.probabilities(layer, ablate(layer, clean), ablate) - points.clean


def effects(
    points: DecisionPoints,
    layers: Sequence[int],
    vectors: Float[Tensor, "direction reading tried d_model"],
    amounts: Float[Tensor, "direction reading tried use"],
    means: Float[Tensor, "layer d_model"] | None,
) -> Float[np.ndarray, "direction reading tried use behavior point"]:
    """`changes` for every reading, tried layer (one of `layers`) and amount of several directions."""
    n, n_readings, _, n_uses = amounts.shape
    found = []
    for at, layer in enumerate(layers):
        edits = repeat(vectors[:, :, at], "n r d -> (n r u) d", u=n_uses)
        parts = zip(
            edits.split(EDITS_PER_BATCH),
            amounts[:, :, at].flatten().split(EDITS_PER_BATCH),
            strict=True,
        )
        rows = torch.cat([changes(points, layer, v, a, means) for v, a in parts])
        found.append(rearrange(rows, "(n r u) p b -> n r u b p", n=n, r=n_readings))
    return rearrange(found, "l n r u b p -> n r l u b p").cpu().numpy()


def over_choices(
    effects: Float[np.ndarray, "*any behavior point"], at: Bool[np.ndarray, "behavior point"]
) -> Float[np.ndarray, "*any behavior"]:
    """Mean effect on each behavior over the points at which it is a choice."""
    weights = at / at.sum(1, keepdims=True).clip(1)
    return np.einsum("...bp,bp->...b", effects, weights)


def sizes(
    points: DecisionPoints,
    layers: Sequence[int],
    vectors: Float[Tensor, "direction reading tried d_model"],
    units: Sequence[float],
    means: Float[Tensor, "layer d_model"],
) -> Float[Tensor, "direction reading tried"]:
    """Mean size, in the model's `units`, of the change that resetting to the means makes at each layer."""
    found = []
    for at, layer in enumerate(layers):
        v = vectors[:, :, at]
        v = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        gap = means[layer] - points.resid[layer]
        found.append((v @ gap.T).abs().mean(-1).clamp_min(1e-6) / units[layer])
    return torch.stack(found, -1)


def spread(
    effects: Float[np.ndarray, "direction reading layer use behavior"],
) -> Float[np.ndarray, "reading layer use behavior"]:
    """Root mean square effect of random directions in every use of them, at least `MIN_SPREAD`."""
    return np.maximum(np.sqrt((effects**2).mean(0)), MIN_SPREAD)


def specific(
    changes: Float[np.ndarray, "*any behavior"], behavior: int, sign: int
) -> Float[np.ndarray, "*any"]:
    """Change of one behavior beyond the largest change that any other makes in the same direction.

    Positive where it goes as `sign` says. An edit that breaks the model, or says where in the trace
    one is, moves several behaviors alike; a rival that gives way is no damage.
    """
    others = (sign * np.delete(changes, behavior, -1)).max(-1, initial=0)
    return np.asarray(sign * changes[..., behavior] - others)


def choose(
    effects: Float[np.ndarray, "reading layer use behavior"],
    behavior: int,
    sign: int,
    spreads: Float[np.ndarray, "reading layer use behavior"] | None = None,
    use: int | None = None,
) -> tuple[int, int, int]:
    """Reading, place of the layer among those tried, and amount by which a direction's effect is most specific.

    The amount (`use`) is the smallest that brings half of the largest `specific` effect, unless it
    is given. With `spreads`, of the readings and layers with at least a third of
    the largest specific effect the one with the largest in units of `spreads` is taken (a
    studentized maximum, Westfall & Young 1993), because near the logits all additions move much.
    """
    score = specific(effects, behavior, sign)
    if use is None:
        best = score.max((0, 1))
        use = int(np.argmax(best >= best.max() - abs(best.max()) / 2))
    score = score[..., use]
    if spreads is not None:
        works = score >= score.max() - abs(score.max()) * 2 / 3
        score = np.where(works, score / spreads[..., use, behavior], -np.inf)
    reading, layer = np.unravel_index(int(score.argmax()), score.shape)
    return int(reading), int(layer), use


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

    def rate(self, behavior: int) -> float:
        """Share of the behavior's chances that were taken."""
        return float(self.rates()[behavior])

    def rates(self) -> Float[np.ndarray, " behavior"]:
        """`rate` of every behavior."""
        return self.taken.sum(1) / np.maximum(1.0, self.chances.sum(1))


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
    max_new_tokens: int = MAX_NEW_TOKENS,
    engine: Engine = HERE,
) -> dict[str, ArmResult]:
    """Generate every arm's traces on the same problems with the same draws.

    Arms that edit the same layer share batches, each row with its own vector and dose; a batch is a
    shard. With `means`, arms ablate at their layer and all above; without, they add. Arms are numbered
    by row, so results do not depend on the batching.
    """
    per_batch = max(1, rows_per_batch // len(problems))
    batches = []
    for layer in sorted({arm.candidate.layer for arm in arms}):
        here = [arm for arm in arms if arm.candidate.layer == layer]
        batches += [here[begin : begin + per_batch] for begin in range(0, len(here), per_batch)]
    work = partial(
        _run_batch,
        model=model, problems=problems, annotator=annotator, after=after, units=units, means=means,
        grade=grade, seed=seed, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    results: dict[str, ArmResult] = {}
    for batch, found in zip(batches, engine.map_shards(work, batches), strict=True):
        results |= {arm.name: result for arm, result in zip(batch, found, strict=True)}
        advance(len(batch))
    return results


def _run_batch(
    batch: Sequence[Arm],
    *,
    model: Model,
    problems: Sequence[Problem],
    annotator: str | Annotator,
    after: Mapping[str, Set[str]],
    units: Sequence[float],
    means: Float[Tensor, "layer d_model"] | None,
    grade: Callable[[Problem, str], bool],
    seed: int,
    max_new_tokens: int,
) -> list[ArmResult]:
    """Arms of one layer side by side."""
    layer = batch[0].candidate.layer
    vectors = torch.stack([arm.vector for arm in batch]).repeat_interleave(len(problems), 0)
    if means is None:
        doses = torch.tensor([arm.candidate.dose for arm in batch])
        edit = Add(vectors, layer, doses.repeat_interleave(len(problems)), units[layer])
    else:
        strengths = torch.tensor([arm.candidate.strength for arm in batch])
        edit = MeanAblate(
            vectors,
            {k: means[k] for k in range(layer, len(means))},
            at="starts",
            strength=strengths.repeat_interleave(len(problems)),
        )
    found, _ = generate_under(model, [edit], problems, len(batch), grade, seed, max_new_tokens)
    return [count(model, traces, annotator, after) for traces in found]


def generate_under(
    model: Model,
    edits: Sequence[Intervention],
    problems: Sequence[Problem],
    n_copies: int,
    grade: Callable[[Problem, str], bool],
    seed: int,
    max_new_tokens: int,
) -> tuple[list[list[Trace]], Audit]:
    """Traces of `n_copies` of the problems in one batch, under edits with a row for each, and their audit."""
    asked = list(problems) * n_copies
    with intervene(model, *edits) as audit:
        traces = generate(
            model,
            asked,
            grade,
            seed=seed,
            batch_size=len(asked),
            max_new_tokens=max_new_tokens,
            share_prompts=n_copies > 1 and all(edit.at == "starts" for edit in edits),
        )
    n = len(problems)
    return [traces[i * n : (i + 1) * n] for i in range(n_copies)], audit


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


def rate_change(clean: ArmResult, steered: ArmResult, behavior: int, seed: int) -> dict:
    """Steered minus clean rate of one behavior as `{effect, ci}`; without a chance a rate is 0.

    The interval is None where chances are in fewer than `MIN_PROBLEMS` problems, too few to
    resample, except where the unedited model has none at all.
    """
    parts, carried = [], []
    for result in (steered, clean):
        chances = result.chances[behavior]
        carried.append(np.count_nonzero(chances))
        parts += [result.taken[behavior], chances if chances.any() else np.ones_like(chances)]
    if carried[0] < MIN_PROBLEMS or 0 < carried[1] < MIN_PROBLEMS:
        return {"effect": steered.rate(behavior) - clean.rate(behavior), "ci": None}
    found = paired_ratio_bootstrap(*parts, seed=seed)
    return {"effect": found.value, "ci": [found.ci.low, found.ci.high]}


def effect_record(
    clean: ArmResult,
    steered: ArmResult,
    null_clean: ArmResult,
    null_steered: ArmResult,
    nulls: Sequence[ArmResult],
    behavior: int,
    sign: int,
    seed: int,
) -> dict:
    """One behavior's causal effect by full generation, beside its nulls.

    The effect and its interval are over all problems. The p-value compares `specific` effects:
    that of `null_steered`, the direction on the problems that the nulls ran on, and the nulls'.
    """
    base = null_clean.rates()
    null = np.array([r.rates() - base for r in nulls])
    return {
        "baseline_rate": clean.rate(behavior),
        "steered_rate": steered.rate(behavior),
        "baseline_chances": int(clean.chances[behavior].sum()),
        "steered_chances": int(steered.chances[behavior].sum()),
        **rate_change(clean, steered, behavior, seed),
        **beside_null(null_steered.rates() - base, null, behavior, sign),
        "n_problems": len(clean.correct),
        "n_null_problems": len(null_clean.correct),
    }


def beside_null(
    observed: Float[np.ndarray, " behavior"],
    null: Float[np.ndarray, "null behavior"],
    behavior: int,
    sign: int,
) -> dict:
    """A behavior's changes under null directions, and the p-value of its specific effect."""
    score, scores = specific(observed, behavior, sign), specific(null, behavior, sign)
    return {
        "null_q05": float(np.quantile(null[:, behavior], 0.05)),
        "null_q95": float(np.quantile(null[:, behavior], 0.95)),
        "specific_effect": float(score),
        "specific_null_q95": float(np.quantile(scores, 0.95)),
        "p_value": permutation_p_value(float(score), scores),
        "n_null": len(null),
    }
