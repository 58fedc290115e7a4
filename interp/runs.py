"""Runs are folders: each stage is addressed by its inputs and the code, and never done twice."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

from interp.engine import HERE, Engine
from interp.errors import UserError


def content_key(*parts: object) -> str:
    """A short SHA-256 of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@cache
def code_key() -> str:
    """A short SHA-256 of this package's and of `probes`' source: other code is another stage."""
    sources = sorted(
        p for name in ("interp", "probes") for p in Path(str(files(name))).rglob("*.py")
    )
    return content_key([[p.name, p.read_text()] for p in sources])


def write_json(path: Path, value: object) -> None:
    """Write JSON so that the file is whole or absent, whatever kills the process."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False))
    os.replace(partial, path)


def read_json(path: Path) -> dict:
    """Read a JSON object; raises `UserError` where the file holds something else."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"{str(path)!r} is not a file that whenlens wrote (expected one JSON object): remove it, "
            "or choose another folder."
        )
    return found


def _difference(found: dict, asked: dict, most: int = 4) -> str:
    """What sets a run in a folder apart from the one that was asked for, in words."""
    if found.keys() != asked.keys():
        return "of another command or version"
    inner = [*found.values(), *asked.values()]
    if len(asked) == 1 and all(
        isinstance(one, dict) for one in inner
    ):  # of a kind of run, its configuration
        return _difference(inner[0], inner[1], most)
    changed = [
        f"{k} {_short(found[k])} instead of {_short(asked[k])}"
        for k in sorted(asked)
        if found[k] != asked[k]
    ]
    more = len(changed) - most
    return "with " + ", ".join(changed[:most]) + (f", and {more} more" if more > 0 else "")


def _short(value: object) -> str:
    """A value in at most 80 characters; of long ones, paths say most at their ends."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:20]}...{text[-57:]}"


class Run:
    """One run's folder, and where its work is done. `config` names the run: another run's folder is refused."""

    def __init__(self, folder: Path, config: dict, engine: Engine = HERE) -> None:
        self.folder, self.config, self.engine = folder, config, engine
        marker = folder / "run.json"
        if marker.exists():
            found = read_json(marker)
            if found != config:
                raise UserError(
                    f"{str(folder)!r} holds another run ({_difference(found, config)}): choose another --out "
                    "folder or remove this one."
                )
        elif folder.exists() and not folder.is_dir():
            raise UserError(f"{str(folder)!r} is a file: choose a folder by --out.")
        elif folder.exists() and any(p.name != "run.json.partial" for p in folder.iterdir()):
            raise UserError(
                f"{str(folder)!r} is not empty and holds no run: choose a new or empty --out folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, config)
        self.timings: dict[str, float] = {}

    def stage(self, name: str, inputs: list, work: Callable[[Path], None]) -> Path:
        """The folder of a finished stage; runs `work(folder)` unless that was done before.

        `work` may leave parts behind when it is killed and pick them up again.
        """
        key = content_key(name, self.config, inputs, code_key())
        folder = self.folder / "stages" / f"{name}-{key}"
        done = folder / "done.json"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            begin = time.perf_counter()
            work(folder)
            write_json(done, {"seconds": round(time.perf_counter() - begin, 2)})
        self.timings[name] = json.loads(done.read_text())["seconds"]
        return folder
