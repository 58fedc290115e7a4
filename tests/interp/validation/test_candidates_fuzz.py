"""Thousands of damaged files, bombs and large files: read or refused, in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp.validation.candidates import read_candidates
from tests.interp.validation.steering_files import (
    PLAIN,
    write_bombs,
    write_large,
    write_valid,
)


@pytest.mark.slow
def test_ten_thousand_damaged_files_and_bombs_are_read_or_refused_within_a_gigabyte(tmp_path):
    for kind, make in (("valid", write_valid), ("bombs", write_bombs), ("large", write_large)):
        make(tmp_path / kind)
    for path in sorted((tmp_path / "valid").iterdir()):
        assert read_candidates(path, **({} if path.stem == "own" else {**PLAIN, "layer": 1})), path
    script = Path(__file__).with_name("mutations.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "10000"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["wrong"] == []
    assert 5_000 < found["refused"] < 9_900
    assert all(found["bombs"].values()) and not any(found["large"].values()), found
    assert found["peak"] < 2**20, found["peak"]
