"""What a candidate direction does in one model, measured once for all gates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ActivationStore
from interp.causal import (
    DOSES,
    Arm,
    ArmResult,
    Candidate,
    choose,
    count,
    effect_record,
    over_choices,
    rate_change,
    run_arms,
    sizes,
)
from interp.causal_stage import NULL_NEW_TOKENS
from interp.causal_subject import Subject
from interp.interventions import Audit
from interp.readings import random_vectors, residuals, shuffled_vectors
from interp.traces import MAX_NEW_TOKENS, generate
from interp.types import Problem, Trace
from interp.validation.steering import Steering, counts

READING = (("before", "matched"),)


@dataclass(frozen=True)
class Task:
    """Problems of the report split, how they are graded, and the annotator of traces."""

    problems: list[Problem]
    grade: Callable[[Problem, str], bool]


class Evidence:
    """One direction, at one dose, in one model: `steering` beside nulls that pass the same path.

    `dose` is given, or the smallest that brings half of the largest specific effect on select.
    """

    def __init__(
        self,
        subject: Subject,
        store: ActivationStore,
        behavior: str,
        steering: Steering,
        task: Task,
        dose: float | None,
    ) -> None:
        self.subject, self.steering, self.task = subject, steering, task
        self.behavior = subject.behaviors.index(behavior)
        self.name = behavior
        config, n_layers = subject.config, subject.model.n_layers
        if dose is None:
            found = over_choices(steering.changes(subject.select, DOSES)[0], subject.select_at)
            dose = DOSES[choose(found[None, None], self.behavior, 1)[2]]
        self.dose = dose
        noise = residuals(store, n_layers)
        random = random_vectors(noise, n_layers, READING, config.n_random, config.seed)
        shuffled = [
            shuffled_vectors(noise, [behavior], n_layers, READING, config.seed * 1000 + n)[behavior]
            for n in range(config.n_shuffled)
        ]
        others = torch.cat([random, torch.stack(shuffled)]) if shuffled else random
        self.nulls = steering.lengthen(others[:, 0, list(steering.layers)])

    def addition(
        self, advance: Callable[[int], None]
    ) -> tuple[dict, ArmResult, list[Trace], Audit]:
        """Effect of adding on all report problems, with nulls on the first of them."""
        subject, config = self.subject, self.subject.config
        traces, audit = self._traces(self.steering, self.task.problems, MAX_NEW_TOKENS)
        first = self.task.problems[: config.n_null_problems]
        clean = count(subject.model, subject.clean_traces, config.annotator, subject.after)
        steered = count(subject.model, traces[0], config.annotator, subject.after)
        advance(1)
        short = generate(
            subject.model, first, self.task.grade, seed=config.seed, max_new_tokens=NULL_NEW_TOKENS
        )
        real, _ = self._traces(self.steering, first, NULL_NEW_TOKENS)
        null, _ = self._traces(self.nulls, first, NULL_NEW_TOKENS)
        few = counts(subject.model, [short, *real, *null], config.annotator, subject.after)
        advance(1)
        record = effect_record(
            clean, steered, few[0], few[1], few[2:], self.behavior, 1, config.seed
        )
        specific = {
            b: rate_change(clean, steered, j, config.seed) for j, b in enumerate(subject.behaviors)
        }
        return record | {"specificity": specific}, steered, traces[0], audit

    def _traces(
        self, steering: Steering, problems: list[Problem], max_new_tokens: int
    ) -> tuple[list[list[Trace]], Audit]:
        return steering.traces(
            self.subject.model,
            problems,
            [self.dose] * len(steering.vectors),
            self.task.grade,
            self.subject.config.seed,
            max_new_tokens,
        )


def ablation(
    subject: Subject,
    behavior: str,
    layer: int,
    vector: Float[Tensor, " d_model"],
    nulls: Float[Tensor, "null d_model"],
    task: Task,
) -> dict:
    """Effect of resetting the component along a vector at its layer and above, beside nulls of that size."""
    config, i = subject.config, subject.behaviors.index(behavior)
    every = torch.cat([vector[None], nulls])[:, None, None].expand(
        -1, 1, subject.model.n_layers, -1
    )
    size = sizes(subject.select, every.to(subject.centers), subject.units, subject.centers)[
        :, 0, layer
    ]
    arms = [
        Arm(str(n), v[0, layer], Candidate(0, layer, float(size[0]), float(size[0] / size[n])))
        for n, v in enumerate(every)
    ]

    def run(which: list[Arm], problems: list[Problem], most: int) -> dict[str, ArmResult]:
        return run_arms(
            subject.model, problems, which, config.annotator, subject.after, subject.units,
            subject.centers, task.grade, config.seed, max_new_tokens=most,
        )  # fmt: skip

    first = task.problems[: config.n_null_problems]
    full = run(arms[:1], task.problems, MAX_NEW_TOKENS)["0"]
    few = run(arms, first, NULL_NEW_TOKENS)
    short = generate(
        subject.model, first, task.grade, seed=config.seed, max_new_tokens=NULL_NEW_TOKENS
    )
    clean = count(subject.model, subject.clean_traces, config.annotator, subject.after)
    short_clean = count(subject.model, short, config.annotator, subject.after)
    rest = [few[arm.name] for arm in arms[1:]]
    record = effect_record(clean, full, short_clean, few["0"], rest, i, -1, config.seed)
    rate = record["baseline_rate"]
    return record | {"removed_share": -record["effect"] / rate if rate else None, "layer": layer}


def probability_effect(
    subject: Subject, behavior: str, steering: Steering, dose: float
) -> tuple[Float[np.ndarray, " point"], np.ndarray]:
    """Change of the behavior's probability at its report choices, and their problems."""
    i = subject.behaviors.index(behavior)
    at = subject.report_at[i]
    return steering.changes(subject.report, [dose])[0, 0, i, at], subject.report.groups[at]
