"""`whenlens validate`: shipped directions get a card that passes, others are told from them or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from interp.cli import app
from interp.errors import UserError
from interp.pairs import BUILT_IN, weights_folder
from interp.presets import config_for
from interp.tasks import Countdown
from interp.validation.experiment import N_NULL_PROBLEMS, config_of, split_model
from tests.commands import small
from tests.commands.small import copy_pair, finish

CODE = """
from dataclasses import dataclass
import interp.config

@dataclass(frozen=True)
class Small(interp.config.Config):
    n_select: int = 100
    n_shuffled: int = 5

interp.config.Config = Small
from interp.cli import main
main()
"""
SHIPPED = weights_folder("countdown-rl") / "directions.safetensors"
SIZES = "--n-report 500 --n-random 40 --dose 0.3"  # of 45 nulls, one may be as large


def start(arguments: str, out: Path, **options):
    """The command itself, on a small job."""
    return small.start(CODE, f"validate {arguments} {SIZES} --out", out, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose traces, activations and cards the tests share."""
    return tmp_path_factory.mktemp("validation") / "run"


@pytest.mark.slow
def test_a_card_for_each_shipped_direction_says_that_it_passes(run):
    finish(start("countdown-rl", run))
    with safe_open(SHIPPED, "np") as file:
        shipped = set(file.keys())
    cards = [json.loads(p.read_text()) for p in (run / "cards").glob("*/card.json")]
    assert {c["direction"] for c in cards} == shipped
    for card in cards:
        assert card["passed"] and not card["failed"]
        assert card["model"] == "countdown-rl/base"
        assert card["held_out"] is True
        assert len(card["gates"]) == 10
        assert all(card["gates"][name]["passed"] is True for name in card["gates"])
        page = run / "cards" / card["direction"].replace("/", "-") / "card.html"
        assert page.read_text().index(">Passes<") < page.read_text().index("Sufficiency")


def test_no_other_pair_ships_directions():
    assert [p for p in BUILT_IN if (weights_folder(p) / "directions.safetensors").is_file()] == [
        "countdown-rl"
    ]


@pytest.mark.slow
def test_noise_at_a_shipped_direction_s_place_exits_with_3(run, tmp_path):
    noise = np.random.default_rng(0).normal(size=160).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    process = start(f"{tmp_path / 'noise.npy'} --layer 2 --behavior verification", run)
    printed, errors = process.communicate()
    assert process.poll() == 3, errors[-2000:]
    card = json.loads((run / "cards" / "noise" / "card.json").read_text())
    assert not card["passed"] and "sufficiency" in card["failed"]
    assert "fails" in printed


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A pair and a model that are not built in, a task of their own, and a direction without provenance."""
    folder, weights = tmp_path_factory.mktemp("foreign"), weights_folder("countdown-rl")
    copy_pair(folder / "pair", weights / "base", weights / "thinking")
    shutil.copytree(weights / "thinking", folder / "alone")
    rows = [
        {"prompt": p.prompt, "answer": str(p.data["target"])} for p in Countdown().problems()[:300]
    ]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "checks.npy", load_file(SHIPPED)["verification@countdown-rl/base"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pair/base", "alone"])
def test_models_that_are_not_built_in_are_asked_and_measured_as_they_are(foreign, tmp_path, model):
    arguments = (
        f"{foreign / 'checks.npy'} --layer 2 --behavior verification --model {foreign / model}"
    )
    sizes = "--dose 0.3 --n-fit 80 --n-report 20 --n-random 20 --n-points 60 --max-new-tokens 60"
    process = small.start(
        "from interp.cli import main; main()",
        f"validate {arguments} {sizes} --task {foreign / 'task.jsonl'} --annotator keywords --out",
        out := tmp_path / "out",
        "--template",
        "{problem} we need 24 .",  # words of the corpus after the task's own, which these models cannot read
    )
    errors = process.communicate()[1]
    assert process.poll() in (0, 3), errors[-2000:]
    card = json.loads((out / "cards" / "checks" / "card.json").read_text())
    expected = {
        "task": str(foreign / "task.jsonl"), "annotator": "keywords", "behaviors": None, "temperature": 0.7,
        "max_new_tokens": 60, "null_new_tokens": 24, "n_null_problems": 4, "n_select": 20,
    }  # fmt: skip
    assert {name: card["config"][name] for name in expected} == expected
    assert json.loads((out / "run.json").read_text()) == card["config"]
    assert card["model"] == model and len(card["gates"]) == 10
    asked = {one["template"] for one in card["models"].values()}
    assert asked == {"{problem} we need 24 ."}
    assert card["gates"]["fired"]["passed"] and card["n_problems"] == 20
    lengths = card["gates"]["side_effects"]["details"]["traces"]["length"]
    assert 0 < lengths["clean"] <= 60
    others = [n for n in card["gates"]["transfer"]["details"]["settings"] if n.startswith("in ")]
    assert others == ([] if model == "alone" else ["in pair/thinking"])
    necessity = card["gates"]["necessity"]["reason"]
    assert ("in alone" if model == "alone" else "in pair/thinking") in necessity
    assert "Sufficiency" in (out / "cards" / "checks" / "card.html").read_text()


def test_defaults_are_those_of_the_main_job_but_for_fewer_nulls():
    built_in, real = config_of("countdown-rl"), config_of("smollm2")
    assert built_in == replace(config_for("countdown-rl"), n_null_problems=N_NULL_PROBLEMS)
    assert real == config_for("smollm2") and (real.task, real.annotator) == (
        "gsm_symbolic",
        "keywords",
    )
    assert config_of("smollm2", task="questions").annotator == "form"
    assert config_of("countdown-rl", n_null_problems=60).n_null_problems == 60


def test_a_model_is_one_of_a_pair_or_stands_alone(tiny_folder):
    assert split_model("countdown-rl/thinking", None) == ("countdown-rl", "thinking")
    assert split_model("orz-7b/base", None) == ("orz-7b", "base")
    assert split_model("base", "some/folder") == ("some/folder", "base")
    assert split_model(str(tiny_folder), None) == (str(tiny_folder), "base")
    with pytest.raises(UserError, match="orz-7b' is a pair.*orz-7b/base or orz-7b/thinking"):
        split_model("orz-7b", None)
    with pytest.raises(UserError, match="'x' is not one of pair 'orz-7b': give base or thinking"):
        split_model("x", "orz-7b")


def test_a_model_alone_is_no_thinking_model(tiny_folder, tmp_path):
    np.save(tmp_path / "v.npy", np.ones(32, np.float32))
    asked = ["validate", str(tmp_path / "v.npy"), "--layer", "1", "--behavior", "verification"]
    asked += ["--base", str(tiny_folder), "--model", "thinking", "--task", "countdown"]
    with pytest.raises(UserError, match="stands alone and has no thinking model"):
        app([*asked, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert not (tmp_path / "out").exists()


def changed(path: Path, **fields: str) -> Path:
    """The shipped file with other provenance."""
    with safe_open(SHIPPED, "np") as file:
        header = {k: json.dumps(json.loads(v) | fields) for k, v in file.metadata().items()}
    save_file(load_file(SHIPPED), path, metadata=header)
    return path


def test_what_does_not_belong_in_the_model_is_refused_with_the_difference(tmp_path, said):
    other = changed(tmp_path / "other.safetensors", model_fingerprint="f" * 64)
    words = changed(tmp_path / "words.safetensors", tokenizer_hash="0" * 64)
    wide, plain = tmp_path / "wide.npy", tmp_path / "plain.npy"
    np.save(wide, np.ones(64, np.float32))
    np.save(plain, np.ones(160, np.float32))
    out = tmp_path / "run"
    cases = {
        f"{other}": ("fingerprint ffffffff", "but countdown-rl/base has"),
        f"{words}": ("tokenizer_hash 00000000", "but countdown-rl/base has"),
        f"{wide} --layer 2 --behavior verification": ("d_model 64", "d_model 160"),
        f"{plain} --layer 9 --behavior verification": ("9",),
        f"{plain} --layer 2 --behavior verfication": ("did you mean verification",),
        f"{plain} --layer 2": ("no word on its behavior",),
        f"{plain} --layer 2 --behavior verification --hook resid_mid": ("resid_mid", "resid_post"),
        f"{SHIPPED} --only verificaton": ("did you mean",),
        f"{SHIPPED} --model countdown-rl": (
            "is a pair, expected one model",
            "countdown-rl/base or countdown-rl/thinking",
        ),
        f"{SHIPPED} --model countdown-rl/thinking": ("countdown-rl/thinking",),
        f"{SHIPPED} --dose -1": ("--dose is -1",),
        f"{SHIPPED} --model countdown-lr/base": ("did you mean countdown-rl",),
        f"{SHIPPED} --model base --pair countdown-rl --task countdwn": ("did you mean countdown",),
        f"{SHIPPED} --annotator keyword": ("did you mean keywords",),
        f"{SHIPPED} --annotator form": ("Unknown behavior 'subgoal-setting'", "question"),
        f"{SHIPPED} --template none": ("has no place for the problem",),
        f"{SHIPPED} --device-map sideways": ("under the device map 'sideways'",),
        f"{tmp_path / 'none.npy'}": ("none.npy",),
        "countdown-distilled --model countdown-distilled/base": ("No directions are shipped",),
    }
    for arguments, words_ in cases.items():
        found = said("validate", *arguments.split(), "--out", out)
        assert all(w in found for w in words_), (arguments, found)
        assert "Traceback" not in found
    assert not out.exists()
