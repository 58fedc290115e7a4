"""Thousands of damaged files, bombs and large files: read or refused, in bounded memory."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import interp
from interp.validation.candidates import read_candidates

_FILES = runpy.run_path(str(Path(__file__).with_name("steering_files.py")))
write_valid = _FILES["write_valid"]
write_bombs = _FILES["write_bombs"]
write_large = _FILES["write_large"]
PLAIN = _FILES["PLAIN"]


@pytest.mark.slow
def test_ten_thousand_damaged_files_and_bombs_are_read_or_refused_within_a_gigabyte(tmp_path):
    for kind, make in (("valid", write_valid), ("bombs", write_bombs), ("large", write_large)):
        make(tmp_path / kind)
    for path in sorted((tmp_path / "valid").iterdir()):
        assert read_candidates(path, **({} if path.stem == "own" else {**PLAIN, "layer": 1})), path
    script = Path(__file__).with_name("mutations.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "10000"],
        env={**os.environ, "PYTHONPATH": str(Path(interp.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["wrong"] == []
    assert 5_000 < found["refused"] < 9_900
    assert all(found["bombs"].values()) and not any(found["large"].values()), found
    assert found["peak"] < 2**20, found["peak"]
