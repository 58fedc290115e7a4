"""Plain sentences, some of them questions: a property of sentences that any language model has."""

import random
from functools import cache

from interp.types import Problem

N_PROBLEMS = 600
N_SENTENCES = 6
SHARES = (0.15, 0.5, 0.85)
"""Share of questions in a problem's sentences: each writer keeps to one of them."""

_PEOPLE = (
    "the baker", "my neighbor", "the old captain", "our teacher", "the young doctor", "the gardener",
    "my sister", "the mayor", "the tall farmer", "your uncle", "the violin player", "the shopkeeper",
)  # fmt: skip
_DEEDS = (
    ("open the shop", "opens the shop"), ("walk to the river", "walks to the river"),
    ("paint the fence", "paints the fence"), ("write long letters", "writes long letters"),
    ("sell fresh bread", "sells fresh bread"), ("repair the old clock", "repairs the old clock"),
    ("feed the horses", "feeds the horses"), ("read the newspaper", "reads the newspaper"),
    ("water the roses", "waters the roses"), ("play chess in the park", "plays chess in the park"),
    ("cook soup for the children", "cooks soup for the children"), ("travel by train", "travels by train"),
)  # fmt: skip
_TIMES = (
    "every morning", "on Sundays", "in winter", "after dinner", "before sunrise", "once a month",
    "in the evening", "when it rains",
)  # fmt: skip
_ASKED = ("Why does", "When does", "Where does", "How does")


def _sentence(question: bool, rng: random.Random) -> str:
    who, (plain, third), when = rng.choice(_PEOPLE), rng.choice(_DEEDS), rng.choice(_TIMES)
    if not question:
        return f"{who[0].upper()}{who[1:]} {third} {when}."
    if rng.random() < 0.5:
        return f"Does {who} {plain} {when}?"
    return f"{rng.choice(_ASKED)} {who} {plain}?"


@cache
def _problems() -> tuple[Problem, ...]:
    rng, found = random.Random(0), []
    for i in range(N_PROBLEMS):
        share = SHARES[i % len(SHARES)]
        # The last one is none: a question may call for an answer instead of more text.
        asks = [rng.random() < share for _ in range(N_SENTENCES - 1)] + [False]
        sentences = [_sentence(question, rng) for question in asks]
        found.append(Problem(f"questions:{i}", " ".join(sentences), {"share": share}))
    return tuple(found)


class Questions:
    """Go on with a text of questions and statements; there is nothing to solve, so no trace is right.

    Every text keeps to its own share of questions, so what has been said tells what may follow.
    """

    name = "questions"
    instruction = ""

    def problems(self, held_out: bool = True) -> tuple[Problem, ...]:
        """Texts to go on with, in a fixed order; no model was trained on them."""
        return _problems()

    def grade(self, problem: Problem, text: str) -> bool:
        """Never: going on is no answer."""
        return False

    def family(self, problem: Problem) -> str:
        """The text's share of questions."""
        return f"{problem.data['share']:.0%} questions"
