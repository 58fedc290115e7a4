"""What the shipped pairs must be for the toolkit's ground truth to hold."""

import numpy as np
import pytest

from interp.behaviors import segment_all
from interp.pairs import load_pair
from interp.tasks import Countdown
from interp.traces import accuracy, generate

BEHAVIORS = ("subgoal-setting", "verification", "backtracking")


def evaluate(model, sampled: bool) -> tuple[float, dict[str, float]]:
    problems = Countdown().problems()[::2][:500]
    traces = generate(model, problems, sampled=sampled, seed=7)
    labels = [s.behavior for row in segment_all(model, traces, "grammar") for s in row]
    shares = {b: labels.count(b) / len(labels) for b in BEHAVIORS}
    return float(np.mean(accuracy(traces))), shares


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_countdown_rl_thinks_better_and_more_by_behaviors_its_base_has(sampled):
    pair = load_pair("countdown-rl")
    base, base_shares = evaluate(pair.base, sampled)
    thinking, thinking_shares = evaluate(pair.thinking, sampled)
    assert 0.15 <= base <= 0.45
    assert thinking - base >= (0.2 if sampled else 0.35)
    if sampled:
        for behavior in BEHAVIORS:
            assert base_shares[behavior] >= 0.03
            assert thinking_shares[behavior] >= 2 * base_shares[behavior]
