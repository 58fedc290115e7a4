"""Problems and their verifiers: text in, right or wrong out."""

from interp.errors import unknown_name
from interp.tasks.countdown import Countdown
from interp.tasks.questions import Questions

TASKS = {Countdown.name: Countdown, Questions.name: Questions}


def load_task(name: str) -> Countdown | Questions:
    """Return the task of that name; raises `UserError` with the nearest names otherwise."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]()


__all__ = ["TASKS", "Countdown", "Questions", "load_task"]
