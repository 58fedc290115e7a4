"""The process in which answers are parsed and graded: what hangs or runs wild there is killed."""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from interp.errors import UserError

START_SECONDS = 120
WALL_SECONDS = 20
"""Seconds on the clock for each second of work: a busy machine must not change a grade."""

_WORKER = Path(__file__).with_name("grading_worker.py")
_lock = threading.Lock()
_process: subprocess.Popen[str] | None = None
_owner = 0


def ask(what: str, seconds: int, **given: object) -> Any:
    """What the worker says to a request (a function of `grading_worker.py`), or None where it ran out of
    its `seconds` of processor time or of memory.

    Raises `UserError` where the worker cannot be started or refuses the request.
    """
    with _lock:
        process = _started()
        line = _exchange(
            process, {"what": what, "seconds": seconds, "given": given}, seconds * WALL_SECONDS
        )
    if line is None:
        return None
    reply = json.loads(line)
    if "error" in reply:
        raise UserError(reply["error"])
    return reply["value"]


def _started() -> subprocess.Popen[str]:
    """The worker of this process; a forked one starts its own."""
    global _process, _owner
    if _process is not None and _owner == os.getpid() and _process.poll() is None:
        return _process
    # Other hash seeds would give other problems: some data sets draw from sets.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    _process, _owner = (
        subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            env=environment,
        ),
        os.getpid(),
    )
    if (
        _exchange(_process, {"what": "hello", "seconds": START_SECONDS, "given": {}}, START_SECONDS)
        is None
    ):
        raise UserError(
            f"The process that grades answers does not start: see what {sys.executable} -P {_WORKER} says."
        )
    return _process


def _exchange(process: subprocess.Popen[str], request: dict, wall: int) -> str | None:
    assert process.stdin is not None and process.stdout is not None
    clock = threading.Timer(wall, process.kill)
    clock.start()
    line = ""
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        clock.cancel()
        if not line.endswith(
            "\n"
        ):  # an interrupted question's answer must not meet the next question
            process.kill()
            process.wait()
    return line if line.endswith("\n") else None


@atexit.register
def _stop() -> None:
    if _process is not None and _owner == os.getpid():
        _process.kill()
