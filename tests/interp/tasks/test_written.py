"""Files of questions and answers: read as published, graded strictly, every fault named by its line."""

import json
import re
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import UserError
from interp.tasks import Task, load_task, written
from interp.tasks.written import WrittenTask
from interp.types import Problem

GSM8K = [
    {"question": "Tom has 6 bags of 7 apples. How many apples?", "answer": "6*7=<<6*7=42>>42\n#### 42"},
    {"question": "A car costs $1,200. What do three cost?", "answer": "3*1200=<<3*1200=3600>>3,600\n#### 3,600"},
    {"question": "Down 5 degrees from 2?", "answer": "<<1=1>><<2=2>><<3=3>><<2-5=-3>>\n#### -3"},
]  # fmt: skip
MATH500 = [
    {"problem": "Compute $\\sin 60^\\circ$.", "solution": "...", "answer": "\\frac{\\sqrt{3}}{2}",
     "subject": "Precalculus", "level": 2, "unique_id": "test/precalculus/1.json"},
    {"problem": "Which is the point?", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "Precalculus",
     "level": 5},
    {"problem": "Who has the greatest speed?", "answer": "\\text{Evelyn}", "subject": "Algebra", "level": 2},
]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_is_read_and_graded(tmp_path):
    task = load_task(f"gsm8k:{write(tmp_path / 'test.jsonl', GSM8K)}")
    assert isinstance(task, Task) and task.name == "gsm8k" and "\\boxed{}" in task.instruction
    problems = task.problems()
    assert [p.id for p in problems] == ["gsm8k:0", "gsm8k:1", "gsm8k:2"]
    assert [p.prompt for p in problems] == [row["question"] for row in GSM8K]
    assert task.problems(held_out=False) == ()
    values = [42, 3600, -3]
    for problem in problems:
        right = [task.grade(problem, f"So \\boxed{{{value}}}.") for value in values]
        assert right == [p is problem for p in problems]
    assert task.grade(problems[1], "The answer is $3,600.")
    assert [task.family(p) for p in problems] == [
        "few steps suffice",
        "few steps suffice",
        "many steps are needed",
    ]


def test_math500_is_read_and_graded(tmp_path):
    task = load_task(f"math500:{write(tmp_path / 'test.jsonl', MATH500)}")
    problems = task.problems()
    assert [task.family(p) for p in problems] == [
        "the level is 2",
        "the level is 5",
        "the level is 2",
    ]
    for problem, row in zip(problems, MATH500, strict=True):
        assert task.grade(problem, f"Thus \\boxed{{{row['answer']}}}.")
        others = [r["answer"] for r in MATH500 if r is not row]
        assert not any(task.grade(problem, f"\\boxed{{{other}}}") for other in others)
    assert task.grade(problems[0], "\\boxed{\\sqrt{3}/2}")
    assert not task.grade(problems[0], "\\boxed{\\sin 60^\\circ}")
    assert task.grade(problems[1], "\\boxed{(3,\\pi/2)}")
    assert task.grade(problems[2], "The answer is Evelyn.")


def test_a_number_is_an_answer_in_digits(tmp_path):
    path = tmp_path / "numbers.jsonl"
    numbers = [0.00001, 1e16, 0.5, -3, 2.0]
    path.write_text("".join(f'{{"prompt": "{n}?", "answer": {n!r}}}\n' for n in numbers))
    task = load_task(str(path))
    stated = [str(p.data["answer"]) for p in task.problems()]
    assert stated == ["0.00001", "10000000000000000", "0.5", "-3", "2.0"]
    assert task.grade(task.problems()[0], r"\boxed{0.00001}")
    path.write_text('{"prompt": "a", "answer": NaN}\n')
    with pytest.raises(UserError, match="expected a number or a text|answer"):
        load_task(str(path))


def test_any_file_of_prompts_and_answers_is_a_task(tmp_path):
    rows = [
        {"prompt": "2 + 2?", "answer": 4},
        {"prompt": "The capital of France?", "answer": "Paris", "id": "capital"},
        {"prompt": "A half?", "answer": 0.5},
        {"prompt": "Factor x^2-1.", "answer": "(x-1)(x+1)"},
    ]
    task = load_task(str(write(tmp_path / "my set (v2).jsonl", rows)))
    assert task.name == "my-set-v2"
    problems = task.problems()
    assert [p.id for p in problems] == ["my-set-v2:0", "capital", "my-set-v2:2", "my-set-v2:3"]
    for problem, answer in zip(problems, ["4", "paris", "\\frac{1}{2}", "(x+1)(x-1)"], strict=True):
        assert task.grade(problem, f"\\boxed{{{answer}}}")
        assert not task.grade(problem, f"\\boxed{{{answer}}} \\boxed{{7}}")
    assert not task.grade(problems[1], "\\boxed{Pairs}")
    assert not task.grade(problems[3], "\\boxed{x^2-1}")
    assert json.loads(json.dumps([p.data for p in problems])) == [p.data for p in problems]


@given(st.text(max_size=30))
@settings(deadline=None)
def test_a_file_name_becomes_a_name_that_is_no_path(tmp_path_factory, name):
    stem = re.sub(r"[/\x00-\x1f\ud800-\udfff]", "_", name)[:40]
    path = tmp_path_factory.mktemp("named") / f"{stem}.jsonl"
    task = load_task(str(write(path, [{"prompt": "a", "answer": "b"}])))
    assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", task.name)


def test_a_question_that_comes_up_again_counts_once(tmp_path):
    rows = [
        {"prompt": "2 + 2?", "answer": "4"},
        {"prompt": " 2 + 2? ", "answer": "4"},
        {"prompt": "b", "answer": "5"},
    ]
    task = load_task(str(write(tmp_path / "x.jsonl", rows)))
    assert [p.id for p in task.problems()] == ["x:0", "x:2"]


GOOD = {"prompt": "2 + 2?", "answer": "4"}
BROKEN = {
    "no answer": ([GOOD, {"prompt": "a"}], "Line 2 .* has no 'answer': expected a text"),
    "no prompt": ([{"answer": "a"}], "Line 1 .* has no 'prompt'"),
    "a list as answer": ([{"prompt": "a", "answer": ["4"]}], "Line 1 .*'answer': expected a text"),
    "true as answer": ([{"prompt": "a", "answer": True}], "Line 1 .*'answer': expected a text"),
    "blank": ([{"prompt": " ", "answer": "4"}], "Line 1 .* no words"),
    "two answers": ([GOOD, {**GOOD, "answer": "5"}], "Line 2 .* asks what line 1 asks"),
    "an id twice": (
        [{**GOOD, "id": "a"}, {"prompt": "b", "answer": "c", "id": "a"}],
        "Line 2 .* repeats the id 'a' of line 1",
    ),
    "an id that is a path": ([{**GOOD, "id": "../../x"}], "Line 1 .*'../../x' for 'id'"),
    "nothing": ([], "holds no problems"),
}


@pytest.mark.parametrize(("rows", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_error_that_names_the_line(tmp_path, rows, fault):
    with pytest.raises(UserError, match=fault):
        load_task(str(write(tmp_path / "x.jsonl", rows)))


@pytest.mark.parametrize(
    ("name", "row", "fault"),
    [
        ("gsm8k", {"question": "a", "answer": "42"}, "no '#### ANSWER'"),
        ("gsm8k", {"question": "a", "answer": "#### "}, "no '#### ANSWER'"),
        ("gsm8k", MATH500[0], "has no 'question'"),
        ("math500", GSM8K[0], "'level'"),
        ("math500", {**MATH500[0], "level": None}, "'level'"),
        ("math500", {k: v for k, v in MATH500[0].items() if k != "subject"}, "has no 'subject'"),
    ],
)
def test_other_fields_than_the_published_ones_are_refused(tmp_path, name, row, fault):
    with pytest.raises(UserError, match=f"Line 1 .*{fault}"):
        load_task(f"{name}:{write(tmp_path / 'x.jsonl', [row])}")


def test_a_missing_file_is_named():
    for name in ("nowhere.jsonl", "gsm8k:nowhere.jsonl"):
        with pytest.raises(UserError, match="There is no file 'nowhere.jsonl'"):
            load_task(name)


@pytest.fixture
def fresh():
    """A process that has read nothing from the hub yet."""
    written._from_hub.cache_clear()
    yield
    written._from_hub.cache_clear()


@pytest.mark.parametrize(
    ("name", "rows", "wanted"),
    [
        ("gsm8k", GSM8K, ("openai/gsm8k", "main")),
        ("math500", MATH500, ("HuggingFaceH4/MATH-500", None)),
    ],
)
def test_without_a_path_the_test_split_of_the_hub_is_read_once(
    fresh, monkeypatch, tmp_path, name, rows, wanted
):
    asked = []

    def load_dataset(hub, config, split):
        asked.append((hub, config, split))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(written, "find_spec", lambda name: object())
    found = load_task(name).problems()
    assert load_task(name).problems() == found
    assert asked == [(*wanted, "test")]
    assert found == load_task(f"{name}:{write(tmp_path / 'x.jsonl', rows)}").problems()


def test_without_the_hub_or_its_package_a_file_is_asked_for(fresh, monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\nand more")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(written, "find_spec", lambda name: object())
    with pytest.raises(
        UserError, match=r"Couldn't reach .*\): go online, or give its file, as gsm8k:PATH.jsonl"
    ):
        load_task("gsm8k")
    monkeypatch.setattr(written, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="pip install datasets, or give its file, as math500:PATH.jsonl"
    ):
        load_task("math500")


@given(st.text(max_size=60), st.text(min_size=1, max_size=20).filter(str.strip))
@settings(deadline=None)
def test_no_text_makes_grading_fail(text, answer):
    problem = Problem("x:0", "What?", {"answer": answer, "family": ""})
    task = WrittenTask("x", (problem,))
    for said in (text, f"\\boxed{{{text}}}", f"The answer is {text}"):
        assert isinstance(task.grade(problem, said), bool)
