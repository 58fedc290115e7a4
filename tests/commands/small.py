"""The command in a process of its own, on a small job."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

_FORKS = multiprocessing.get_context("forkserver")
_OURS = ("interp", "probes", "figures")


class Command:
    """A process that runs `code`, with what `Popen` would say of it.

    It is forked from one that has imported PyTorch and its like, and imports this project anew.
    """

    def __init__(self, code: str, arguments: list[str], before: Callable[[], object]) -> None:
        self._said = [tempfile.NamedTemporaryFile("r") for _ in range(2)]
        files = [file.name for file in self._said]
        _FORKS.set_forkserver_preload(["interp.cli", "interp.models", "probes", "figures"])
        self._process = _FORKS.Process(
            target=_become, args=(code, arguments, files, dict(os.environ), before)
        )
        self._process.start()

    def poll(self) -> int | None:
        """How it ended, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; returns what was printed, and what was printed as an error."""
        self._process.join()
        printed, errors = (file.read() for file in self._said)
        return printed, errors


def _become(
    code: str,
    arguments: list[str],
    files: list[str],
    environment: dict[str, str],
    before: Callable[[], object],
) -> None:
    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS="1")
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]  # `code` changes what they read when they are imported
    for name, number in zip(files, (1, 2), strict=True):
        os.dup2(os.open(name, os.O_WRONLY), number)
    # A shell's background jobs ignore Ctrl-C, and hand that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    before()
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


def start(
    code: str, arguments: str, out: Path, *more: str, before: Callable[[], object] = bool
) -> Command:
    """Run `code`, which makes the job small and calls the command, with `arguments` and a folder.

    The process calls `before` first.
    """
    return Command(code, [*arguments.split(), str(out), *more], before)


def finish(process: Command) -> str:
    """Wait for success; returns what was printed."""
    printed, errors = process.communicate()
    assert process.poll() == 0, errors[-2000:]
    return printed


def refused(process: Command) -> str:
    """Wait for a refusal in one sentence; returns it."""
    errors = process.communicate()[1]
    assert process.poll() == 2, errors
    assert "Traceback" not in errors
    return " ".join(errors.split())


def copy_pair(folder: Path, base: Path, thinking: Path) -> Path:
    """A folder with two checkpoints as a pair."""
    shutil.copytree(base, folder / "base")
    shutil.copytree(thinking, folder / "thinking")
    return folder
