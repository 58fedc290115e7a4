"""The direction card: the verdict first, every gate with its numbers, nothing from the file run as markup."""

import copy
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from figures.card import dose_window
from interp.validation.card import WORDS, write_card
from interp.validation.experiment import _folders
from interp.validation.gates import read_gates

text = runpy.run_path(str(Path(__file__).parent / "figures" / "pages.py"))["text"]
ATTACK = "<script>window.x=1</script>"
DOSES = [0.1, 0.3, 0.5, 1.0]


def change(clean: float, steered: float) -> dict:
    return {"clean": clean, "steered": steered, "change": steered - clean, "ci": [-0.1, 0.1]}


def make_card(failed: tuple[str, ...] = (), unmeasured: tuple[str, ...] = ()) -> dict[str, Any]:
    """A made-up card in which some gates fail."""
    bounded = {"value": 0.2, "ci": [0.15, 0.3]}
    details: dict[str, dict] = {
        "dose_response": {
            "doses": DOSES,
            "mean": [0.1, 0.2, 0.3, 0.35],
            "onset": bounded,
            "ec50": bounded,
            "collapse": {"value": 1.0, "ci": [0.9, None]},
            "accuracy": [0.3, 0.31, 0.32, 0.3, 0.05],
            "broken": [0.01, 0.01, 0.02, 0.05, 0.7],
        },
        "side_effects": {
            "traces": {
                name: change(0.3, 0.35)
                for name in ("accuracy", "broken", "loops", "unended", "unclosed", "length")
            },
            "neutral": {
                name: {"kl": 0.01, "ci": [0.005, 0.02]}
                for name in ("prompt", "think", "answer", "starts")
            }
            | {"perplexity": {"clean": 2.5, "steered": 2.625}},
        },
    }
    gates = {
        name: {
            "name": name,
            "passed": None if name in unmeasured else name not in failed,
            "reason": f"because of {name}",
            "estimate": None if name in unmeasured else 0.125,
            "ci": None if name in unmeasured else [0.0625, 0.25],
            "null": 0.03125,
            "details": details.get(name),
        }
        for name in read_gates()
    }
    trace = {
        "correct": True,
        "segments": [{"text": "aim for 24 .", "behavior": "subgoal-setting"}],
    }
    return {
        "schema": "whenlens.card/1",
        "command": "whenlens validate file.npy --layer 2",
        "direction": "checks",
        "behavior": "verification",
        "model": "countdown-rl/base",
        "model_fingerprint": "a" * 64,
        "layers": [2],
        "hook": "resid_post",
        "dose": 0.3,
        "n_problems": 500,
        "n_null": 120,
        "passed": not failed and not unmeasured,
        "failed": [*failed, *unmeasured],
        "thresholds": read_gates(),
        "gates": gates,
        "examples": [{"problem": "use 1 2 3", "before": trace, "after": trace}],
        "provenance": {"fitted by": "someone"},
        "held_out": None,
    }


def page_of(card: dict, folder: Path) -> str:
    write_card(card, folder / "card.html")
    return (folder / "card.html").read_text(encoding="utf-8")


def test_the_verdict_comes_first_and_names_every_gate_that_does_not_hold(tmp_path):
    page = page_of(make_card(("necessity",), ("transfer",)), tmp_path)
    verdict = text(re.search(r'<p class="reading" id="verdict">.*?</p>', page, re.S).group())
    assert "Fails" in verdict
    assert "2 of 10 gates do not hold: necessity, transfer" in " ".join(verdict.split())
    assert page.index('id="verdict"') < page.index('id="gates"') < page.index("Side effects")
    good = page_of(make_card(), tmp_path)
    assert "All 10 gates hold" in text(good)


def test_every_gate_has_its_row_with_estimate_interval_chance_and_thresholds(tmp_path):
    card = make_card(("necessity",), ("transfer",))
    page = page_of(card, tmp_path)
    rows = re.findall(r"<tr>.*?</tr>", page[page.index('id="gates"') :], re.S)
    for name in card["gates"]:
        (row,) = [text(r) for r in rows if f'<th class="name">{WORDS[name]}</th>' in r]
        assert f"because of {name}" in row
        for key, value in card["thresholds"][name].items():
            assert f"{key.replace('_', ' ')} {value}" in row
        if name == "transfer":
            assert "not measured" in row and "0.125" not in row
        else:
            assert "0.125" in row and ("fails" if name == "necessity" else "holds") in row
            assert re.search(r"0\.06\d*.*0\.25", row)


def test_nothing_that_the_file_says_becomes_markup(tmp_path):
    card = copy.deepcopy(make_card())
    card["direction"] = card["command"] = ATTACK
    card["provenance"] = {ATTACK: ATTACK}
    card["examples"][0]["problem"] = ATTACK
    card["examples"][0]["after"] = {
        "correct": False,
        "segments": [{"text": ATTACK, "behavior": None}],
    }
    card["gates"]["stability"]["reason"] = ATTACK
    page = page_of(card, tmp_path)
    assert ATTACK not in page
    assert page.count("&lt;script&gt;window.x=1") >= 7


def test_the_page_needs_nothing_beside_it(tmp_path):
    page = page_of(make_card(), tmp_path)
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?!data:|#)', page)


def test_the_window_is_shaded_from_onset_to_collapse_and_the_dose_is_marked():
    card = make_card()
    figure = dose_window(card)
    shaded = [s for s in figure.layout.shapes if s.type == "rect"]
    assert {(s.x0, s.x1) for s in shaded} == {(0.2, 1.0)}
    assert {s.x0 for s in figure.layout.shapes if s.type == "line"} == {0.3}
    rise = figure.data[0]
    assert list(rise.x) == [0.0, *DOSES]
    assert list(rise.y) == pytest.approx([0, 10, 20, 30, 35])
    assert list(figure.data[1].y) == pytest.approx([30, 31, 32, 30, 5])


def test_without_collapse_the_window_is_open_and_without_onset_there_is_none():
    card = make_card()
    found = card["gates"]["dose_response"]["details"]
    found["collapse"] = {"value": None, "ci": [None, None]}
    assert {s.x1 for s in dose_window(card).layout.shapes if s.type == "rect"} == {1.0}
    found["onset"] = {"value": None, "ci": [None, None]}
    assert not [s for s in dose_window(card).layout.shapes if s.type == "rect"]


def test_every_candidate_has_a_folder_of_its_own_inside_the_run():
    found = _folders(["a-1", "a b", "a/b", "a-b", "a", "a.", "../../etc", "..", ""])
    assert len(set(found)) == 9
    assert not any("/" in name or name.startswith(".") for name in found)


def test_a_card_without_dose_response_says_so_and_another_file_is_refused():
    card = make_card()
    del card["gates"]["dose_response"]
    assert "No dose-response" in dose_window(card).to_json()
    with pytest.raises(ValueError, match="card.json"):
        dose_window({"schema": "whenlens.results/1"})
