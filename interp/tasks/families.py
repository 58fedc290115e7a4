"""Kinds of problems, where a task has none of its own."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median_high, median_low

from interp.types import Problem

MIN_SHARE = 0.2
"""The least share of the problems that makes a kind of its own."""


def by_length(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems, with their family in `data`: short or long questions, as near to halves as lengths allow.

    Where one of the two would have less than `MIN_SHARE` of the problems, all are of one family.
    """
    lengths = [len(p.prompt) for p in problems]
    # The lengths that a question must reach to be long: with ties at the median, there are two ways to cut.
    above = [x for x in lengths if x > median_low(lengths)]
    cuts = [median_high(lengths), *([min(above)] if above else [])]
    short = {cut: sum(x < cut for x in lengths) / len(lengths) for cut in cuts}
    cut = min(cuts, key=lambda cut: abs(short[cut] - 0.5))

    def family(length: int) -> str:
        if not MIN_SHARE <= short[cut] <= 1 - MIN_SHARE:
            return "the question has any length"
        return "the question is long" if length >= cut else "the question is short"

    return tuple(
        replace(p, data={**p.data, "family": family(n)})
        for p, n in zip(problems, lengths, strict=True)
    )
