"""What the base can do without a thinking model: a prompt, power sampling, and votes at equal cost."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from interp.hybrid.decode import Arm, Decoded
from interp.hybrid.measures import Scale
from interp.hybrid.outcomes import Bench, Outcome, Write
from interp.power import power_traces
from interp.traces import generate
from interp.types import Problem, Trace


def _rows(traces: Sequence[Trace], passes: Sequence[int]) -> list[Decoded]:
    return [
        Decoded(list(t.tokens[t.n_prompt :]), passes=n) for t, n in zip(traces, passes, strict=True)
    ]


def prompted(bench: Bench, words: str, seed: int) -> Write:
    """The base with `words` before each problem."""

    def write(problems: Sequence[Problem]) -> tuple[list[Trace], list[Decoded]]:
        asked = [replace(p, prompt=f"{words} {p.prompt}") for p in problems]
        traces = generate(
            bench.pair.base, asked, bench.grade, sampled=bench.sampled, seed=seed,
            max_new_tokens=bench.max_new_tokens,
        )  # fmt: skip
        return traces, _rows(traces, [len(t.tokens) - 1 for t in traces])

    return write


def power_sampled(bench: Bench, seed: int) -> Write:
    """Power sampling (Karan & Du 2510.14901) from the base.

    Passes are those of the prompt and of every token sampled, kept or not: reading heads again and
    rescoring are not counted, as caches would spare them.
    """

    def write(problems: Sequence[Problem]) -> tuple[list[Trace], list[Decoded]]:
        traces, sampled = power_traces(
            bench.pair.base, problems, bench.grade, seed=seed, max_new_tokens=bench.max_new_tokens
        )
        passes = [t.n_prompt + n for t, n in zip(traces, sampled, strict=True)]
        return traces, _rows(traces, passes)

    return write


def majority(traces: Sequence[Trace]) -> Trace:
    """A trace with the commonest last sentence, the first such one; unfinished traces do not vote."""
    answers = [t.text.rstrip(" .").rpartition(".")[2].strip() for t in traces if t.stopped]
    if not answers:
        return traces[0]
    winner = Counter(answers).most_common(1)[0][0]
    finished = [t for t in traces if t.stopped]
    return finished[answers.index(winner)]


Sample = Callable[[int], tuple[Sequence[Trace], float]]
"""The k-th sampled trace of every problem, and what they cost, in tokens passed through a model."""


def voted(name: str, sample: Sample, budget: float, scale: Scale) -> dict:
    """Majority vote of as many samples as the `budget` (tokens a problem) allows, at least one."""
    first, cost = sample(0)
    votes = max(1, round(budget * len(first) / cost))
    made = [first]
    for k in range(1, votes):
        traces, more = sample(k)
        made.append(traces)
        cost += more
    chosen = [majority(traces) for traces in zip(*made, strict=True)]
    return {
        "name": name,
        "votes": votes,
        "tokens_per_problem": cost / len(first),
        "accuracy": scale.accuracy(np.array([float(t.correct) for t in chosen])),
    }


def equal_cost(bench: Bench, gated: Arm, power: Outcome, seed: int, scale: Scale) -> list[dict]:
    """Power sampling, votes of an arm that needs no thinking model, and the base's own votes.

    All at the token cost of power sampling: passes, prompts apart; through part of the blocks, parts.
    """
    base = bench.pair.base

    def entropy(k: int) -> tuple[Sequence[Trace], float]:
        traces, rows = bench.decode(gated, bench.problems, seed, sample=k, sampled=True)
        prompts = sum(t.n_prompt for t in traces)
        return traces, sum(row.passes for row in rows) - prompts

    def own(k: int) -> tuple[Sequence[Trace], float]:
        traces = generate(
            base, bench.problems, bench.grade, seed=seed + 1000 * k,
            max_new_tokens=bench.max_new_tokens,
        )  # fmt: skip
        return traces, float(sum(len(t.tokens) - t.n_prompt for t in traces))

    budget = float((power["passes"] - power["n_prompt"]).mean())
    return [
        {
            "name": "power-sampling",
            "votes": 1,
            "tokens_per_problem": budget,
            "accuracy": scale.accuracy(power["correct"]),
        },
        voted("entropy", entropy, budget, scale),
        voted("base", own, budget, scale),
    ]
