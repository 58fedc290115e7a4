"""Which divergences a known direction explains: how much of the KL closes when the base is steered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from interp.activations import ActivationStore
from interp.divergence.summary import MIN_TRACES
from interp.divergence.tokens import compare
from interp.hybrid.points import Points
from interp.lens import MAX_LOGITS, lens
from interp.pairs import Pair
from interp.pooling import hook_name
from interp.queries import logits_above
from interp.readings import cells
from interp.types import Trace
from interp.vocabulary import Vocabulary
from probes import (
    bootstrap_over_groups,
    covariance_matched_directions,
    permutation_p_value,
    random_directions,
    simplest_near_best,
)

DOSES = (0.1, 0.2, 0.3, 0.5, 0.8)
"""Lengths that are tried, in mean norms of the residual stream before segments."""
CLOSED = 0.5
"""Share of the KL that has to close for a divergence to count as explained."""
HIGH = 0.1
"""Jensen-Shannon divergence, in nats, from which on a disagreement is more than a near tie (2603.22446): a
near tie's little KL is halved by random directions too."""
EDITS_PER_BATCH = 16
Edit = Callable[[Float[Tensor, "n d_model"], slice], Float[Tensor, "n edit d_model"]]
"""Edited streams from the base's own, and from which of the divergences these are."""
Measure = Callable[[Float[Tensor, "n edit shared"], Tensor, Tensor], Float[Tensor, "n edit"]]
"""A number from the logits under each edit, the thinking model's and the base's own [n, shared]."""


@dataclass(frozen=True)
class Divergences:
    """Disagreements of one split, and what both models say there.

    `kl` and `js` [divergence] are KL(thinking||base) and Jensen-Shannon divergence in nats, `trace` and
    `place` say where, `groups` the problem.
    """

    pair: Pair
    vocabulary: Vocabulary
    points: Sequence[Points]
    base: Sequence[Float[Tensor, "n shared"]]
    thinking: Sequence[Float[Tensor, "n shared"]]
    kl: Float[np.ndarray, " divergence"]
    js: Float[np.ndarray, " divergence"]
    trace: Shaped[np.ndarray, " divergence"]
    place: Shaped[np.ndarray, " divergence"]
    groups: Shaped[np.ndarray, " divergence"]

    @property
    def high(self) -> Bool[np.ndarray, " divergence"]:
        """Where the two part by more than a near tie."""
        return self.js > HIGH

    @torch.no_grad()
    def steered(
        self, layer: int, shifts: Float[Tensor, "shift d_model"]
    ) -> Float[np.ndarray, "shift divergence"]:
        """KL(thinking||base) with each vector added to the base's residual stream, at this place alone."""

        def kl(logits: Tensor, thinking: Tensor, base: Tensor) -> Tensor:
            wanted = thinking[:, None].expand(logits.shape)
            flat = compare(logits.flatten(0, 1), wanted.flatten(0, 1))["kl_thinking_base"]
            return flat.unflatten(0, logits.shape[:2])

        return self.edited(layer, lambda resid, _: resid[:, None] + shifts.to(resid.device), kl)

    @torch.no_grad()
    def edited(
        self, layer: int, edit: Edit, measure: Measure
    ) -> Float[np.ndarray, "edit divergence"]:
        """What `measure` takes of the base's logits under each edit of its residual stream."""
        found, begin = [], 0
        said = zip(self.points, self.base, self.thinking, strict=True)
        for points, clean, thinking in said:
            here = slice(begin, begin := begin + len(thinking))
            edits = edit(points.base_resid[layer][points.real], here)
            columns = []
            most = MAX_LOGITS // (points.real.numel() * clean.shape[1])
            for some in edits.split(max(1, min(EDITS_PER_BATCH, most)), 1):
                resid = some.new_zeros(*points.real.shape, *some.shape[1:])
                resid[points.real] = some
                n = some.shape[1]
                logits = logits_above(
                    points.model,
                    layer,
                    resid.flatten(1, 2),
                    points.kv,
                    points.seen.repeat_interleave(n, 1),
                    points.positions.repeat_interleave(n, 1),
                ).unflatten(1, (-1, n))[points.real]
                shared = self.vocabulary.shared_logits(logits.flatten(0, 1))
                columns.append(measure(shared.unflatten(0, logits.shape[:2]), thinking, clean))
            found.append(torch.cat(columns, 1))
        return torch.cat(found).T.double().cpu().numpy()


def divergences(
    pair: Pair,
    vocabulary: Vocabulary,
    traces: Sequence[Trace],
    numbers: Sequence[int],
    points: Sequence[Points],
) -> Divergences:
    """What both models say at points, which have to hold the thinking model's last residual stream.

    A point's trace i is number `numbers[i]` of `traces`.
    """
    base, thinking, kl, js, trace, place = [], [], [], [], [], []
    for p in points:
        base.append(vocabulary.shared_logits(p.base_logits()))
        thinking.append(vocabulary.shared_logits(lens(pair.thinking, p.thinking_resid[p.real])))
        compared = compare(base[-1], thinking[-1])
        kl.append(compared["kl_thinking_base"].double().cpu().numpy())
        js.append(compared["js"].double().cpu().numpy())
        rows = p.trace[:, None].expand(p.at.shape)[p.real.cpu()].tolist()
        here = [numbers[i] for i in rows]
        trace += here
        place += [
            at + 1 - traces[i].n_prompt for i, at in zip(here, p.at[p.real].tolist(), strict=True)
        ]
    groups = np.array([traces[i].problem_id for i in trace])
    return Divergences(
        pair,
        vocabulary,
        points,
        base,
        thinking,
        np.concatenate(kl),
        np.concatenate(js),
        np.array(trace),
        np.array(place),
        groups,
    )


def closed(
    kl: Float[np.ndarray, " divergence"], after: Float[np.ndarray, "... divergence"]
) -> Bool[np.ndarray, "... divergence"]:
    """Which divergences lose at least half of their KL."""
    return np.asarray(after <= (1 - CLOSED) * kl)


NOTHING = {"n": 0} | dict.fromkeys(
    ("directions", "ci", "random", "random_q95", "matched", "matched_q95")
)
"""A share explained where there is too little to measure it on, or no direction."""


@dataclass(frozen=True)
class Use:
    """A layer, and a length in mean residual norms before segments."""

    layer: int
    dose: float


@dataclass(frozen=True)
class Directions:
    """Directions of `behaviors` in the base by layer, and the unit of a dose there.

    `deployed` are those that the thinking model shows more often than the base, `store` holds what
    the directions were fitted on.
    """

    vectors: Float[Tensor, "layer direction d_model"]
    units: Sequence[float]
    behaviors: list[str]
    deployed: list[str]
    store: ActivationStore

    def length(self, use: Use) -> float:
        """The length of a dose, in units of the residual stream."""
        return use.dose * self.units[use.layer]

    def shifts(self, use: Use) -> Float[Tensor, "direction d_model"]:
        """All directions of a layer at one length."""
        return shifts_of(self.vectors[use.layer], self.length(use))

    def matched_shifts(self, use: Use, n: int, seed: int) -> Float[Tensor, "n d_model"]:
        """Random vectors of that length with the covariance of the base's activations.

        The covariance within segments of one behavior after one kind of segment, so that what the
        directions stand for is not among it: what differences of means of meaningless labels look like.
        """
        x = self.store[hook_name("resid_post", use.layer), "before"]
        drawn = covariance_matched_directions(x, n, self.length(use), seed, cells(self.store))
        return torch.from_numpy(drawn).float()


def shifts_of(
    vectors: Float[Tensor, "direction d_model"], length: float
) -> Float[Tensor, "direction d_model"]:
    """Vectors of one length."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12) * length


def random_shifts(
    n_sets: int, n: int, d_model: int, length: float, seed: int
) -> Float[Tensor, "shift d_model"]:
    """`n_sets` sets of `n` random vectors of one length."""
    return torch.from_numpy(random_directions(n_sets * n, d_model, length, seed)).float()


def choose_use(
    select: Divergences,
    vectors: Float[Tensor, "layer direction d_model"],
    units: Sequence[float],
    seed: int,
    n_sets: int = 5,
) -> Use:
    """The weakest layer and dose within one standard error of the best.

    The best explains most beyond as many random directions: of the high divergences, or of all where there
    are none. The standard error is over problems.
    """
    counts = select.high if select.high.any() else np.ones(len(select.kl), bool)
    _, problem = np.unique(select.groups[counts], return_inverse=True)
    uses = [Use(layer, dose) for dose in DOSES for layer in range(len(vectors))]
    scores, errors = [], []
    for use in uses:
        ours, length = vectors[use.layer], use.dose * units[use.layer]
        n, d_model = ours.shape
        real = closed(select.kl, select.steered(use.layer, shifts_of(ours, length)))
        random = random_shifts(n_sets, n, d_model, length, seed + 1)
        null = closed(select.kl, select.steered(use.layer, random)).reshape(n_sets, n, -1)
        excess = real[:, counts].any(0) - null[..., counts].any(1).mean(0)
        by_problem = np.bincount(problem, excess) / np.bincount(problem)
        scores.append(excess.mean())
        errors.append(by_problem.std(ddof=1) / len(by_problem) ** 0.5)
    return uses[simplest_near_best(scores, errors)]


def explain(
    report: Divergences,
    use: Use,
    known: Directions,
    shown: Sequence[str],
    n_random: int,
    seed: int,
) -> tuple[dict, Float[np.ndarray, "direction divergence"]]:
    """`divergence.json: explained` but for its examples, and the KL that each direction leaves.

    `shown` [divergence] is the behavior of the thinking model's segment at each divergence.
    """
    behaviors, shifts = known.behaviors, known.shifts(use)
    after = report.steered(use.layer, shifts)
    hit = closed(report.kl, after)
    ours = [behaviors.index(b) for b in known.deployed]
    n = max(1, len(ours))
    nulls = {
        "random": random_shifts(n_random, n, shifts.shape[1], known.length(use), seed),
        "matched": known.matched_shifts(use, n_random * n, seed),
    }
    null_hits = {
        name: closed(report.kl, report.steered(use.layer, null)) for name, null in nulls.items()
    }

    def summary(name: str, shares: Float[np.ndarray, " draw"]) -> dict:
        return {name: float(shares.mean()), f"{name}_q95": float(np.quantile(shares, 0.95))}

    def union(here: Bool[np.ndarray, " divergence"]) -> dict:
        """Explained by at least one direction; by at least one of as many random ones."""
        real = np.asarray(hit[ours][:, here].any(0))
        found = bootstrap_over_groups(real, report.groups[here], seed=seed).as_json()
        row = {"n": int(here.sum()), "directions": found["value"], "ci": found["ci"]}
        for name, null in null_hits.items():
            of_sets = null.reshape(n_random, n, len(here))[..., here].any(1).mean(-1)
            row |= summary(name, of_sets)
        return row

    def alone(i: int, here: Bool[np.ndarray, " divergence"]) -> dict:
        one = bootstrap_over_groups(hit[i][here], report.groups[here], seed=seed).as_json()
        row = {"share": one["value"], "ci": one["ci"]}
        for name, null in null_hits.items():
            row |= summary(name, null[:, here].mean(-1))
        return row | {
            "p_value": permutation_p_value(one["value"], null_hits["matched"][:, here].mean(-1)),
            "closed": float((1 - after[i][here] / report.kl[here]).mean()),
        }

    every, high = np.ones(len(report.kl), bool), report.high
    enough = len(set(report.groups[high].tolist())) >= MIN_TRACES and bool(ours)
    kinds = np.array(shown)
    counts = {str(kind): int((high & (kinds == kind)).sum()) for kind in np.unique(kinds)}
    table = {
        str(kind): {
            b: float(hit[i][high & (kinds == kind)].mean()) for i, b in enumerate(behaviors)
        }
        for kind, n in counts.items()
        if n >= MIN_TRACES
    }
    return {
        **(union(high) if enough else NOTHING | {"n": int(high.sum())}),
        "all": union(every) if ours else None,
        "high": HIGH,
        "layer": use.layer,
        "dose": use.dose,
        "n_random": n_random,
        "deployed": known.deployed,
        "by_behavior": {b: alone(i, high if enough else every) for i, b in enumerate(behaviors)},
        "table": table,
        "table_n": counts,
    }, after
