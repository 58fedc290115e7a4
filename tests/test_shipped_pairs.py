"""What the shipped pairs must be for the toolkit's ground truth to hold."""

from collections import Counter

import numpy as np
import pytest

from interp.behaviors import segment_all
from interp.pairs import BUILT_IN, load_pair, weights_folder
from interp.tasks import Countdown
from interp.traces import accuracy, generate

PROBLEMS = Countdown().problems()[::2]
TRAINED = ("subgoal-setting", "verification", "backtracking")


def evaluate(model, sampled: bool) -> tuple[float, dict[str | None, float]]:
    """Accuracy, and each behavior's share of segments."""
    traces = generate(model, PROBLEMS, sampled=sampled, seed=7)
    labels = Counter(s.behavior for row in segment_all(model, traces, "grammar") for s in row)
    return float(np.mean(accuracy(traces))), {b: n / labels.total() for b, n in labels.items()}


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_countdown_rl_thinks_better_and_more_by_behaviors_its_base_has(sampled):
    pair = load_pair("countdown-rl")
    base, base_shares = evaluate(pair.base, sampled)
    thinking, thinking_shares = evaluate(pair.thinking, sampled)
    assert 0.15 <= base <= 0.45
    assert thinking - base >= 0.35
    if sampled:
        for behavior in TRAINED:
            assert base_shares[behavior] >= 0.03
            assert thinking_shares[behavior] >= 2 * base_shares[behavior]


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_countdown_distilled_learned_behaviors_that_its_base_never_shows(sampled):
    pair = load_pair("countdown-distilled")
    base, base_shares = evaluate(pair.base, sampled)
    thinking, thinking_shares = evaluate(pair.thinking, sampled)
    assert thinking - base >= 0.35
    for behavior in TRAINED:
        assert base_shares.get(behavior, 0.0) == 0.0
        assert thinking_shares[behavior] >= 0.05


def test_shipped_pairs_have_cards_and_fit_the_budget():
    for pair in BUILT_IN:
        for model in ("base", "thinking"):
            card = (weights_folder(pair) / model / "README.md").read_text()
            assert "Accuracy" in card and "seed" in card and "Curve" in card
    weights = weights_folder("countdown-rl").parent
    assert sum(f.stat().st_size for f in weights.rglob("*") if f.is_file()) < 30e6
