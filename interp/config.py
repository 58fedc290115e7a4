"""What a run depends on, and the problems and texts that its stages share."""

from dataclasses import dataclass

from interp.runs import content_key
from interp.tasks import Countdown
from interp.types import Problem, Segment, Trace
from probes import split_groups


@dataclass(frozen=True)
class Config:
    """What a run depends on. Problem counts are upper limits of each split."""

    pair: str
    seed: int = 0
    behaviors: tuple[str, ...] = (
        "subgoal-setting",
        "verification",
        "backtracking",
        "uncertainty-estimation",
    )
    annotator: str = "grammar"
    n_fit: int = 600
    n_select: int = 400
    n_report: int = 500
    n_random: int = 200
    n_shuffled: int = 20
    n_points: int = 144
    n_null_problems: int = 40


@dataclass(frozen=True)
class HybridConfig:
    """What a run depends on. Problem counts are upper limits of each split.

    `seed` splits the problems; seeds `seed` to `seed + n_seeds - 1` are those of fits, controls
    and draws. `n_screen` is how many of the select problems every combination is tried on before the best
    meet all of them. `prompt` is what the prompt baseline puts before a problem (None: the pair's own
    words), `max_tokens` the budget of prompt and trace together.
    """

    pair: str
    seed: int = 0
    n_seeds: int = 5
    sampled: bool = False
    annotator: str = "grammar"
    n_fit: int = 600
    n_select: int = 400
    n_screen: int = 150
    n_report: int = 500
    n_random: int = 20
    sizes: tuple[int, ...] = (8, 10, 15)
    max_tokens: int = 169
    prompt: str | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of fits, controls and draws."""
        return tuple(range(self.seed, self.seed + self.n_seeds))


@dataclass(frozen=True)
class DivergenceConfig:
    """What a run depends on. Problem counts are upper limits of each split.

    `n_random` random directions stand beside each one, `n_points` disagreements and as many agreements
    of a split are read for curves and probes, a disagreement of each of `n_patched` traces is patched
    at `n_offsets` positions, `n_atlas` traces of each kind are shown. `max_tokens` is the budget of prompt
    and trace together.
    """

    pair: str
    seed: int = 0
    sampled: bool = False
    behaviors: tuple[str, ...] = Config.behaviors
    annotator: str = "grammar"
    n_fit: int = 400
    n_select: int = 200
    n_report: int = 500
    n_random: int = 100
    n_points: int = 1000
    n_patched: int = 100
    n_offsets: int = 8
    n_atlas: int = 60
    max_tokens: int = 169


def split_problems(config: Config | HybridConfig | DivergenceConfig) -> dict[str, list[Problem]]:
    """Held-out problems for fitting, selecting and reporting; no problem serves two ends."""
    problems = Countdown().problems()
    shares = {"fit": 0.3, "select": 0.2, "report": 0.5}
    masks = split_groups([p.id for p in problems], shares, config.seed)
    limits = {"fit": config.n_fit, "select": config.n_select, "report": config.n_report}
    splits = {}
    for name, mask in masks.items():
        chosen = [p for p, inside in zip(problems, mask, strict=True) if inside]
        chosen.sort(key=lambda p: content_key(config.seed, p.id))
        splits[name] = chosen[: limits[name]]
    return splits


@dataclass
class Material:
    """Traces and labeled segments by (model, split), `sampled` unless the key says `greedy`."""

    traces: dict[tuple[str, str], list[Trace]]
    segments: dict[tuple[str, str], list[list[Segment]]]
