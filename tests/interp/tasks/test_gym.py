"""Data sets of reasoning-gym: fixed problems, no leak between sides, graders that cannot be fooled or abused."""

import json
import math
import re
import subprocess
import sys

import pytest

from interp.errors import UserError
from interp.tasks import Task, gym, load_task
from interp.tasks.grading import ask
from interp.tasks.gym import RUN_CODE, SIZE, GymTask, gym_names
from interp.types import Problem


def first(name, n):
    """The first held-out problems, without making the other ones."""
    made = ask("entries", 120, name=name, seed=0, size=SIZE, first=0, last=n)
    data = [{"seed": 0, "index": i, "answer": entry["answer"]} for i, entry in enumerate(made)]
    return [Problem(f"{name}:{i}", made[i]["question"], data[i]) for i in range(n)]


def tagged(answer):
    return f"Let me think. <answer>{answer}</answer>"


ORACLES = {
    "leg_counting": None,
    "chain_sum": lambda q: eval(re.search(r"([-+0-9 ]+)=", q)[1]),
    "gcd": lambda q: math.gcd(*map(int, re.findall(r"\d+", q))),
    "lcm": lambda q: math.lcm(*map(int, re.findall(r"\d+", q))),
    "products": lambda q: math.prod(map(int, re.search(r"([0-9]+ [0-9* ]+)", q)[1].split("*"))),
}


@pytest.mark.parametrize("name", ORACLES)
def test_the_sides_are_large_fixed_and_apart(name):
    task = load_task(name)
    assert isinstance(task, Task) and task.name == name and task.instruction
    sides = [task.problems(side) for side in (True, False)]
    ids, prompts = (
        [getattr(p, field) for side in sides for p in side] for field in ("id", "prompt")
    )
    assert len(set(ids)) == len(ids) and len(set(prompts)) == len(prompts)
    assert min(map(len, sides)) > SIZE / 2
    assert sides[0][0].id == f"{name}:0" and all(p.id.startswith(f"{name}:") for p in sides[0])
    assert json.loads(json.dumps([p.data for p in sides[0]])) == [p.data for p in sides[0]]
    kinds = [task.family(p) for p in sides[0]]
    assert min(map(kinds.count, set(kinds))) >= len(kinds) / 5


@pytest.mark.parametrize("name", [name for name, oracle in ORACLES.items() if oracle])
def test_right_is_what_python_works_out(name):
    task = load_task(name)
    for problem in task.problems()[::100]:
        value = ORACLES[name](problem.prompt)
        for answer in (value, f"{value}.0", f"{value:,}"):
            assert task.grade(problem, f"\\boxed{{{answer}}}") and task.grade(
                problem, f"So it is {answer}."
            )
        for answer in (value + 1, -value, f"{value} or {value + 1}", f"{value}0", f"{value}!"):
            assert value == 0 or not task.grade(problem, tagged(answer))
        assert not task.grade(problem, tagged(problem.prompt))
        assert not task.grade(problem, " ".join(map(str, range(value - 50, value + 50))))


@pytest.mark.slow
def test_a_problem_is_the_same_in_every_process():
    code = (
        "from interp.tasks.grading import ask\n"
        "import json\n"
        "for name in ('list_functions', 'knights_knaves', 'family_relationships', 'gsm_symbolic'):\n"
        "    print(json.dumps(ask('entries', 60, name=name, seed=0, size=2000, first=3, last=30)))\n"
    )
    # Their order must not matter either.
    later = code.replace("first=3, last=30", "first=20, last=30")
    outputs = [
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout
        for c in (code, code, later)
    ]
    assert outputs[0] == outputs[1]
    whole, part = ([json.loads(line) for line in o.splitlines()] for o in (outputs[0], outputs[2]))
    assert [rows[17:] for rows in whole] == part and len(part) == 4


@pytest.mark.slow
def test_every_data_set_takes_its_own_answers_and_no_hedge_of_them():
    names = gym_names()
    assert len(names) > 90
    for name in names:
        task, problems = GymTask(name), first(name, 4)
        answers = [p.data["answer"] for p in problems]
        for problem, gold in zip(problems, answers, strict=True):
            assert not task.grade(problem, tagged("xx 7 zz")), name
            assert not task.grade(problem, "I do not know."), name
            if not gold:
                continue
            assert task.grade(problem, tagged(gold)), name
            others = [a for a in answers if a != gold]
            for other in others[:1]:
                assert not task.grade(problem, tagged(other)), name
                assert not task.grade(problem, tagged(gold) + tagged(other)), name
                for hedge in (
                    f"{gold} or {other}",
                    f"{other}\n{gold}",
                    f"{gold}, {other}",
                    f"{gold} xx 7 zz",
                ):
                    assert not task.grade(problem, tagged(hedge)), (name, hedge)


def test_several_right_answers_are_right():
    (problem,) = first("n_queens", 1)
    entry_answers = set()
    task = GymTask("n_queens")
    board = [row.split() for row in problem.data["answer"].split("\n")]
    given = [
        row.split()
        for row in problem.prompt.split("\n")
        if re.fullmatch(r"([Q_] ?){8}", row.strip())
    ]
    size = len(board)
    placed = {r: row.index("Q") for r, row in enumerate(given[-size:]) if "Q" in row}

    def solve(columns):
        row = len(columns)
        if row == size:
            entry_answers.add(
                "\n".join(" ".join("Q" if c == q else "_" for c in range(size)) for q in columns)
            )
            return
        for c in [placed[row]] if row in placed else range(size):
            if all(c != q and abs(c - q) != row - r for r, q in enumerate(columns)):
                solve([*columns, c])

    solve([])
    assert problem.data["answer"] in entry_answers
    assert all(task.grade(problem, tagged(answer)) for answer in entry_answers)
    flipped = "\n".join(" ".join(row[::-1]) for row in board)
    assert flipped in entry_answers or not task.grade(problem, tagged(flipped))


ATTACKED = [
    "string_insertion",
    "spiral_matrix",
    "binary_matrix",
    "n_queens",
    "number_sorting",
    *RUN_CODE,
]


@pytest.mark.parametrize("name", [name for name in ATTACKED if name != "codeio"])
def test_an_answer_is_never_run_as_code(name, tmp_path):
    target = tmp_path / "touched"
    attack = f"__import__('pathlib').Path({str(target)!r}).touch()"
    (problem,) = first(name, 1)
    for answer in (attack, f"[{attack}]", attack.replace("'", '"')):
        given = {"index": 0, "gold": problem.data["answer"], "answer": answer}
        assert not ask("score", 120, name=name, seed=0, size=SIZE, **given)
        if name not in RUN_CODE:
            assert not GymTask(name).grade(problem, tagged(answer))
    assert not target.exists()


@pytest.mark.parametrize("name", ["puzzle24", "codeio", "simple_integration"])
def test_a_data_set_that_runs_code_is_refused(name):
    with pytest.raises(UserError, match="runs text as code"):
        load_task(name)


def test_other_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean leg_counting"):
        load_task("leg_countin")
    with pytest.raises(UserError, match="choose one of"):
        load_task("../../etc/passwd")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(gym, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'whenlens\[tasks\]'"):
        load_task("leg_counting")
    assert load_task("countdown").name == "countdown"


def test_another_version_of_a_problem_is_not_graded():
    (problem,) = first("acre", 1)
    changed = Problem(problem.id, problem.prompt, {**problem.data, "answer": "other"})
    with pytest.raises(UserError, match="another answer in this version"):
        GymTask("acre").grade(changed, tagged("on"))


@pytest.mark.parametrize("name", ["gsm_symbolic", "time_intervals", "knights_knaves", "sokoban"])
@pytest.mark.parametrize(
    "text", ["", "<answer>", "\\boxed{", "\x00", "\ud800", "<answer>\ud800</answer>", "9" * 10**5]
)
def test_no_text_makes_a_grader_fail(name, text):
    (problem,) = first(name, 1)
    assert not GymTask(name).grade(problem, text)
    assert not GymTask(name).grade(problem, tagged(text + "[" * 5000))
