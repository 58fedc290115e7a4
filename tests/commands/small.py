"""The command in a process of its own, on a small job."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(code: str, arguments: str, out: Path, *more: str, **options: Any) -> subprocess.Popen:
    """Run `code`, which makes the job small and calls the command, with `arguments` and a folder."""
    # A shell's background jobs ignore Ctrl-C, and hand that down.
    options.setdefault(
        "preexec_fn", lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments.split(), str(out), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for success; returns what was printed."""
    printed, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return printed


def refused(process: subprocess.Popen) -> str:
    """Wait for a refusal in one sentence; returns it."""
    errors = process.communicate()[1]
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    return " ".join(errors.split())


def copy_pair(folder: Path, base: Path, thinking: Path) -> Path:
    """A folder with two checkpoints as a pair."""
    shutil.copytree(base, folder / "base")
    shutil.copytree(thinking, folder / "thinking")
    return folder
