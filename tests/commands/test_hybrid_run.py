"""The hybrid experiment as a command: it resumes, tells when from how, and refuses bad input."""

import json
import signal
import time
from pathlib import Path

import pytest

from interp.pairs import weights_folder
from tests.commands import small
from tests.commands.small import Command, copy_pair, finish

CODE = """
from dataclasses import dataclass
import interp.config

@dataclass(frozen=True)
class Small(interp.config.HybridConfig):
    n_fit: int = 200
    n_select: int = 16
    sizes: tuple[int, ...] = (8,)

interp.config.HybridConfig = Small
import interp.hybrid.selection
interp.hybrid.selection.DOSES = (0.3,)
interp.hybrid.selection.N_NULLS = 1
interp.hybrid.selection.candidate_layers = lambda n: (2,)
interp.hybrid.selection.ALL = [
    recipe
    for recipe in interp.hybrid.selection.ALL
    if recipe.controller in ("taxonomy", "entropy") and recipe.coefficients in ("fixed", "sweep")
]
from interp.cli import main
main()
"""
ARGUMENTS = "hybrid --n-report 40 --max-tokens 140 --seeds 1 --n-random 3 --workers 1 --out"


def start(out: Path, *more: str) -> Command:
    """The command on a small job: one layer, few combinations, few problems."""
    return small.start(CODE, ARGUMENTS, out, *more)


def untimed(value):
    """The results without wall times."""
    if isinstance(value, dict):
        return {
            k: untimed(v) for k, v in value.items() if k not in ("seconds", "timings", "command")
        }
    return [untimed(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("hybrid") / "whole"
    assert "Verdict: when" in finish(start(out))
    assert (out / "report.html").stat().st_size > 1e5
    return json.loads((out / "hybrid.json").read_text())


def value(results, arm):
    return results["arms"][arm]["gap_recovery"]["value"]


@pytest.mark.slow
def test_on_the_rl_pair_vectors_recover_the_gap_and_random_ones_do_not(undisturbed):
    assert value(undisturbed, "hybrid") > 0.7
    assert value(undisturbed, "thinking-token") == pytest.approx(1.0)  # at every disagreement
    assert value(undisturbed, "random-vectors") < 0.4
    assert value(undisturbed, "random-positions") < 0.4
    assert undisturbed["arms"]["hybrid"]["tokens_steered"] < 0.12
    assert undisturbed["taxonomy"]["ami"] >= 0.8
    assert undisturbed["verdict"]["answer"] == "when"


@pytest.mark.slow
def test_every_promised_arm_and_number_is_there(undisturbed):
    kinds = {name: arm["kind"] for name, arm in undisturbed["arms"].items()}
    controls = (
        "random-vectors random-category least-similar-category random-positions magnitude-only "
        "bias-only logit-bias"
    )
    assert {name for name, kind in kinds.items() if kind == "control"} == {
        *controls.split(),
        "random-vectors: sweep",
    }
    assert {name for name, kind in kinds.items() if kind == "ceiling"} == {"thinking-token"}
    assert {name for name, kind in kinds.items() if kind == "baseline"} == {
        "prompt",
        "power-sampling",
    }
    assert set(undisturbed["contrasts"]) == {n for n, kind in kinds.items() if kind != "method"}
    assert len(undisturbed["factorial"]) == 2 * 3 * 2
    assert {m["dtype"] for m in undisturbed["models"].values()} == {"float32"}
    assert [row["name"] for row in undisturbed["equal_cost"]] == [
        "power-sampling",
        "entropy",
        "base",
    ]
    costs = [row["tokens_per_problem"] for row in undisturbed["equal_cost"]]
    assert max(costs) < 1.35 * min(costs)


@pytest.mark.slow
def test_a_killed_run_in_a_pool_goes_on_and_ends_with_the_numbers_of_one_process(
    undisturbed, tmp_path
):
    out = tmp_path / "killed"
    for stage in ("taxonomy-", "select-", "arms-"):
        process = start(out, "--workers", "2")
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            here = list(out.glob(f"stages/{stage}*/*"))
            if len(here) > 3:
                break
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(out, "--workers", "2"))
    assert untimed(json.loads((out / "hybrid.json").read_text())) == untimed(undisturbed)


@pytest.mark.slow
def test_on_the_distilled_pair_vectors_recover_little_and_tokens_all(tmp_path):
    out = tmp_path / "distilled"
    assert "Verdict: how" in finish(start(out, "--pair", "countdown-distilled"))
    found = json.loads((out / "hybrid.json").read_text())
    assert value(found, "hybrid") < 0.3
    assert value(found, "thinking-token") >= 0.8


def test_a_budget_shorter_than_the_prompt_is_one_sentence(tmp_path, said):
    found = said("hybrid", "--max-tokens", 5, "--out", tmp_path / "out")
    assert "budget of 5 tokens" in found and "--max-tokens" in found
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_pair_that_never_differs_is_one_sentence(tmp_path):
    """Nor do its texts show a behavior, which is not what stops it."""
    base = weights_folder("countdown-rl") / "base"
    pair = copy_pair(tmp_path / "same", base, base)
    assert "nothing to steer" in small.refused(start(tmp_path / "out", "--pair", str(pair)))


def test_other_vocabularies_are_one_sentence(tmp_path, said):
    folder = weights_folder("countdown-rl")
    pair = copy_pair(tmp_path / "mixed", folder / "base", folder / "thinking")
    path = pair / "thinking" / "tokenizer.json"
    words = path.read_text().replace('"reach"', '"?"').replace('"with"', '"reach"')
    path.write_text(words.replace('"?"', '"with"'))
    assert "vocabularies" in said("hybrid", "--pair", pair, "--out", tmp_path / "out")
