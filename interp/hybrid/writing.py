"""Writes the traces of an arm: what a worker needs to do so, and no more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.hybrid.decode import Arm, Decoded, decode_hybrid
from interp.pairs import Pair
from interp.setup import Setup
from interp.tasks import load_task
from interp.traces import graded, prompt_tokens, row_uniforms
from interp.types import Problem, Trace

STREAMS = ("token", "controller", "judge")


@dataclass(frozen=True)
class Writer:
    """A pair, how it writes, and how what it wrote is graded."""

    pair: Pair
    sampled: bool
    max_new_tokens: int
    grade: Callable[[Problem, str], bool]

    @classmethod
    def of(cls, setup: Setup) -> "Writer":
        """As a run says."""
        config = setup.config
        return cls(setup.pair, config.sampled, setup.max_new_tokens, load_task(config.task).grade)

    def draws(
        self, problem: Problem, seed: int, sample: int = 0
    ) -> Float[np.ndarray, "step stream"]:
        """A row's own uniform draws."""
        keys = [f"{sample}/{stream}" for stream in STREAMS]
        return np.stack([row_uniforms(seed, problem.id, k, self.max_new_tokens) for k in keys], 1)

    def decode(
        self,
        arm: Arm,
        seed: int,
        problems: Sequence[Problem],
        sample: int = 0,
        sampled: bool = False,
    ) -> tuple[list[Trace], list[Decoded]]:
        """Graded traces of the arm and what was steered in them."""
        pair = self.pair
        prompts = [prompt_tokens(pair.base, p.prompt) for p in problems]
        theirs = None if pair.alike else [prompt_tokens(pair.thinking, p.prompt) for p in problems]
        draws = torch.from_numpy(np.stack([self.draws(p, seed, sample) for p in problems]))
        rows = decode_hybrid(
            pair.base, pair.thinking, prompts, arm, draws,
            self.sampled or sampled, self.max_new_tokens,
            theirs, pair.vocabulary,
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
