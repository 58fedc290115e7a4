"""`whenlens diverge` as a command: what it promises, two truths told apart, resumption, bad input."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from interp.pairs import weights_folder
from tests.commands import small
from tests.commands.small import Command, copy_pair, finish

CODE = """
from dataclasses import dataclass
import interp.config

@dataclass(frozen=True)
class Small(interp.config.DivergenceConfig):
    n_fit: int = 120
    n_select: int = 60
    n_points: int = 300
    n_patched: int = 24
    n_offsets: int = 3

interp.config.DivergenceConfig = Small
from interp.cli import main
main()
"""
ARGUMENTS = "diverge --n-report 60 --n-random 20 --n-atlas 4 --workers 1 --out"


def start(out: Path, *more: str) -> Command:
    """The command on a small job."""
    return small.start(CODE, ARGUMENTS, out, *more)


def results(out: Path) -> dict:
    return json.loads((out / "divergence.json").read_text())


def untimed(found: dict) -> dict:
    return {k: v for k, v in found.items() if k not in ("timings", "command")}


@pytest.fixture(scope="module")
def rl_folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("divergence") / "rl"
    assert "divergence.html" in finish(start(out))
    return out


@pytest.mark.slow
def test_every_promised_number_is_there(rl_folder):
    found = results(rl_folder)
    assert {"value", "ci"} <= set(found["disagreement"])
    assert {"mean", "gini", "share_on_segment_starts"} <= set(found["js"])
    assert {"unshifted", "marginal", "shifted"} == set(found["rank"])
    assert {"auroc", "ci", "base_entropy_auroc"} <= set(found["predict_disagreement"])
    assert {"directions", "random"} <= set(found["explained"])
    assert found["models"].keys() == {"base", "thinking"}
    assert all("{problem}" in one["template"] for one in found["models"].values())
    assert found["promoted_in_base_top5"] and found["tokens"] and found["layers"]
    assert set(found["sources"]) == {"thinking", "base", "hybrid"}
    assert set(found["patching"]["heatmap"]) == {"thinking_into_base", "base_into_thinking"}
    atlas = json.loads((rl_folder / "atlas.json").read_text())
    assert len(atlas["traces"]) == 3 * 4
    assert any(trace["patching"] for trace in atlas["traces"])
    assert (rl_folder / "divergence.html").stat().st_size > 1e5


@pytest.mark.slow
def test_on_the_rl_pair_few_choices_part_and_known_directions_explain_them(rl_folder):
    found = results(rl_folder)
    assert found["disagreement"]["value"] < 0.15
    assert (
        found["js"]["share_on_segment_starts"] > 3 * found["sources"]["thinking"]["segment_starts"]
    )
    explained = found["explained"]
    assert set(explained["deployed"]) == {"subgoal-setting", "verification", "backtracking"}
    assert explained["directions"] > explained["random_q95"]
    assert found["predict_disagreement"]["auroc"] > found["predict_disagreement"]["shuffled_auroc"]
    restored = found["patching"]["heatmap"]["thinking_into_base"]["resid_post"]
    at_last = [row[0] for row in restored]
    assert at_last == sorted(at_last) and at_last[-1] > 0.5


@pytest.mark.slow
def test_on_the_distilled_pair_the_same_table_is_another(rl_folder, tmp_path):
    finish(start(tmp_path / "distilled", "--pair", "countdown-distilled"))
    rl, distilled = results(rl_folder), results(tmp_path / "distilled")
    assert distilled["disagreement"]["value"] > 3 * rl["disagreement"]["value"]
    assert distilled["rank"]["shifted"] > 3 * rl["rank"]["shifted"]
    assert distilled["explained"]["directions"] < 0.5 * rl["explained"]["directions"]


@pytest.mark.slow
def test_a_killed_run_in_a_pool_goes_on_and_ends_with_the_numbers_of_one_process(
    rl_folder, tmp_path
):
    out = tmp_path / "killed"
    process = start(out, "--workers", "2")
    deadline = time.monotonic() + 120
    while not list(out.glob("stages/explained-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begin = {p.name: p.stat().st_mtime for p in out.glob("stages/tokens-*")}
    finish(start(out, "--workers", "2"))
    assert untimed(results(out)) == untimed(results(rl_folder))
    assert begin == {p.name: p.stat().st_mtime for p in out.glob("stages/tokens-*")}


@pytest.mark.slow
def test_figures_are_drawn_from_the_run(rl_folder):
    code = "from interp.cli import main; main()"
    command = [sys.executable, "-c", code, "figures", str(rl_folder), "--format", "html"]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list((rl_folder / "figures").glob("*.html"))) >= 5


def rl_pair(folder: Path) -> Path:
    source = weights_folder("countdown-rl")
    return copy_pair(folder, source / "base", source / "thinking")


def retokenized(folder: Path, change) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "thinking")
    change(tokenizer)
    tokenizer.save_pretrained(folder / "thinking")


@pytest.mark.slow
def test_added_tokens_are_left_out_and_said_to_be(tmp_path):
    pair = rl_pair(tmp_path / "added")
    retokenized(pair, lambda tokenizer: tokenizer.add_tokens(["quite-new"]))
    printed = " ".join(finish(start(tmp_path / "out", "--pair", str(pair))).split())
    assert "1 of the thinking model's tokens" in printed
    found = results(tmp_path / "out")
    assert found["vocabulary"]["thinking_only"] == 1
    assert "hybrid" not in found["sources"]


def test_other_vocabularies_are_one_sentence(tmp_path, said):
    pair = rl_pair(tmp_path / "mixed")
    path = pair / "thinking" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    names = list(vocab)
    content["model"]["vocab"] = dict(zip(names, [*list(vocab.values())[1:], 0], strict=True))
    path.write_text(json.dumps(content))
    assert "share" in said("diverge", "--pair", pair, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_budget_shorter_than_the_prompt_is_one_sentence(tmp_path, said):
    found = said("diverge", "--max-tokens", 5, "--out", tmp_path / "out")
    assert "budget of 5 tokens" in found and "--max-tokens" in found


@pytest.mark.slow
def test_a_pair_that_never_differs_is_one_sentence(tmp_path):
    base = weights_folder("countdown-rl") / "base"
    for name in ("base", "thinking"):
        shutil.copytree(base, tmp_path / "same" / name)
    process = start(tmp_path / "out", "--pair", str(tmp_path / "same"))
    assert "choose a pair that differs" in small.refused(process)
