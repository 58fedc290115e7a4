"""What a run depends on, and the problems and texts that its stages share."""

import json
from dataclasses import asdict, dataclass, replace

from interp.errors import UserError
from interp.runs import content_key
from interp.tasks import Task, load_task
from interp.types import Problem, Segment, Trace
from probes import split_groups

MOST_LAYERS = 8
"""Models with no more layers are searched in all of them."""
SHARES = {"fit": 0.3, "select": 0.2, "report": 0.5}
"""How a task's problems are shared out."""
ENOUGH = 0.9
"""Share of the problems that a split may have of which nothing is said."""
MIN_PROBLEMS = 5
"""Problems of a task that can be split in three."""
N_LAYERS_TRIED = 6
"""Layers searched in deeper models, equally spaced (as in Venhoff et al. 2510.07364)."""


@dataclass(frozen=True)
class PairConfig:
    """Which models, asked what, on which problems.

    `pair` and `thinking` are what `load_pair` takes, `task` what `load_task` takes; `template` holds
    `{problem}` where the problem stands (None: the thinking model's chat template, if it has one), `seed`
    splits the problems, `annotator` names the behavior of sentences. Problem counts are upper limits of
    each split.
    """

    pair: str
    thinking: str | None = None
    task: str = "countdown"
    template: str | None = None
    annotator: str = "grammar"
    seed: int = 0
    n_fit: int = 600
    n_select: int = 400
    n_report: int = 500


@dataclass(frozen=True)
class Config(PairConfig):
    """What a run of the main job depends on.

    `behaviors` None are all that are frequent enough. `layers` None are all of a small model, and six of
    a deep one. Sampled traces have up to `max_new_tokens` tokens at `temperature`; null directions are
    tried on `n_null_problems` problems, in traces of up to `null_new_tokens`.
    """

    behaviors: tuple[str, ...] | None = (
        "subgoal-setting",
        "verification",
        "backtracking",
        "uncertainty-estimation",
    )
    layers: tuple[int, ...] | None = None
    temperature: float = 1.0
    max_new_tokens: int = 160
    n_random: int = 100
    n_shuffled: int = 20
    n_points: int = 144
    n_null_problems: int = 70
    null_new_tokens: int = 90


BEHAVIORS_TESTED: tuple[str, ...] = Config.behaviors or ()
"""The behaviors that the built-in pairs are tested for."""


@dataclass(frozen=True)
class HybridConfig(PairConfig):
    """What a run of the hybrid depends on.

    Seeds `seed` to `seed + n_seeds - 1` are those of fits, controls
    and draws. `n_screen` is how many of the select problems every combination is tried on before the best
    meet all of them. `prompt` is what the prompt baseline puts before a problem (None: the pair's own
    words), `max_tokens` the budget of prompt and trace together.
    """

    n_seeds: int = 5
    sampled: bool = False
    n_screen: int = 150
    n_random: int = 20
    sizes: tuple[int, ...] = (8, 10, 15)
    max_tokens: int = 169
    prompt: str | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of fits, controls and draws."""
        return tuple(range(self.seed, self.seed + self.n_seeds))


@dataclass(frozen=True)
class DivergenceConfig(PairConfig):
    """What a run of the divergence depends on.

    `n_random` random directions stand beside each one, `n_points` disagreements and as many agreements
    of a split are read for curves and probes, a disagreement of each of `n_patched` traces is patched
    at `n_offsets` positions, `n_atlas` traces of each kind are shown. `max_tokens` is the budget of prompt
    and trace together.
    """

    n_fit: int = 400
    n_select: int = 200
    sampled: bool = False
    behaviors: tuple[str, ...] = BEHAVIORS_TESTED
    n_random: int = 100
    n_points: int = 1000
    n_patched: int = 100
    n_offsets: int = 8
    n_atlas: int = 60
    max_tokens: int = 169


def asked_problems(task: Task) -> tuple[Problem, ...]:
    """A task's held-out problems as models read them: each with the task's instruction after it."""
    found = task.problems()
    if not task.instruction:
        return found
    return tuple(replace(p, prompt=f"{p.prompt} {task.instruction}") for p in found)


def split_problems(config: PairConfig) -> dict[str, list[Problem]]:
    """Held-out problems for fitting, selecting and reporting; no problem serves two ends."""
    problems = asked_problems(load_task(config.task))
    if len(problems) < MIN_PROBLEMS:
        raise UserError(
            f"Task {config.task!r} has {len(problems)} problems, expected at least {MIN_PROBLEMS}: some to fit, "
            "others to select, and others to report; give more."
        )
    masks = split_groups([p.id for p in problems], SHARES, config.seed)
    limits, splits = _limits(config), {}
    for name, mask in masks.items():
        chosen = [p for p, inside in zip(problems, mask, strict=True) if inside]
        chosen.sort(key=lambda p: content_key(config.seed, p.id))
        splits[name] = chosen[: limits[name]]
    return splits


def _limits(config: PairConfig) -> dict[str, int]:
    return {name: getattr(config, f"n_{name}") for name in SHARES}


def shortage(config: PairConfig) -> str | None:
    """A sentence where the task has clearly fewer problems than a split may have; None where there are enough."""
    limits, splits = _limits(config), split_problems(config)
    short = [n for n, problems in splits.items() if len(problems) < ENOUGH * limits[n]]
    if not short:
        return None
    told = ", ".join(f"{len(splits[n])} of {limits[n]} to {n}" for n in short)
    n, shares = (
        len(load_task(config.task).problems()),
        " / ".join(f"{s:.0%}" for s in SHARES.values()),
    )
    return f"Task {config.task!r} has {n} problems, shared out {shares}: there are {told}."


def config_json(config: PairConfig) -> dict:
    """The configuration as JSON holds it, with a key of its problems: those in a file may change."""
    problems = [
        [p.id, p.prompt, p.data] for split in split_problems(config).values() for p in split
    ]
    return {**json.loads(json.dumps(asdict(config))), "problems": content_key(problems)}


def layers_tried(config: Config, n_layers: int) -> tuple[int, ...]:
    """The layers that a run searches, of `n_layers`."""
    if config.layers is not None:
        return config.layers
    if n_layers <= MOST_LAYERS:
        return tuple(range(n_layers))
    return tuple(round(n_layers * k / (N_LAYERS_TRIED + 1)) for k in range(1, N_LAYERS_TRIED + 1))


@dataclass
class Material:
    """Traces and labeled segments by (model, split), `sampled` unless the key says `greedy`.

    A model that stands alone is both `base` and `thinking`.
    """

    traces: dict[tuple[str, str], list[Trace]]
    segments: dict[tuple[str, str], list[list[Segment]]]
    alone: bool = False

    def pooled(self, split: str) -> tuple[list[Trace], list[list[Segment]]]:
        """What both models wrote in a split."""
        traces, segments = self.traces["base", split], self.segments["base", split]
        if self.alone:
            return traces, segments
        return (
            traces + self.traces["thinking", split],
            segments + self.segments["thinking", split],
        )
