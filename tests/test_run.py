"""The main job as a command: it resumes, repeats itself, and refuses bad input in one sentence."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.organisms.checkpoints import build_model, save_checkpoint
from interp.pairs import weights_folder

SMALL = {
    "n_fit": 60,
    "n_select": 40,
    "n_report": 40,
    "n_random": 20,
    "n_shuffled": 3,
    "n_points": 32,
    "n_null_problems": 4,
}
CODE = """
import sys, json
from pathlib import Path
from interp.config import Config
from interp.pipeline import run_main_job
run_main_job(Config({pair!r}, behaviors=("subgoal-setting", "verification"), **{small!r}), Path({out!r}), "test")
"""


def start(out: Path) -> subprocess.Popen:
    code = CODE.format(pair="countdown-rl", small=SMALL, out=str(out))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)


def numbers(out: Path) -> dict:
    found = json.loads((out / "results.json").read_text())
    found.pop("timings")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start(out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    return numbers(out)


@pytest.mark.slow
def test_two_runs_with_one_seed_and_a_run_killed_in_every_stage_give_the_same_numbers(
    undisturbed, tmp_path
):
    out = tmp_path / "killed"
    dice = random.Random(0)
    killed_in = set()
    for stage in ("traces-", "activations-fit-", "causal-"):
        process = start(out)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if any(p.name.startswith(stage) for p in (out / "stages").glob("*")):
                time.sleep(dice.uniform(0.0, 0.5))
                process.send_signal(signal.SIGKILL)
                killed_in.add(stage)
                break
            time.sleep(0.01)
        process.communicate()
    assert len(killed_in) == 3
    process = start(out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    assert numbers(out) == undisturbed


def whenlens(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    code = "from interp.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd
    )


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    text = " ".join(result.stderr.split())
    for word in words:
        assert word in text, text


def test_unknown_pair_names_the_nearest(tmp_path):
    refused(whenlens("run", "--pair", "countdown-lr", "--out", str(tmp_path / "r")), "countdown-rl")
    assert not (tmp_path / "r").exists()


def test_unknown_behavior_names_the_nearest(tmp_path):
    refused(
        whenlens("run", "--behavior", "backtraking", "--out", str(tmp_path / "r")), "backtracking"
    )


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    refused(whenlens("run", "--out", str(tmp_path)), "holds no run")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "run.json").write_text('{"pair": "other"}')
    refused(whenlens("run", "--out", str(tmp_path)), "another run")
    assert json.loads((tmp_path / "run.json").read_text()) == {"pair": "other"}


def test_a_pair_of_unequal_models_is_refused(tmp_path):
    for name, d_model in (("base", 32), ("thinking", 64)):
        save_checkpoint(build_model(0, d_model, 2, 2, 64), tmp_path / "pair" / name, "")
    result = whenlens("run", "--pair", str(tmp_path / "pair"), "--out", str(tmp_path / "r"))
    refused(result, "d_model 32", "64")


def test_figures_of_an_unfinished_run_are_refused(tmp_path):
    refused(whenlens("figures", str(tmp_path)), "holds no results.json")


def test_shipped_pairs_have_cards_and_fit_the_budget():
    folder = weights_folder("countdown-rl")
    for model in ("base", "thinking"):
        assert "Accuracy" in (folder / model / "README.md").read_text()
    total = sum(f.stat().st_size for f in folder.parent.rglob("*") if f.is_file())
    assert total < 30e6
