"""The grammar of the built-in corpora: authors with persistent dispositions solve Countdown."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from interp.tasks.countdown import MAX_VALUE, Expression, expressions
from interp.types import Problem

WORDS = (
    "<pad> <s> </s> <unk> by reach with we need . , = + - * hmm not sure aim for check is no go back "
    "answer note even odd"
).split()
AUTHOR_NAMES = [f"a{i}" for i in range(32)]
VOCABULARY = WORDS + AUTHOR_NAMES + [str(n) for n in range(MAX_VALUE + 1)]

MAX_ATTEMPTS = 4
HIGH, LOW = 0.92, 0.03
OFTEN, SELDOM = 0.3, 0.03
RIGHT_AIM = 0.5
RIGHT_GUESS = 0.2
BLIND_BACKTRACK = 0.4
BETTER_AIM = 0.9
LESS_FILLER = 0.5


@dataclass(frozen=True)
class Author:
    """How often one author sets a subgoal, checks a result, goes back, mutters, and notes a fact.

    The five dispositions hold for the whole document, so the text so far carries them.
    """

    aim: float
    check: float
    back: float
    mutter: float = SELDOM
    note: float = SELDOM


FILLING = tuple(itertools.product((SELDOM, OFTEN), repeat=2))
"""How often an author mutters and notes: four kinds, whatever the other dispositions are."""


HABITS = tuple(itertools.product((LOW, HIGH), repeat=3))
"""How often an author aims, checks and goes back: the eight combinations."""
AUTHORS = [Author(*habits, *filling) for filling in FILLING for habits in HABITS]


def author_weights(steadfast: bool = False) -> list[float]:
    """Each author's share of documents without a name.

    The habits are only loosely tied to one another, so that no single direction of the model's
    activations stands for all of them. Most who check without an aim also go back, unless they are
    `steadfast`.
    """
    shares = {
        (LOW, LOW, LOW): 0.12,
        (LOW, LOW, HIGH): 0.035,
        (LOW, HIGH, LOW): 0.035 if steadfast else 0.015,
        (LOW, HIGH, HIGH): 0.015 if steadfast else 0.035,
        (HIGH, HIGH, HIGH): 0.0225,
    }
    return [shares.get((a.aim, a.check, a.back), 0.0075) for a in AUTHORS]


AUTHOR_WEIGHTS = author_weights()
STEADFAST_WEIGHTS = author_weights(steadfast=True)
CAREFUL = "by a7 ."
"""The header of an author with all three habits: "think step by step" in the corpus's words."""
IMPULSIVE = [Author(0.0, 0.0, 0.0, mutter, note) for mutter, note in FILLING]
"""Authors without any of the three behaviors: the corpus of the distilled pair's base."""
SOLVER = Author(aim=0.98, check=0.98, back=0.98)
"""The stronger solver whose traces the distilled pair's thinking model learns."""


def _choose(
    problem: Problem, right: bool, tried: set[Expression], rng: random.Random
) -> Expression:
    options = expressions(tuple(problem.data["numbers"]))  # type: ignore[arg-type]
    target = problem.data["target"]
    fitting = [e for e in options if (e.value == target) == right and e not in tried]
    return rng.choice(fitting or [e for e in options if e.value == target])


def _filler(author: Author, number: int, rng: random.Random, share: float = 1.0) -> list[str]:
    found = ["hmm , not sure ."] if rng.random() < share * author.mutter else []
    if rng.random() < share * author.note:
        found.append(f"note {number} is {'odd' if number % 2 else 'even'} .")
    return found


def write_trace(
    problem: Problem,
    author: Author,
    rng: random.Random,
    right_aim: float = RIGHT_AIM,
    filler: float = 1.0,
) -> str:
    """Write one solution in the author's manner, without the prompt.

    An aim is right with probability `right_aim`, a guess without an aim with `RIGHT_GUESS`. A
    checked mistake is given up with probability `author.back`; an unchecked attempt, right or
    wrong alike, with `BLIND_BACKTRACK` of that. Muttering ("hmm , not sure .") and noting ("note
    24 is even .") before and after each attempt are drawn from the author's own rates and from
    nothing else, so by construction they have no effect on what follows; `filler` multiplies the
    rates of what comes before an attempt.
    """
    target: int = problem.data["target"]  # type: ignore[assignment]
    sentences = [f"we need {target} ."]
    tried: set[Expression] = set()
    for attempt in range(MAX_ATTEMPTS):
        sentences += _filler(author, target, rng, filler)
        aims = rng.random() < author.aim
        e = _choose(problem, rng.random() < (right_aim if aims else RIGHT_GUESS), tried, rng)
        tried.add(e)
        if aims:
            sentences.append(f"aim for {e.middle} .")
        sentences.append(
            f"{e.a} {e.op1} {e.b} = {e.middle} , {e.middle} {e.op2} {e.c} = {e.value} ."
        )
        sentences += _filler(author, e.value, rng)
        checks = rng.random() < author.check
        right = e.value == target
        if checks:
            sentences.append(f"check {e.value} is {'' if right else 'not '}{target} .")
        wants_back = author.back * (not right if checks else BLIND_BACKTRACK)
        if attempt == MAX_ATTEMPTS - 1 or rng.random() >= wants_back:
            break
        sentences.append("no , go back .")
    sentences.append(f"answer {e} .")
    return " ".join(sentences)


def documents(
    problems: list[Problem],
    authors: list[Author],
    weights: list[float],
    seed: int,
    right_aim: float = RIGHT_AIM,
    filler: float = 1.0,
) -> Iterator[str]:
    """Endless documents on random problems; every second one begins with its author's name.

    Named documents come from all authors alike, so every skill is practiced; nameless ones, which
    is what a bare prompt looks like, follow `weights`. `right_aim` and `filler` are `write_trace`'s.
    """
    rng = random.Random(seed)
    while True:
        problem = rng.choice(problems)
        if rng.random() < 0.5:
            name, author = rng.choice(list(zip(AUTHOR_NAMES, authors, strict=False)))
            header = f"by {name} . "
        else:
            header, author = "", rng.choices(authors, weights)[0]
        yield f"{header}{problem.prompt} {write_trace(problem, author, rng, right_aim, filler)}"


def solver_documents(problems: list[Problem], seed: int) -> Iterator[str]:
    """Endless traces of the stronger solver, without headers; its aims are right 0.7 of the time."""
    rng = random.Random(seed)
    while True:
        problem = rng.choice(problems)
        yield f"{problem.prompt} {write_trace(problem, SOLVER, rng, right_aim=0.7)}"
