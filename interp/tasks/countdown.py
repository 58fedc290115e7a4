"""Countdown with three numbers: reach the target by folding + - * from left to right."""

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache

from interp.types import Problem

NUMBERS = range(1, 21)
TARGETS = range(10, 100)
MAX_VALUE = 99
HELD_OUT_SHARE = 0.2

_INT = r"(0|[1-9][0-9]{0,5})"
_ANSWER = re.compile(rf"answer {_INT} ([-+*]) {_INT} ([-+*]) {_INT} \.")


@dataclass(frozen=True)
class Expression:
    """`(a op1 b) op2 c`, evaluated from left to right; `middle` is the value of `a op1 b`."""

    a: int
    op1: str
    b: int
    op2: str
    c: int
    middle: int
    value: int

    def __str__(self) -> str:
        return f"{self.a} {self.op1} {self.b} {self.op2} {self.c}"


def apply(op: str, left: int, right: int) -> int:
    """Evaluate one of the three operations."""
    if op == "+":
        return left + right
    return left - right if op == "-" else left * right


@cache
def expressions(numbers: tuple[int, int, int]) -> tuple[Expression, ...]:
    """All distinct left folds of the three numbers whose two values lie in 0 to 99."""
    found = {}
    for a, b, c in itertools.permutations(numbers):
        for op1, op2 in itertools.product("+-*", repeat=2):
            middle = apply(op1, a, b)
            value = apply(op2, middle, c)
            if 0 <= middle <= MAX_VALUE and 0 <= value <= MAX_VALUE:
                found[a, op1, b, op2, c] = Expression(a, op1, b, op2, c, middle, value)
    return tuple(found.values())


def is_held_out(numbers: tuple[int, int, int]) -> bool:
    """Whether this multiset of numbers is kept out of every corpus and every training run."""
    key = ",".join(map(str, sorted(numbers)))
    digest = hashlib.sha256(f"countdown:{key}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < HELD_OUT_SHARE


@cache
def _problems(held_out: bool) -> tuple[Problem, ...]:
    found = []
    for numbers in itertools.combinations_with_replacement(NUMBERS, 3):
        if is_held_out(numbers) != held_out:
            continue
        reachable = {e.value for e in expressions(numbers)}
        for target in sorted(reachable & set(TARGETS)):
            name = "countdown:" + "-".join(map(str, numbers)) + f":{target}"
            # The order of the numbers in the prompt must not give the answer away.
            shuffled = sorted(
                numbers, key=lambda n: hashlib.sha256(f"{name}/{n}".encode()).digest()
            )
            prompt = f"reach {target} with {' '.join(map(str, shuffled))} ."
            found.append(Problem(name, prompt, {"numbers": list(numbers), "target": target}))
    return tuple(found)


class Countdown:
    """The task: `reach 36 with 3 8 12 .` is solved by `answer 3 * 8 + 12 .`.

    Problems are split into training and held-out ones by their multiset of numbers, so that no
    corpus has seen any expression over a held-out problem's numbers.
    """

    name = "countdown"
    instruction = ""

    def problems(self, held_out: bool = True) -> tuple[Problem, ...]:
        """All problems with a reachable target from 10 to 99, in a fixed order."""
        return _problems(held_out)

    def grade(self, problem: Problem, text: str) -> bool:
        """Whether the trace's last sentence is a right answer, and its only answer.

        The expression is folded from left to right and must use each number exactly once.
        """
        if text.split().count("answer") != 1:
            return False
        start = text.index("answer")
        match = _ANSWER.fullmatch(text[start:].strip(" "))
        if match is None:
            return False
        a, op1, b, op2, c = match.groups()
        used = sorted((int(a), int(b), int(c)))
        if used != sorted(problem.data["numbers"]):  # type: ignore[call-overload]
            return False
        return apply(op2, apply(op1, int(a), int(b)), int(c)) == problem.data["target"]

    def family(self, problem: Problem) -> str:
        """What a problem asks for: whether sums and differences reach the target."""
        numbers, target = problem.data["numbers"], problem.data["target"]
        found = expressions(tuple(numbers))  # type: ignore[arg-type]
        plain = any(e.value == target and "*" not in (e.op1, e.op2) for e in found)
        return "sums suffice" if plain else "needs a product"
