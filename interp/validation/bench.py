"""Where directions are tried: a pair with its traces and activations, and what all trials share."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ActivationStore
from interp.behaviors import segment_all
from interp.causal import ArmResult
from interp.causal_subject import Subject
from interp.config import Config, asked_problems
from interp.decisions import DecisionPoints
from interp.pairs import MODELS, Pair
from interp.pipeline import make_traces, measurable, read_activations
from interp.progress import Progress
from interp.readings import random_vectors, residuals, shuffled_vectors
from interp.runs import Run
from interp.tasks import load_task
from interp.traces import generate
from interp.types import Problem, Segment, Trace

READING = (("before", "matched"),)


@dataclass
class Bench:
    """One model of a pair on trial.

    `own` is that model, `other` the pair's other one (None where the model stands alone), `thinking` the one
    in which behaviors are ablated (the model itself, where it stands alone); `report` holds the activations
    of `own` on the report split, `problems` are that split's, `words` is what a user would put before a
    problem instead of steering.
    """

    own: Subject
    other: Subject | None
    thinking: Subject
    report: ActivationStore
    problems: list[Problem]
    grade: Callable[[Problem, str], bool]
    family: Callable[[Problem], str]
    words: str
    _nulls: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def prepare(
        cls, run: Run, pair: Pair, which: str, config: Config, progress: Progress
    ) -> "Bench":
        """Make traces and read activations, or take what the run's folder has of them.

        Without behaviors in `config`, those count that are frequent enough in the fit split; raises
        `UserError` where none is.
        """
        material = make_traces(run, pair, config, progress)
        fit, report = (
            read_activations(run, pair, material, split, progress) for split in ("fit", "report")
        )
        config, _ = measurable(config, pair, fit)
        subjects = {
            name: Subject(getattr(pair, name), name, config, material, fit[name])
            for name in pair.names
        }
        task = load_task(config.task)
        problems = {p.id: p for p in asked_problems(task)}
        asked = [problems[t.problem_id] for t in material.traces[which, "report"]]
        other = subjects.get(MODELS[1 - MODELS.index(which)])
        return cls(
            subjects[which], other, subjects.get("thinking", subjects[which]), report[which],
            asked, task.grade, task.family, pair.prompt,
        )  # fmt: skip

    @cached_property
    def clean(self) -> ArmResult:
        """What the model on trial shows by itself."""
        return self.own.count(self.own.clean_traces)

    @cached_property
    def short_clean(self) -> ArmResult:
        """The same on the traces that stand beside nulls: fewer problems, and shorter."""
        return self._short(self.own)

    @cached_property
    def short_thinking(self) -> ArmResult:
        """The same of the model in which behaviors are ablated."""
        return self._short(self.thinking)

    def _short(self, subject: Subject) -> ArmResult:
        return subject.count(self._generated(subject, self.first, subject.config.null_new_tokens))

    def _generated(self, subject: Subject, asked: list[Problem], most: int) -> list[Trace]:
        seed = subject.config.seed
        return generate(subject.model, asked, self.grade, seed=seed, max_new_tokens=most)

    @property
    def first(self) -> list[Problem]:
        """The report problems on which null directions generate."""
        return self.problems[: self.own.config.n_null_problems]

    @cached_property
    def told(self) -> list[Trace]:
        """Traces without steering, but with the pair's prompt before each problem."""
        asked = [replace(p, prompt=f"{self.words} {p.prompt}") for p in self.problems]
        return self._generated(self.own, asked, self.own.config.max_new_tokens)

    @cached_property
    def told_points(self) -> DecisionPoints:
        """Decision points in those traces."""
        return self.own.points(self.told, self.segments(self.told))

    @cached_property
    def noise(self) -> ActivationStore:
        """Activations of the fit split, without what labels explain."""
        return residuals(self.own.store, range(self.own.model.n_layers))

    @cached_property
    def random(self) -> Float[Tensor, "null layer d_model"]:
        """Random null directions for every layer."""
        config, layers = self.own.config, range(self.own.model.n_layers)
        return random_vectors(self.noise, layers, READING, config.n_random, config.seed)[:, 0]

    def nulls(self, behavior: str) -> Float[Tensor, "null layer d_model"]:
        """Random directions, and those that shuffled labels of one behavior give: made once."""
        if behavior not in self._nulls:
            config, layers = self.own.config, range(self.own.model.n_layers)
            shuffled = [
                shuffled_vectors(self.noise, [behavior], layers, READING, config.seed * 1000 + n)
                for n in range(config.n_shuffled)
            ]
            every = [self.random, *(v[behavior] for v in shuffled)]
            self._nulls[behavior] = torch.cat(every)
        return self._nulls[behavior]

    def segments(self, traces: list[Trace]) -> list[list[Segment]]:
        """The traces' segments, labeled."""
        return segment_all(self.own.model, traces, self.own.config.annotator)
