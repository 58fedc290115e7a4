"""Problems and their verifiers: text in, right or wrong out."""

from interp.errors import unknown_name
from interp.tasks.countdown import Countdown

TASKS = {Countdown.name: Countdown}


def load_task(name: str) -> Countdown:
    """Return the task of that name; raises `UserError` with the nearest names otherwise."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]()


__all__ = ["TASKS", "Countdown", "load_task"]
