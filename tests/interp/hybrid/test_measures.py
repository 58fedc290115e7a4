"""Records and verdicts: shares counted by hand, and planted truths get their answers."""

import numpy as np
import pytest

from interp.hybrid.alone import majority
from interp.hybrid.arms import ALL, Recipe, Settings
from interp.hybrid.measurement import methods
from interp.hybrid.measures import (
    JUDGED,
    SAME_EVERYWHERE,
    Scale,
    arm_record,
    by_problem,
    contrast,
    verdict,
)
from interp.hybrid.outcomes import FIELDS, Outcome
from interp.hybrid.selection import Choice
from interp.types import Trace

N = 400
RNG = np.random.default_rng(0)
BASE = (RNG.random(N) < 0.3).astype(float)
THINKING = np.maximum(BASE, RNG.random(N) < 0.6).astype(float)
IDS = [f"p{i}" for i in range(N)]
SCALE = Scale(BASE, THINKING, IDS, 0)


def part_way(share):
    """Accuracy of an arm that gains this share of what the thinking model gains."""
    return np.where(RNG.random(N) < share, THINKING, BASE)


def accuracies(hybrid, control, ceiling=1.0):
    found = {name: part_way(control) for name in (*JUDGED, *SAME_EVERYWHERE)}
    return found | {"hybrid": part_way(hybrid), "thinking-token": part_way(ceiling)}


@pytest.mark.parametrize(
    "hybrid, control, answer",
    [(0.95, 0.0, "when"), (0.05, 0.0, "how"), (0.5, 0.0, "cannot-tell"), (0.9, 0.8, "cannot-tell")],
)
def test_planted_truths_get_their_answers(hybrid, control, answer):
    found = verdict(accuracies(hybrid, control), SCALE)
    assert found["answer"] == answer
    assert found["ci"][0] <= found["value"] <= found["ci"][1]


def test_there_is_no_verdict_where_the_ceiling_is_low_or_the_gap_small():
    assert verdict(accuracies(0.3, 0.0, 0.3), SCALE)["answer"] == "cannot-tell"
    small = Scale(BASE, BASE, IDS, 0)
    found = verdict(accuracies(0.9, 0.0), small)
    assert found["answer"] == "cannot-tell" and "gap too small" in found["reason"]
    assert small.recovery(BASE) is None and small.share(BASE) is None


def test_the_strongest_control_counts():
    alone = verdict(accuracies(0.9, 0.0), SCALE)
    beside = accuracies(0.9, 0.0) | {JUDGED[1]: part_way(0.7)}
    assert verdict(beside, SCALE)["value"] < alone["value"]


def test_a_when_says_which_controls_without_a_direction_do_as_well():
    found = accuracies(0.95, 0.0)
    assert "do as well" not in verdict(found, SCALE)["reason"]
    found["logit-bias"] = found["hybrid"]
    assert "(logit-bias do as well)" in verdict(found, SCALE)["reason"]


def test_a_control_as_good_as_the_ceiling_leaves_no_verdict():
    found = verdict(accuracies(0.95, 1.0), SCALE)
    assert found["answer"] == "cannot-tell" and "a control does as well" in found["reason"]


def outcome(seed):
    rng = np.random.default_rng(seed)
    numbers = {field: rng.integers(1, 9, N).astype(float) for field in FIELDS}
    numbers["correct"] = (rng.random(N) < 0.5).astype(float)
    numbers["stopped"] = (rng.random(N) < 0.9).astype(float)
    return Outcome(numbers, 1.5)


def test_a_record_counts_over_all_runs():
    runs = [[outcome(1), outcome(2)], [outcome(3), outcome(4)]]
    flat = [o for row in runs for o in row]
    found = arm_record("control", Recipe("a", "b", "c"), runs, SCALE)

    def total(field):
        return sum(sum(o[field].tolist()) for o in flat)

    assert found["tokens_steered"] == pytest.approx(total("steered") / total("n_tokens"))
    assert found["tokens_changed"] == pytest.approx(total("changed") / total("n_tokens"))
    positions = total("n_tokens") + total("n_prompt")
    assert found["positions_edited"] == pytest.approx(total("edited") / positions)
    assert found["forwards_per_token"] == pytest.approx(total("passes") / total("n_tokens"))
    assert found["eos_rate"] == pytest.approx(total("stopped") / (4 * N))
    assert found["eos_rate"] + found["truncated"] == pytest.approx(1)
    assert found["seconds"] == 6.0 and found["n_tokens"] == total("n_tokens")
    assert found["accuracy"]["value"] == pytest.approx(total("correct") / (4 * N))
    gap = THINKING.mean() - BASE.mean()
    expected = [(o["correct"].mean() - BASE.mean()) / gap for o in flat]
    assert found["sets"] == pytest.approx(expected)
    low, high = found["sets_ci"]
    assert min(expected) <= low <= np.mean(expected) <= high <= max(expected)
    assert found["by_seed"] == pytest.approx([np.mean(expected[:2]), np.mean(expected[2:])])
    assert found["gap_recovery"]["value"] == pytest.approx(np.mean(expected))


def test_contrasts_are_paired_by_problem():
    values = by_problem([outcome(1), outcome(2)])
    shifted = np.clip(values + 0.0, 0, 1)
    assert contrast(values, shifted, SCALE) == {"value": 0.0, "ci": [0.0, 0.0], "p_above": 0.0}
    assert contrast(THINKING, BASE, SCALE)["p_above"] == 1.0


def trace(text, stopped=True):
    return Trace("p", "m", "", text, (), 0, stopped, False)


def test_the_vote_goes_to_the_commonest_last_sentence_of_finished_traces():
    votes = [
        trace("aim for 3 . answer 1 + 2 + 3 ."),
        trace("answer 3 + 2 + 1 ."),
        trace("hmm , not sure . answer 3 + 2 + 1 ."),
        trace("answer 1 + 2 + 3 .", stopped=False),
        trace("answer 1 + 2 + 3 .", stopped=False),
    ]
    assert majority(votes) is votes[1]
    assert majority(votes[3:]) is votes[3]


def test_the_factorial_is_full_and_methods_differ_from_the_chosen_in_one_factor():
    assert len(set(ALL)) == 6 * 3 * 4
    rows = [vars(recipe) | {"accuracy": i / 100} for i, recipe in enumerate(ALL)]
    chosen = Recipe("taxonomy", "trained-jointly", "sweep")
    found = methods(Choice(Settings(0, 0, 0.3, 0.1, 1.0), chosen, rows))
    assert found.pop("hybrid") == chosen
    alone, free = found.pop("difference of means alone"), found.pop("teacher-free")
    assert (alone.vectors, alone.coefficients) == ("difference-of-means", "fixed")
    assert free.controller == "entropy" and free.coefficients in ("fixed", "network")
    for recipe in found.values():
        assert (
            sum(a != b for a, b in zip(vars(recipe).values(), vars(chosen).values(), strict=True))
            == 1
        )
    assert len(found) == 4 + 2 + 3
