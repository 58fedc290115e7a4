"""What passes between the rooms: problems, traces and segments, as frozen dataclasses."""

from dataclasses import dataclass, field

BEHAVIORS = (
    "initializing",
    "deduction",
    "adding-knowledge",
    "example-testing",
    "uncertainty-estimation",
    "backtracking",
    "verification",
    "subgoal-setting",
    "final-answer",
)
"""The names a segment may carry (the taxonomy of Venhoff et al. 2506.18167 and Gandhi et al.
2503.01307)."""


@dataclass(frozen=True)
class Problem:
    """One task instance: `prompt` is what a model reads, `data` what the verifier needs."""

    id: str
    prompt: str
    data: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """One generated answer: `tokens` are the prompt's and the completion's ids, without padding.

    `stopped` is true when the model ended the trace itself and false when it hit the token limit;
    `correct` is the task verifier's verdict on the completion's text.
    """

    problem_id: str
    model: str
    prompt: str
    text: str
    tokens: tuple[int, ...]
    n_prompt: int
    stopped: bool
    correct: bool
    sampled: bool = False
    sample: int = 0


@dataclass(frozen=True)
class Segment:
    """A sentence of a trace: tokens `start` to `end` (exclusive) of `Trace.tokens`."""

    start: int
    end: int
    text: str
    behavior: str | None = None
