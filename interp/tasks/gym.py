"""The data sets of reasoning-gym: problems made from a seed, graded by the data set's own grader."""

import re
from functools import cache
from importlib.util import find_spec

from interp.errors import UserError, unknown_name
from interp.tasks.answers import stated_answers
from interp.tasks.equality import is_right
from interp.tasks.families import by_length
from interp.tasks.grading import ask
from interp.tasks.numbers import number, plain
from interp.types import Problem

SIZE = 2000
"""How many problems each side has at most; a question that comes up again counts once."""
SEEDS = {True: 0, False: 1_000_000}
"""Seeds of held-out and of training problems: far apart, for problem i is made from seed + i."""

_CHUNK = 20
_SECONDS = 120
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
RUN_CODE = (
    "codeio", "countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24",
    "simple_integration",
)  # fmt: skip
"""Data sets that run text as code: to make a problem, or to give full marks to any answer."""


def gym_names() -> list[str]:
    """The data sets that can be used; raises `UserError` where reasoning-gym is not installed."""
    if find_spec("reasoning_gym") is None:
        raise UserError(
            "The data sets of reasoning-gym need the package, which is not installed: "
            "pip install 'whenlens[tasks]'."
        )
    return [name for name in _names() if name not in RUN_CODE]


@cache
def _names() -> list[str]:
    return ask("names", _SECONDS) or []


class GymTask:
    """One data set of reasoning-gym (Stojanovski et al. 2505.24760) at its default difficulty.

    No corpus has seen any of its problems: all of one seed are held out, and those of another seed far from
    it serve for training. Making them takes milliseconds each, but half a second for `futoshiki` and
    `knight_swap`. Raises `UserError` for an unknown data set, and for one that runs answers as code.
    """

    instruction = (
        "Reason step by step, and put only your final answer between <answer> and </answer>."
    )

    def __init__(self, name: str) -> None:
        if name in RUN_CODE:
            raise UserError(
                f"The data set {name!r} of reasoning-gym is not used, because it runs text as code: choose "
                "another one."
            )
        if name not in gym_names():
            raise unknown_name("data set", name, gym_names())
        self.name = name

    def problems(self, held_out: bool = True) -> tuple[Problem, ...]:
        """Up to `SIZE` problems with different questions; none of the training ones is held out."""
        return _problems(self.name, held_out)

    def grade(self, problem: Problem, text: str) -> bool:
        """Whether the answers that the text states are right, as `stated_answers` finds them.

        A number is right where it is equal. Anything else, and a number that the data set would round, needs
        full marks from the data set's grader, given that it gives none to junk, to another problem's answer and
        to hedges; where it does, its own answer's text is the only right one.
        """
        gold = problem.data["answer"]
        numeric = gold is not None and number(str(gold)) is not None
        found = stated_answers(text, numeric)
        return bool(found) and all(self._right(problem, answer, numeric) for answer in found)

    def _right(self, problem: Problem, answer: str, numeric: bool) -> bool:
        gold = problem.data["answer"]
        if gold is not None and answer.strip() == str(gold).strip():
            return True
        if not numeric:
            return any(self._full_marks(problem, x) for x in dict.fromkeys((answer, plain(answer))))
        if is_right(answer, str(gold), problem.prompt):
            return True
        decimal = plain(answer).replace(",", "")
        return bool(_DECIMAL.fullmatch(decimal)) and self._full_marks(problem, decimal)

    def _full_marks(self, problem: Problem, answer: str) -> bool:
        data = problem.data
        place = {key: data[key] for key in ("seed", "index")}
        found = ask(
            "score",
            _SECONDS,
            name=self.name,
            size=SIZE,
            gold=data["answer"],
            answer=answer,
            **place,
        )
        return found is True

    def family(self, problem: Problem) -> str:
        """Whether the question is longer than half of the data set's."""
        return str(problem.data["family"])


@cache
def _problems(name: str, held_out: bool) -> tuple[Problem, ...]:
    seed, kind = SEEDS[held_out], "" if held_out else "train-"
    found, seen = [], set() if held_out else {p.prompt for p in _problems(name, True)}
    for first in range(0, SIZE, _CHUNK):
        last = min(first + _CHUNK, SIZE)
        made = ask("entries", _SECONDS, name=name, seed=seed, size=SIZE, first=first, last=last)
        if made is None:
            raise UserError(
                f"Problems {first} to {last - 1} of {name!r} take too long to make: choose another data set."
            )
        for index, entry in enumerate(made, first):
            question = str(entry["question"]).strip()
            if question in seen or entry["answer"] == "":
                continue
            seen.add(question)
            data = {"seed": seed, "index": index, "answer": entry["answer"]}
            found.append(Problem(f"{name}:{kind}{index}", question, data))
    return by_length(found)
