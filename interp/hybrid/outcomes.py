"""What arms did on problems: generated shard by shard, kept as JSON, read back as arrays."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from interp.hybrid.decode import Arm, Decoded, decode_hybrid
from interp.pairs import Pair
from interp.runs import content_key, read_json, write_json
from interp.setup import Setup
from interp.tasks import load_task
from interp.traces import graded, prompt_tokens, row_uniforms
from interp.types import Problem, Trace

SHARD = 512
STREAMS = ("token", "controller", "judge")
FIELDS = (
    "correct", "stopped", "n_prompt", "n_tokens", "steered", "changed", "eligible", "edited", "passes",
)  # fmt: skip
Write = Callable[[Sequence[Problem]], tuple[list[Trace], list[Decoded]]]
"""Writes a graded trace for each problem, and says what was done in it."""


@dataclass(frozen=True)
class Outcome:
    """One arm on the problems with one seed: a number for each problem, wall time in seconds.

    `rows` are the decoded rows, where these were kept.
    """

    numbers: dict[str, Float[np.ndarray, " problem"]]
    seconds: float
    rows: list[Decoded] | None = None

    def __getitem__(self, field: str) -> Float[np.ndarray, " problem"]:
        return self.numbers[field]


def numbers_of(traces: Sequence[Trace], rows: Sequence[Decoded]) -> dict[str, list[float]]:
    """`FIELDS` of each row."""
    found: dict[str, list[float]] = {field: [] for field in FIELDS}
    for trace, row in zip(traces, rows, strict=True):
        values = (
            trace.correct,
            trace.stopped,
            trace.n_prompt,
            len(row.tokens),
            sum(c >= 0 for c in row.steered),
            sum(row.changed),
            row.eligible,
            row.edited,
            row.passes,
        )
        for field, value in zip(FIELDS, values, strict=True):
            found[field].append(float(value))
    return found


class Bench:
    """Runs arms on one split's problems. `folder` keeps every finished shard of every arm."""

    def __init__(
        self,
        pair: Pair,
        problems: Sequence[Problem],
        folder: Path,
        sampled: bool,
        max_new_tokens: int,
        task: str = "countdown",
    ) -> None:
        self.pair, self.problems, self.folder = pair, list(problems), folder
        self.sampled, self.max_new_tokens = sampled, max_new_tokens
        self.grade = load_task(task).grade

    @classmethod
    def of(cls, setup: Setup, split: str, folder: Path, limit: int | None = None) -> "Bench":
        """For one split of a run, or its first problems."""
        problems = setup.splits[split][:limit]
        config = setup.config
        return cls(setup.pair, problems, folder, config.sampled, setup.max_new_tokens, config.task)

    def draws(
        self, problem: Problem, seed: int, sample: int = 0
    ) -> Float[np.ndarray, "step stream"]:
        """A row's own uniform draws."""
        keys = [f"{sample}/{stream}" for stream in STREAMS]
        return np.stack([row_uniforms(seed, problem.id, k, self.max_new_tokens) for k in keys], 1)

    def decode(
        self,
        arm: Arm,
        problems: Sequence[Problem],
        seed: int,
        sample: int = 0,
        sampled: bool = False,
    ) -> tuple[list[Trace], list[Decoded]]:
        """Graded traces of the arm and what was steered in them."""
        prompts = [prompt_tokens(self.pair.base, p.prompt) for p in problems]
        draws = torch.from_numpy(np.stack([self.draws(p, seed, sample) for p in problems]))
        rows = decode_hybrid(
            self.pair.base, self.pair.thinking, prompts, arm, draws,
            self.sampled or sampled, self.max_new_tokens,
        )  # fmt: skip
        return self.traces(problems, rows, sample, sampled), rows

    def traces(
        self,
        problems: Sequence[Problem],
        rows: Sequence[Decoded],
        sample: int = 0,
        sampled: bool = False,
    ) -> list[Trace]:
        """Graded traces of decoded rows."""
        base = self.pair.base
        return [
            graded(
                base,
                problem,
                prompt_tokens(base, problem.prompt),
                row.tokens,
                self.grade,
                self.sampled or sampled,
                sample,
            )
            for problem, row in zip(problems, rows, strict=True)
        ]

    def outcome(
        self, name: str, seed: int, make: Callable[[], Arm], keep_rows: bool = False
    ) -> Outcome:
        """The arm's outcome with one seed."""

        def writer() -> Write:
            arm = make()
            return lambda problems: self.decode(arm, problems, seed)

        return self.kept(name, seed, writer, keep_rows)

    def kept(
        self, name: str, seed: int, make: Callable[[], Write], keep_rows: bool = False
    ) -> Outcome:
        """What was written under this name; shards that are there already are not written again."""
        write, parts = None, []
        for number, begin in enumerate(range(0, len(self.problems), SHARD)):
            path = self.folder / f"{content_key(name)}-{seed}-{number}.json"
            if not path.exists():
                write = write or make()
                start = time.perf_counter()
                traces, rows = write(self.problems[begin : begin + SHARD])
                seconds = time.perf_counter() - start
                part = {"arm": name, "seconds": seconds, **numbers_of(traces, rows)}
                if keep_rows:
                    part["rows"] = [[r.tokens, r.steered, r.changed] for r in rows]
                write_json(path, part)
            parts.append(read_json(path))
        return Outcome(
            {field: np.array([v for part in parts for v in part[field]]) for field in FIELDS},
            sum(part["seconds"] for part in parts),
            [Decoded(*row) for part in parts for row in part["rows"]] if keep_rows else None,
        )
