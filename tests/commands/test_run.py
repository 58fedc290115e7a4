"""The main job as a command: it resumes, repeats itself, and refuses bad input in one sentence."""

import json
import random
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from interp import runs
from interp.organisms.checkpoints import build_model, save_checkpoint
from interp.runs import Run
from tests.commands import small
from tests.commands.small import Command, finish

CODE = """
from dataclasses import dataclass
import interp.config

@dataclass(frozen=True)
class Small(interp.config.Config):
    n_fit: int = 60
    n_select: int = 40
    n_shuffled: int = 3
    n_points: int = 32
    n_null_problems: int = 4

interp.config.Config = Small
from interp.cli import main
main()
"""
ARGUMENTS = "run --n-report 40 --n-random 20 --behavior subgoal-setting --behavior verification --workers 1 --out"
POOL = ("--workers", "2")


def start(out: Path, *more: str, **options) -> Command:
    """The command itself, on a small job, in one process unless more is said."""
    return small.start(CODE, ARGUMENTS, out, *more, **options)


def numbers(out: Path) -> dict:
    found = json.loads((out / "results.json").read_text())
    del found["timings"], found["command"]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert "report.html" in finish(start(out))
    return numbers(out)


@pytest.mark.slow
def test_a_run_in_a_pool_that_is_killed_in_every_stage_gives_the_numbers_of_one_process(
    undisturbed, tmp_path
):
    out = tmp_path / "killed"
    dice = random.Random(0)
    killed_in = set()
    for stage in ("traces-", "activations-fit-", "causal-"):
        process = start(out, *POOL)
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
    finish(start(out, *POOL))
    assert numbers(out) == undisturbed


@pytest.mark.slow
def test_full_disks_and_ctrl_c_are_one_sentence_and_the_run_goes_on_from_what_is_done(
    undisturbed, tmp_path
):
    out = tmp_path / "stopped"

    def full(room: int) -> None:
        limits = resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY)
        fill = partial(resource.setrlimit, *limits)
        assert "free space" in small.refused(start(out, before=fill))

    def traces() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in out.glob("stages/traces-*/*.jsonl")}

    full(room=20_000)
    assert not list(out.glob("stages/activations-*"))
    before, process = traces(), start(out, *POOL)
    while process.poll() is None and traces() == before:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "what is done stays" in small.refused(process)
    kept = traces()
    full(room=200_000)
    assert list(out.glob("stages/activations-*"))
    finish(start(out))
    assert kept and kept.items() <= traces().items()
    assert numbers(out) == undisturbed


def test_unknown_pair_names_the_nearest(tmp_path):
    found = small.refused(start(tmp_path / "r", "--pair", "countdown-lr"))
    assert "countdown-rl" in found
    assert not (tmp_path / "r").exists()


def test_unknown_behavior_names_the_nearest(tmp_path, said):
    assert "backtracking" in said("run", "--behavior", "backtraking", "--out", tmp_path / "r")


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path, said):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "holds no run" in said("run", "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "run.json").write_text('{"pair": "other"}')
    assert "another run" in said("run", "--out", tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == {"pair": "other"}
    (tmp_path / "run.json").write_text("[]")
    found = said("run", "--out", tmp_path)
    assert "run.json" in found and "not a file that whenlens wrote" in found


def test_a_folder_in_which_a_run_could_not_even_begin_is_taken_again(tmp_path):
    (tmp_path / "run.json.partial").write_text("{")
    Run(tmp_path, {"pair": "x"})
    assert json.loads((tmp_path / "run.json").read_text()) == {"pair": "x"}


def test_a_stage_depends_on_its_inputs_the_config_and_the_code(tmp_path, monkeypatch):
    made = []
    for config, inputs, code in ((1, 1, 1), (1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)):
        monkeypatch.setattr(runs, "code_key", lambda code=code: str(code))
        run = Run(tmp_path / str(config), {"n": config})
        run.stage("s", [inputs], made.append)
    assert len(made) == len(set(made)) == 4


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused(tmp_path, said, damage):
    for name in ("base", "thinking"):
        save_checkpoint(build_model(0, 32, 2, 2, 64), tmp_path / "pair" / name, "")
    (tmp_path / "pair" / "base" / damage).write_text("{ not json")
    found = said("run", "--pair", tmp_path / "pair", "--out", tmp_path / "r")
    assert "pair/base" in found and "no checkpoint that transformers can read" in found


def test_a_pair_of_unequal_models_is_refused(tmp_path, said):
    for name, d_model in (("base", 32), ("thinking", 64)):
        save_checkpoint(build_model(0, d_model, 2, 2, 64), tmp_path / "pair" / name, "")
    found = said("run", "--pair", tmp_path / "pair", "--out", tmp_path / "r")
    assert "d_model 32" in found and "64" in found


def test_figures_of_an_unfinished_or_damaged_run_are_refused(tmp_path, said):
    assert "holds none of results.json, hybrid.json" in said("figures", tmp_path)
    (tmp_path / "results.json").write_text('{"schema": ')
    found = said("figures", tmp_path)
    assert "results.json" in found and "not a file that whenlens wrote" in found
