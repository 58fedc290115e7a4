"""What a candidate direction does in one model, measured once for all gates."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from interp.causal import (
    DOSES,
    MIN_PROBLEMS,
    Arm,
    ArmResult,
    Candidate,
    choose,
    effect_record,
    over_choices,
    run_arms,
    sizes,
)
from interp.decisions import DecisionPoints
from interp.interventions import Audit
from interp.types import Problem, Trace
from interp.validation.bench import Bench
from interp.validation.steering import Steering


class Evidence:
    """One direction, at one dose, in the model on trial, beside nulls that pass the same path.

    `dose` is given, or the smallest of `DOSES` that brings half of the largest specific effect on select.
    """

    def __init__(
        self,
        bench: Bench,
        behavior: str,
        vectors: Mapping[int, Float[Tensor, " d_model"]],
        dose: float | None,
    ) -> None:
        subject = bench.own
        self.bench, self.subject, self.name = bench, subject, behavior
        self.config = subject.config
        self.steering = Steering.of(vectors, subject.units)
        self.behavior = subject.behaviors.index(behavior)
        if dose is None:
            found = over_choices(self.steering.changes(subject.select, DOSES)[0], subject.select_at)
            dose = DOSES[choose(found[None, None], self.behavior, 1)[2]]
        self.dose = dose

    @cached_property
    def nulls(self) -> Steering:
        """Null directions, as long as the one on trial."""
        others = self.bench.nulls(self.name)[:, list(self.steering.layers)]
        return self.steering.lengthen(others)

    def steer(self) -> tuple[list[Trace], Audit]:
        """Steered traces of all report problems, and what the edits did."""
        traces, audit = self._traces(self.steering, self.bench.problems, self.config.max_new_tokens)
        return traces[0], audit

    def addition(self, steered: ArmResult) -> dict:
        """Effect of adding on all report problems, beside nulls on the first of them."""
        bench = self.bench
        real, _ = self._traces(self.steering, bench.first, self.config.null_new_tokens)
        null, _ = self._traces(self.nulls, bench.first, self.config.null_new_tokens)
        few, *rest = (self.subject.count(traces) for traces in (*real, *null))
        seed = self.subject.config.seed
        return effect_record(
            bench.clean, steered, bench.short_clean, few, rest, self.behavior, 1, seed
        )

    def ablation(self) -> dict:
        """Effect in the thinking model of resetting the component at its layer and above, beside nulls."""
        subject, bench = self.bench.thinking, self.bench
        config, i, layer = subject.config, self.behavior, self.steering.main_layer
        every = np.concatenate([self.steering.main, self.nulls.main])
        vectors = subject.centers.new_tensor(every)
        size = sizes(
            subject.select, [layer], vectors[:, None, None], subject.units, subject.centers
        )[:, 0, 0]
        # Each null changes as much as the direction on trial does.
        arms = [
            Arm(str(n), v, Candidate(0, layer, float(size[0]), float(size[0] / size[n])))
            for n, v in enumerate(vectors)
        ]

        def run(which: list[Arm], problems: list[Problem], most: int) -> dict[str, ArmResult]:
            return run_arms(
                subject.model, problems, which, config.annotator, subject.after, subject.units,
                subject.centers, bench.grade, config.seed, max_new_tokens=most,
            )  # fmt: skip

        full = run(arms[:1], bench.problems, config.max_new_tokens)["0"]
        few = run(arms, bench.first, self.config.null_new_tokens)
        clean, short = subject.count(subject.clean_traces), bench.short_thinking
        rest = [few[arm.name] for arm in arms[1:]]
        record = effect_record(clean, full, short, few["0"], rest, i, -1, config.seed)
        rate = record["baseline_rate"]
        return record | {
            "removed_share": -record["effect"] / rate if rate else None,
            "layer": layer,
        }

    def too_few(self, points: DecisionPoints, at: Bool[np.ndarray, " point"]) -> str | None:
        """In words, that the points are of too few problems to measure on; None where there are enough."""
        n = len(np.unique(points.groups[at]))
        if n >= MIN_PROBLEMS:
            return None
        return f"{self.name} is a choice in {n} of the problems, fewer than {MIN_PROBLEMS}"

    def rise(
        self, points: DecisionPoints, at: Bool[np.ndarray, " point"]
    ) -> tuple[Float[np.ndarray, " choice"], Shaped[np.ndarray, " choice"]]:
        """Change of the behavior's probability at some points, and their problems."""
        found = self.steering.changes(points, [self.dose])[0, 0, self.behavior, at]
        return found, points.groups[at]

    def _traces(
        self, steering: Steering, problems: list[Problem], max_new_tokens: int
    ) -> tuple[list[list[Trace]], Audit]:
        return steering.traces(
            self.subject.model, problems, [self.dose] * len(steering.vectors), self.bench.grade,
            self.subject.config.seed, max_new_tokens,
        )  # fmt: skip
