"""Problems and their verifiers: text in, right or wrong out.

What models wrote is parsed by `answers` and `numbers`, and what takes a library to compare goes to the process
behind `grading`, which may hang or be killed without harm. Nothing here imports torch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from interp.errors import UserError, unknown_name
from interp.tasks.countdown import Countdown
from interp.tasks.gym import RUN_CODE, GymTask, gym_names
from interp.tasks.questions import Questions
from interp.tasks.written import BENCHMARKS, read_benchmark, read_problems
from interp.types import Problem


@runtime_checkable
class Task(Protocol):
    """Problems that a program can grade.

    `instruction` tells a chat model how to answer, in a sentence that others put with the problem; it is
    empty where models know. `Problem.prompt` is the question alone.
    """

    @property
    def name(self) -> str: ...

    @property
    def instruction(self) -> str: ...

    def problems(self, held_out: bool = True) -> tuple[Problem, ...]:
        """Problems that no corpus and no training saw, or those that are free to train on, in a fixed order.

        Ids are unique over both sides and stay the same: splits and draws hang on them.
        """
        ...

    def grade(self, problem: Problem, text: str) -> bool:
        """Whether a trace's text answers the problem: true for right answers only, and never an exception."""
        ...

    def family(self, problem: Problem) -> str:
        """The kind of problem, in words that follow "where"."""
        ...


TASKS: dict[str, Callable[[], Task]] = {Countdown.name: Countdown, Questions.name: Questions}


def load_task(name: str) -> Task:
    """Return the task of that name.

    `countdown`; `questions`; a data set of reasoning-gym (`leg_counting`); `gsm8k` and `math500`, from the hub or
    from a file (`gsm8k:PATH.jsonl`); or any file of prompts and answers (`PATH.jsonl`). Raises `UserError` with
    the nearest names otherwise, and where a package or a file is missing.
    """
    kind, colon, path = name.partition(":")
    if name in TASKS:
        return TASKS[name]()
    if kind in BENCHMARKS and bool(colon) == bool(path):
        return read_benchmark(kind, path)
    if name.endswith(".jsonl"):
        return read_problems(Path(name))
    known = [*TASKS, *BENCHMARKS]
    try:
        gym = gym_names()
    except UserError as error:
        raise UserError(f"{unknown_name('task', name, known)} {error}") from None
    if name not in [*gym, *RUN_CODE]:
        raise unknown_name("task", name, [*known, *gym])
    return GymTask(name)


__all__ = ["TASKS", "Countdown", "Questions", "Task", "load_task"]
