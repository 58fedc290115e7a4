"""Countdown problems can be solved, and its verifier cannot be fooled."""

import itertools
from collections import defaultdict

import pytest

from interp.errors import UserError
from interp.tasks import load_task
from interp.types import Problem

TASK = load_task("countdown")
PROBLEM = Problem("p", "reach 36 with 3 8 12 .", {"numbers": [3, 8, 12], "target": 36})


def reachable(numbers):
    """Targets by brute force through Python's own evaluator."""
    values = set()
    for a, b, c in itertools.permutations(numbers):
        for op1, op2 in itertools.product("+-*", repeat=2):
            middle = eval(f"{a}{op1}{b}")
            value = eval(f"({a}{op1}{b}){op2}{c}")
            if 0 <= middle <= 99 and 10 <= value <= 99:
                values.add(value)
    return values


@pytest.mark.parametrize("held_out", [True, False])
def test_problems_are_exactly_the_reachable_targets(held_out):
    targets = defaultdict(set)
    for problem in TASK.problems(held_out):
        targets[tuple(problem.data["numbers"])].add(problem.data["target"])
        words = problem.prompt.split()
        assert [words[0], words[2], words[-1]] == ["reach", "with", "."]
        assert int(words[1]) == problem.data["target"]
        assert sorted(map(int, words[3:6])) == sorted(problem.data["numbers"])
    for numbers, found in targets.items():
        assert found == reachable(numbers), numbers


def test_held_out_and_training_problems_share_no_multiset():
    multisets = [
        {tuple(sorted(p.data["numbers"])) for p in TASK.problems(side)} for side in (True, False)
    ]
    assert not multisets[0] & multisets[1]
    assert 0.15 < len(multisets[0]) / sum(map(len, multisets)) < 0.25
    ids = [p.id for side in (True, False) for p in TASK.problems(side)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("held_out", [True, False])
def test_every_left_fold_is_graded_by_its_value(held_out):
    for problem in TASK.problems(held_out)[::400]:
        for a, b, c in itertools.permutations(problem.data["numbers"]):
            for op1, op2 in itertools.product("+-*", repeat=2):
                right = eval(f"({a} {op1} {b}) {op2} {c}") == problem.data["target"]
                assert TASK.grade(problem, f"answer {a} {op1} {b} {op2} {c} .") == right


@pytest.mark.parametrize(
    "text",
    [
        "answer 3 * 8 + 12 .",
        "we need 36 . hmm , not sure . answer 3 * 8 + 12 .",
        "answer 8 * 3 + 12 . ",
        "answer 12 + 8 * 3 . answer 3 * 8 + 12 .".split(". ", 1)[1],
    ],
)
def test_right_answers_are_right(text):
    assert TASK.grade(PROBLEM, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "answer",
        "3 * 8 + 12 .",
        "answer 12 + 3 * 8 .",  # 36 by precedence, 120 from left to right
        "answer 12 * 3 + 0 .",
        "answer 12 * 3 .",
        "answer 3 * 12 * 1 .",
        "answer 12 + 12 + 12 .",
        "answer 3 * 8 + 12",
        "answer 3 * 8 + 12 . and more",
        "answer 3 * 8 + 12 . .",
        "answer 3 * 8 + 12 .\n",
        "answer 3 * 8 + 12 . answer 3 * 8 + 12 .",
        "answer 3 * 8 - 12 . answer 3 * 8 + 12 .",
        "answer answer 3 * 8 + 12 .",
        "answer, answer 3 * 8 + 12 .",
        "unanswer 3 * 8 + 12 .",
        "Answer 3 * 8 + 12 .",
        "answer 03 * 8 + 12 .",
        "answer 3 * 8 + 012 .",
        "answer +3 * 8 + 12 .",
        "answer 3.0 * 8 + 12 .",
        "answer \u0663 * 8 + 12 .",
        "answer \uff13 * \uff18 + \uff11\uff12 .",
        "answer 3*8+12 .",
        "answer 3 * 8 + 12.",
        "answer  3 * 8 + 12 .",
        "answer 3 x 8 + 12 .",
        "answer 3 \u2217 8 + 12 .",
        "answer ( 3 * 8 ) + 12 .",
        "answer 3 * 8 + 12 = 36 .",
        "answer 36 .",
    ],
)
def test_anything_else_is_wrong(text):
    assert not TASK.grade(PROBLEM, text)


def test_an_endless_number_is_wrong_and_no_error():
    assert not TASK.grade(PROBLEM, f"answer {'9' * 5000} * 8 + 12 .")


def test_a_number_that_occurs_twice_must_be_used_twice():
    twice = Problem("p", "reach 12 with 4 4 4 .", {"numbers": [4, 4, 4], "target": 12})
    assert TASK.grade(twice, "answer 4 + 4 + 4 .")
    pair = Problem("p", "reach 19 with 4 4 3 .", {"numbers": [4, 4, 3], "target": 19})
    assert TASK.grade(pair, "answer 4 * 4 + 3 .")
    assert not TASK.grade(pair, "answer 4 * 3 + 7 .")


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="countdown"):
        load_task("countdwon")
