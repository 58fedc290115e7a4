"""`whenlens validate`: shipped directions get a card that passes, others are told from them or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from interp.pairs import BUILT_IN, weights_folder
from tests.commands import small
from tests.commands.small import finish

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
    assert process.returncode == 3, errors[-2000:]
    card = json.loads((run / "cards" / "noise" / "card.json").read_text())
    assert not card["passed"] and "sufficiency" in card["failed"]
    assert "fails" in printed


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
        f"{SHIPPED} --model countdown-rl": ("PAIR/base or PAIR/thinking",),
        f"{SHIPPED} --model countdown-rl/thinking": ("countdown-rl/thinking",),
        f"{SHIPPED} --dose -1": ("--dose is -1",),
        f"{tmp_path / 'none.npy'}": ("none.npy",),
        "countdown-distilled --model countdown-distilled/base": ("No directions are shipped",),
    }
    for arguments, words_ in cases.items():
        found = said("validate", *arguments.split(), "--out", out)
        assert all(w in found for w in words_), (arguments, found)
        assert "Traceback" not in found
    assert not out.exists()
