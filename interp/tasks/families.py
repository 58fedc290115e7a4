"""Kinds of problems, where a task has none of its own."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from interp.types import Problem


def by_length(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems, each with the half by length of its prompt as `data["family"]`."""
    middle = median(len(p.prompt) for p in problems) if problems else 0
    words = {True: "the question is long", False: "the question is short"}
    return tuple(
        replace(p, data={**p.data, "family": words[len(p.prompt) > middle]}) for p in problems
    )
