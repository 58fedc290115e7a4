"""Arms' records, contrasts and the verdict, from outcomes by problem."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from interp.hybrid.arms import Recipe
from interp.hybrid.outcomes import Outcome
from probes import (
    GapTooSmall,
    NoRoom,
    bootstrap_over_groups,
    gap_recovery,
    paired_bootstrap,
    share_above,
    share_of_ceiling,
)

HALF = 0.5
JUDGED = ("random-vectors", "random-positions", "magnitude-only")
"""Controls of which the strongest stands against the verdict: no direction, no moment, no content."""
SAME_EVERYWHERE = ("bias-only", "logit-bias")
"""Controls that steer by no direction of a category: where they do as well, the moments are what counts."""


class Scale:
    """The two ends that recoveries are measured between: accuracy by problem of base and thinking."""

    def __init__(
        self,
        base: Float[np.ndarray, " problem"],
        thinking: Float[np.ndarray, " problem"],
        ids: Sequence[str],
        seed: int,
    ) -> None:
        self.base, self.thinking, self.ids, self.seed = base, thinking, list(ids), seed
        self.refused: str | None = None
        try:
            self.gap = gap_recovery(base, base, thinking, seed=seed).gap
        except GapTooSmall as error:
            self.gap, self.refused = error.gap, str(error)

    def accuracy(self, values: Float[np.ndarray, " problem"]) -> dict:
        """Mean accuracy with its interval."""
        return bootstrap_over_groups(values, self.ids, seed=self.seed).as_json()

    def recovery(self, values: Float[np.ndarray, " problem"]) -> dict | None:
        """Gap recovery with its interval; None where the gap is refused."""
        if self.refused:
            return None
        found = gap_recovery(self.base, values, self.thinking, seed=self.seed)
        return found.recovery.as_json()

    def share(self, values: Float[np.ndarray, " problem"]) -> float | None:
        """Gap recovery alone."""
        if self.refused:
            return None
        return float((values.mean() - self.base.mean()) / self.gap.value)


def by_problem(outcomes: Sequence[Outcome]) -> Float[np.ndarray, " problem"]:
    """Each problem's accuracy over all runs of an arm."""
    return np.mean([o["correct"] for o in outcomes], axis=0)


def arm_record(
    kind: str,
    recipe: Recipe | None,
    by_seed: Sequence[Sequence[Outcome]],
    scale: Scale,
) -> dict:
    """`arms.NAME`: one entry of `by_seed` for each seed, with one outcome for each set of vectors."""
    outcomes = [o for runs in by_seed for o in runs]

    def total(field: str) -> float:
        return float(sum(o[field].sum() for o in outcomes))

    tokens, rows = total("n_tokens"), sum(len(o["correct"]) for o in outcomes)
    values = by_problem(outcomes)
    record = {
        "kind": kind,
        "controller": recipe and recipe.controller,
        "vectors": recipe and recipe.vectors,
        "coefficients": recipe and recipe.coefficients,
        "accuracy": scale.accuracy(values),
        "gap_recovery": scale.recovery(values),
        "by_seed": [scale.share(by_problem(runs)) for runs in by_seed],
        "tokens_steered": total("steered") / tokens,
        "tokens_changed": total("changed") / tokens,
        "positions_edited": total("edited") / (tokens + total("n_prompt")),
        "eos_rate": total("stopped") / rows,
        "truncated": 1 - total("stopped") / rows,
        "forwards_per_token": total("passes") / tokens,
        "seconds": sum(o.seconds for o in outcomes),
        "n_tokens": int(tokens),
    }
    if any(len(runs) > 1 for runs in by_seed):
        sets = [scale.share(o["correct"]) for o in outcomes]
        record["sets"], record["sets_ci"] = sets, None
        if not scale.refused:
            over_sets = bootstrap_over_groups(np.array(sets), range(len(sets)), seed=scale.seed)
            record["sets_ci"] = over_sets.as_json()["ci"]
    return record


def contrast(
    hybrid: Float[np.ndarray, " problem"], other: Float[np.ndarray, " problem"], scale: Scale
) -> dict:
    """Accuracy of the hybrid minus another arm's, paired by problem."""
    found = paired_bootstrap(hybrid, other, scale.ids, seed=scale.seed)
    return found.as_json() | {"p_above": share_above(hybrid, other, seed=scale.seed)}


def verdict(accuracy: Mapping[str, Float[np.ndarray, " problem"]], scale: Scale) -> dict:
    """`when`, `how` or `cannot-tell`, from the share of the ceiling that the hybrid reaches.

    `accuracy` holds each problem's accuracy under `hybrid`, `thinking-token` and the controls. The reason
    of a `when` names the controls without a category's direction that the hybrid is not above.
    """
    silent = {"answer": "cannot-tell", "value": None, "ci": None}
    if scale.refused:
        return silent | {"reason": scale.refused}
    ceiling = scale.share(accuracy["thinking-token"])
    if ceiling is None or ceiling < HALF:
        return silent | {
            "reason": f"even the thinking model's own tokens recover only {ceiling:.0%} of the gap at the "
            "steered positions, so nothing can be said of what vectors miss"
        }
    try:
        found = share_of_ceiling(
            accuracy["hybrid"],
            [accuracy[name] for name in JUDGED],
            accuracy["thinking-token"],
            seed=scale.seed,
        )
    except NoRoom:
        return silent | {"reason": "a control does as well as the thinking model's own tokens"}
    low, high = found.ci.low, found.ci.high
    answer = "when" if low > HALF else "how" if high < HALF else "cannot-tell"
    words = {
        "when": "steered by vectors at the thinking model's moments, the base does by itself most of what "
        "the thinking model's own tokens would add there, so the skill was there before",
        "how": "at the same moments the thinking model's own tokens help and vectors in the base do not, so "
        "training added what the base cannot be steered to",
        "cannot-tell": "the interval holds one half, so add problems or seeds",
    }
    reason = words[answer]
    equal = [
        name
        for name in SAME_EVERYWHERE
        if contrast(accuracy["hybrid"], accuracy[name], scale)["ci"][0] <= 0
    ]
    if answer == "when" and equal:
        reason += (
            f"; it needs no direction of a category for that ({' and '.join(equal)} do as well)"
        )
    return {"answer": answer, **found.as_json(), "reason": reason}
