"""What the base can do without a thinking model: a prompt, power sampling, and votes at equal cost."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from interp.engine import HERE, Engine
from interp.hybrid.decode import Arm, Decoded
from interp.hybrid.measures import Scale
from interp.hybrid.outcomes import Bench, Outcome
from interp.hybrid.writing import Writer
from interp.power import power_traces
from interp.traces import generate
from interp.types import Problem, Trace


def _rows(traces: Sequence[Trace], passes: Sequence[int]) -> list[Decoded]:
    return [
        Decoded(list(t.tokens[t.n_prompt :]), passes=n) for t, n in zip(traces, passes, strict=True)
    ]


Written = tuple[list[Trace], list[Decoded]]


def prompted(writer: Writer, words: str, seed: int, problems: Sequence[Problem]) -> Written:
    """The base with `words` before each problem."""
    asked = [replace(p, prompt=f"{words} {p.prompt}") for p in problems]
    traces = generate(
        writer.pair.base, asked, writer.grade, sampled=writer.sampled, seed=seed,
        max_new_tokens=writer.max_new_tokens,
    )  # fmt: skip
    return traces, _rows(traces, [len(t.tokens) - 1 for t in traces])


def power_sampled(writer: Writer, seed: int, problems: Sequence[Problem]) -> Written:
    """Power sampling (Karan & Du 2510.14901) from the base.

    Passes are those of the prompt and of every token sampled, kept or not: reading heads again and
    rescoring are not counted, as caches would spare them.
    """
    traces, sampled = power_traces(
        writer.pair.base, problems, writer.grade, seed=seed, max_new_tokens=writer.max_new_tokens
    )
    passes = [t.n_prompt + n for t, n in zip(traces, sampled, strict=True)]
    return traces, _rows(traces, passes)


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


def voted(name: str, sample: Sample, budget: float, scale: Scale, engine: Engine = HERE) -> dict:
    """Majority vote of as many samples as the `budget` (tokens a problem) allows, at least one."""
    [(first, cost)] = engine.map_shards(sample, [0])
    votes = max(1, round(budget * len(first) / cost))
    made = [first]
    for traces, more in engine.map_shards(sample, range(1, votes)):
        made.append(traces)
        cost += more
    chosen = [majority(traces) for traces in zip(*made, strict=True)]
    return {
        "name": name,
        "votes": votes,
        "tokens_per_problem": cost / len(first),
        "accuracy": scale.accuracy(np.array([float(t.correct) for t in chosen])),
    }


def _gated(writer: Writer, arm: Arm, problems: Sequence[Problem], seed: int, k: int):
    traces, rows = writer.decode(arm, seed, problems, sample=k, sampled=True)
    return traces, sum(row.passes for row in rows) - sum(t.n_prompt for t in traces)


def _own(writer: Writer, problems: Sequence[Problem], seed: int, k: int):
    traces = generate(
        writer.pair.base, problems, writer.grade, seed=seed + 1000 * k,
        max_new_tokens=writer.max_new_tokens,
    )  # fmt: skip
    return traces, float(sum(len(t.tokens) - t.n_prompt for t in traces))


def equal_cost(bench: Bench, gated: Arm, power: Outcome, seed: int, scale: Scale) -> list[dict]:
    """Power sampling, votes of an arm that needs no thinking model, and the base's own votes.

    All at the token cost of power sampling: passes, prompts apart; through part of the blocks, parts.
    """
    entropy = partial(_gated, bench.writer, gated, bench.problems, seed)
    own = partial(_own, bench.writer, bench.problems, seed)
    budget = float((power["passes"] - power["n_prompt"]).mean())
    return [
        {
            "name": "power-sampling",
            "votes": 1,
            "tokens_per_problem": budget,
            "accuracy": scale.accuracy(power["correct"]),
        },
        voted("entropy", entropy, budget, scale, bench.engine),
        voted("base", own, budget, scale, bench.engine),
    ]
