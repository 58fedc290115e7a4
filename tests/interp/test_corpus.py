"""Corpus documents: held-out problems stay out, and dispositions do what they say."""

import itertools
import re

import numpy as np
import pytest

from interp.organisms.corpus import (
    AUTHOR_WEIGHTS,
    AUTHORS,
    BETTER_AIM,
    IMPULSIVE,
    LESS_FILLER,
    RIGHT_AIM,
    STEADFAST_WEIGHTS,
    VOCABULARY,
    documents,
    solver_documents,
)
from interp.tasks import load_task
from interp.types import Problem

TASK = load_task("countdown")
TRAINING = list(TASK.problems(held_out=False))
HEAD = re.compile(r"^(?:by (a\d+) \. )?reach (\d+) with (\d+) (\d+) (\d+) \. ")
FOLD = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+) , (\d+) ([-+*]) (\d+) = (\d+) \.")


def take(stream, n):
    return list(itertools.islice(stream, n))


def careful(seed=0):
    return documents(TRAINING, AUTHORS, AUTHOR_WEIGHTS, seed)


def parse(document):
    """The document's problem, read from its own words, and its completion."""
    head = HEAD.match(document)
    target, *numbers = map(int, head.groups()[1:])
    problem = Problem("x", head.group(0), {"numbers": numbers, "target": target})
    return problem, document[head.end() :]


@pytest.fixture(scope="module")
def many():
    return [parse(d) for d in take(careful(1), 20_000)]


@pytest.mark.parametrize(
    "stream",
    [careful, lambda: solver_documents(TRAINING, 0)],
    ids=["corpus", "solver"],
)
def test_no_document_uses_a_held_out_multiset(stream):
    held_out = {tuple(sorted(p.data["numbers"])) for p in TASK.problems(held_out=True)}
    seen = {tuple(sorted(parse(d)[0].data["numbers"])) for d in take(stream(), 3000)}
    assert not seen & held_out
    assert len(seen) > 300


def test_every_word_is_in_the_vocabulary():
    words = {word for d in take(careful(), 3000) for word in d.split()}
    assert words <= set(VOCABULARY)
    assert len(VOCABULARY) == len(set(VOCABULARY))


def test_a_document_is_right_exactly_when_its_last_attempt_reached_the_target(many):
    outcomes = []
    for problem, text in many[:3000]:
        last = FOLD.findall(text)[-1]
        reached = int(last[-1]) == problem.data["target"]
        assert TASK.grade(problem, text) == reached
        assert f"answer {last[0]} {last[1]} {last[2]} {last[5]} {last[6]} ." in text
        outcomes.append(reached)
    assert 0.2 < np.mean(outcomes) < 0.8


def test_every_line_of_arithmetic_is_true(many):
    for problem, text in many[:3000]:
        for a, op1, b, middle, again, op2, c, value in FOLD.findall(text):
            assert eval(f"{a}{op1}{b}") == int(middle) == int(again)
            assert eval(f"{middle}{op2}{c}") == int(value)
            assert sorted(map(int, (a, b, c))) == sorted(problem.data["numbers"])


def test_notes_tell_the_parity_of_the_target_or_of_the_last_value(many):
    noted = 0
    for problem, text in many[:3000]:
        for note in re.finditer(r"note (\d+) is (even|odd) \.", text):
            number, values = int(note.group(1)), re.findall(r"= (\d+)", text[: note.start()])
            assert number in {problem.data["target"], *map(int, values[-1:])}
            assert (number % 2 == 1) == (note.group(2) == "odd")
            noted += 1
    assert noted > 500


@pytest.mark.parametrize(
    ("right_aim", "filler"), [(RIGHT_AIM, 1.0), (BETTER_AIM, LESS_FILLER)], ids=["early", "late"]
)
def test_aims_and_filling_are_as_often_as_asked(right_aim, filler):
    aimed, before, after = [], [], []
    stream = documents(TRAINING, AUTHORS, STEADFAST_WEIGHTS, 2, right_aim, filler)
    for problem, text in map(parse, take(stream, 10_000)):
        first = FOLD.search(text)
        opening, following = text[: first.start()], text[first.end() :]
        before.append("hmm" in opening)
        after.append(following.startswith(" hmm"))
        if "aim for" in opening:
            aimed.append(int(first.groups()[-1]) == problem.data["target"])
    assert np.mean(aimed) == pytest.approx(right_aim, abs=0.03)
    assert np.mean(before) == pytest.approx(filler * np.mean(after), abs=0.02)


def test_checks_say_the_truth(many):
    checked = 0
    for problem, text in many[:3000]:
        target = problem.data["target"]
        for value, is_not in re.findall(r"check (\d+) is (not )?", text):
            assert (int(value) != target) == bool(is_not)
            checked += 1
    assert checked > 500


@pytest.mark.parametrize("filler", ["hmm , not sure", "note"])
@pytest.mark.parametrize("named", [True, False])
def test_filling_before_the_first_attempt_says_nothing_about_what_follows(many, named, filler):
    # Only the first attempt, because a document with many attempts has more places to fill;
    # named and nameless documents apart, because they follow different mixes of authors.
    texts = [(p, t) for p, t in many if p.prompt.startswith("by") == named]
    opening = [re.split("aim|[0-9]+ [-+*]", t)[0] for _, t in texts]
    first = np.array([filler in text for text in opening])
    for outcome in (
        [TASK.grade(p, t) for p, t in texts],
        ["aim for" in t for _, t in texts],
        ["check" in t for _, t in texts],
        ["go back" in t for _, t in texts],
    ):
        with_it, without = np.array(outcome)[first], np.array(outcome)[~first]
        error = np.sqrt(with_it.var() / len(with_it) + without.var() / len(without))
        assert min(len(with_it), len(without)) > 1000
        assert abs(with_it.mean() - without.mean()) < 3 * error


def test_impulsive_documents_have_no_subgoal_check_or_backtrack():
    text = " ".join(take(documents(TRAINING, IMPULSIVE, [1.0] * len(IMPULSIVE), 0), 3000))
    words = set(text.split())
    assert not words & {"aim", "for", "check", "no", "go", "back"}
    assert {"hmm", "note", "answer"} <= words


def test_the_header_names_the_disposition():
    found = {}
    for document in take(careful(2), 20_000):
        name = HEAD.match(document).group(1)
        if name:
            found.setdefault(name, []).append("aim for" in document)
    assert len(found) == len(AUTHORS)
    for name, aims in found.items():
        author = AUTHORS[int(name[1:])]
        if author.aim > 0.5:
            assert np.mean(aims) > 0.85
        else:
            assert np.mean(aims) < 0.2


def test_the_solver_is_right_far_more_often_than_the_corpus(many):
    solved = [TASK.grade(*parse(d)) for d in take(solver_documents(TRAINING, 0), 2000)]
    assert np.mean(solved) > 0.85
    assert np.mean([TASK.grade(p, t) for p, t in many[:2000]]) < 0.6
    assert all(d.startswith("reach") for d in take(solver_documents(TRAINING, 0), 200))


def test_the_same_seed_gives_the_same_documents():
    assert take(careful(5), 50) == take(careful(5), 50) != take(careful(6), 50)
