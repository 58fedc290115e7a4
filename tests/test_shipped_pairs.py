"""What the shipped pairs must be for the toolkit's ground truth to hold."""

from collections import Counter

import numpy as np
import pytest

from interp.behaviors import segment_all
from interp.divergence.tokens import score
from interp.pairs import BUILT_IN, load_pair, weights_folder
from interp.tasks import Countdown
from interp.traces import accuracy, generate
from interp.vocabulary import shared_vocabulary

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
def test_countdown_rl_was_taught_when_its_models_part_where_segments_start():
    pair = load_pair("countdown-rl")
    traces = generate(pair.thinking, PROBLEMS, sampled=False)
    found = score(pair, shared_vocabulary(pair.base, pair.thinking), traces)
    starts, total, in_top5, differ = 0.0, 0.0, 0, 0
    for trace, parts, one in zip(
        traces, segment_all(pair.base, traces, "grammar"), found, strict=True
    ):
        places = [part.start - trace.n_prompt for part in parts]
        places += [len(one.js) - 1] if trace.stopped else []  # what might have started there
        starts, total = starts + one.js[places].sum(), total + one.js.sum()
        in_top5 += (one.rank_in_base[one.differ] <= 5).sum()
        differ += one.differ.sum()
    assert starts / total >= 0.8
    assert in_top5 / differ >= 0.9


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
