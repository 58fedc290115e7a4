"""Problems with written answers: GSM8K, MATH-500, and any file of prompts and answers."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from interp.errors import UserError, first_line
from interp.jsonl import Row, read_rows
from interp.tasks.equality import check_math_verify, states
from interp.tasks.families import by_length
from interp.types import Problem


@dataclass(frozen=True)
class WrittenTask:
    """Problems of a file, all of them held out; an answer is right as `equality.is_right` says."""

    name: str
    all_problems: tuple[Problem, ...]
    instruction: str = "Reason step by step, and put your final answer within \\boxed{}."

    def problems(self, held_out: bool = True) -> tuple[Problem, ...]:
        """All problems in the file's order; none is for training."""
        return self.all_problems if held_out else ()

    def grade(self, problem: Problem, text: str) -> bool:
        """Whether the answers that the text states are right; see `stated_answers` for what states one."""
        return states(text, str(problem.data["answer"]), problem.prompt)

    def family(self, problem: Problem) -> str:
        """What kind of problem it is, in words that follow "where"."""
        return str(problem.data["family"])


def _gsm8k(row: Row) -> tuple[str, str, str]:
    question, solution = row.text("question"), row.text("answer")
    steps, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise row.fault(
            "has no '#### ANSWER' in 'answer'", "expected the published fields of GSM8K"
        )
    few = len(re.findall(r"<<", steps)) <= 3
    return question, answer.strip(), "few steps suffice" if few else "many steps are needed"


def _math500(row: Row) -> tuple[str, str, str]:
    level = row.fields.get("level")
    if type(level) is not int and not isinstance(level, str):
        raise row.fault(
            f"gives {level!r:.60} for 'level'", "expected the published fields of MATH-500"
        )
    digits = re.sub(r"\D", "", str(level))[:2] or "unknown"
    row.text("subject")
    return row.text("problem"), row.text("answer"), f"the level is {digits}"


def _any(row: Row) -> tuple[str, str, str]:
    answer = row.fields.get("answer")
    if type(answer) in (int, float):
        number = Decimal(repr(answer))
        if not number.is_finite():
            raise row.fault(f"gives {answer!r} for 'answer'", "expected a number or a text")
        return row.text("prompt"), format(number, "f"), ""
    return row.text("prompt"), row.text("answer"), ""


@dataclass(frozen=True)
class Benchmark:
    """A published set of problems: how a row is read, where the hub has it, what a row is."""

    read: Callable[[Row], tuple[str, str, str]]
    hub: tuple[str, str | None]
    row: str


BENCHMARKS = {
    "gsm8k": Benchmark(
        _gsm8k, ("openai/gsm8k", "main"), "expected an object with 'question' and 'answer'"
    ),
    "math500": Benchmark(
        _math500,
        ("HuggingFaceH4/MATH-500", None),
        "expected an object with 'problem', 'answer', 'level' and 'subject'",
    ),
}


def read_benchmark(name: str, path: str = "") -> WrittenTask:
    """GSM8K (Cobbe et al. 2110.14168) or MATH-500 (Lightman et al. 2305.20050), the test problems.

    From a file of JSON lines with the published fields, or else from the hub, by the `datasets` package. Raises
    `UserError` where neither can be read.
    """
    benchmark = BENCHMARKS[name]
    rows = read_rows(Path(path), benchmark.row) if path else _from_hub(name, *benchmark.hub)
    return _task(name, rows, benchmark.read, path or benchmark.hub[0])


def read_problems(path: Path) -> WrittenTask:
    """A file of JSON lines with `prompt`, `answer` and perhaps an `id`; raises `UserError` for any other.

    The task is called after the file, and problems without an id after their place in it: `FILE:17`.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:60].strip(".-") or "problems"
    return _task(
        name, read_rows(path, "expected an object with 'prompt' and 'answer'"), _any, str(path)
    )


@cache
def _from_hub(name: str, hub: str, config: str | None) -> tuple[Row, ...]:
    """The rows of a data set, for which the hub is asked once: a run loads its task several times."""
    hint = f"or give its file, as {name}:PATH.jsonl"
    if find_spec("datasets") is None:
        raise UserError(
            f"{hub} is read from the hub by a package that is not installed: pip install datasets, {hint}."
        )
    import datasets

    try:
        found = datasets.load_dataset(hub, config, split="test")
    except Exception as error:
        raise UserError(
            f"{hub} cannot be read from the hub ({first_line(error):.150}): go online, {hint}."
        ) from None
    return tuple(Row(Path(hub), number, dict(row)) for number, row in enumerate(found, 1))


def _task(
    name: str, rows: Iterable[Row], read: Callable[[Row], tuple[str, str, str]], source: str
) -> WrittenTask:
    problems: dict[str, Problem] = {}
    places: dict[str, Row] = {}
    by_prompt: dict[str, Problem] = {}
    for index, row in enumerate(rows):
        prompt, answer, family = (part.strip() for part in read(row))
        if not prompt or not answer:
            raise row.fault(
                "has no words in its prompt or answer", "expected a question and its answer"
            )
        problem = Problem(
            row.name("id", f"{name}:{index}"), prompt, {"answer": answer, "family": family}
        )
        same = by_prompt.setdefault(prompt, problem)
        if same.data["answer"] != answer:
            raise row.fault(
                f"asks what line {places[same.id].number} asks, with another answer",
                "expected one answer to one question",
            )
        if problem.id in problems:
            raise row.fault(
                f"repeats the id {problem.id!r} of line {places[problem.id].number}",
                "expected an id of its own",
            )
        if same is problem:  # a question that comes up again would be on both sides of a split
            problems[problem.id], places[problem.id] = problem, row
    if not problems:
        raise UserError(f"{source!r} holds no problems: expected at least one JSON line.")
    check_math_verify([str(p.data["answer"]) for p in problems.values()])
    found = tuple(problems.values())
    return WrittenTask(name, found if found[0].data["family"] else by_length(found))
