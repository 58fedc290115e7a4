"""Gates on a bench of the built-in pair: what they count, by plain loops, and that each can fail."""

from collections import Counter

import numpy as np
import pytest
import torch

from interp.types import BEHAVIORS
from interp.validation.evidence import Evidence
from interp.validation.gates import read_gates
from interp.validation.trial import Trial

LAYER = 2


@pytest.fixture(scope="module")
def trial(evidence):
    """The direction that works, before the default gates."""
    return Trial(evidence, read_gates())


def rates(bench, traces, behaviors, after):
    """Share of chances taken, by plain loops over labeled segments."""
    taken, chances = Counter(), Counter()
    for row in bench.segments(traces):
        labels = [s.behavior for s in row]
        for before, label in zip(["start", *labels], labels, strict=False):
            for behavior in behaviors:
                if (before or "") in after[behavior]:
                    chances[behavior] += 1
                    taken[behavior] += label == behavior
    return {b: taken[b] / chances[b] for b in behaviors}


def test_the_true_direction_raises_its_behavior_beyond_nulls_and_noise_does_not(bench, trial):
    good = trial.sufficiency(0.1, 0.05)
    assert good.passed and good.estimate > 0.1
    noise = torch.randn(
        len(trial.steering.vectors[0, 0]), generator=torch.Generator().manual_seed(3)
    )
    bad = Trial(Evidence(bench, "verification", {LAYER: noise}, 0.3), read_gates())
    assert not bad.sufficiency(0.1, 0.05).passed


def test_the_opposite_direction_fails_sufficiency_dose_response_and_transfer(bench, checks):
    gates = read_gates()
    trial = Trial(Evidence(bench, "verification", {LAYER: -checks}, 0.3), gates)
    for name in ("sufficiency", "dose_response", "transfer"):
        assert not getattr(trial, name)(**gates[name]).passed, name


def test_better_than_a_prompt_is_the_difference_of_specific_rises(bench, trial):
    found = trial.prompt(-1.0)
    behaviors, after = bench.own.behaviors, bench.own.after
    clean, steered, told = (
        rates(bench, traces, behaviors, after)
        for traces in (bench.own.clean_traces, trial.traces, bench.told)
    )

    def alone(after_):
        change = {b: after_[b] - clean[b] for b in behaviors}
        own = change.pop("verification")
        return own - max(0.0, *change.values())

    assert found.estimate == pytest.approx(alone(steered) - max(0.0, alone(told)), abs=1e-9)
    assert found.passed
    assert not trial.prompt(1.0).passed
    assert all(bench.words in t.prompt for t in bench.told)


@pytest.mark.parametrize("behavior", ["verification", "backtracking", "uncertainty-estimation"])
def test_what_does_nothing_is_not_better_than_a_prompt_that_harms(bench, behavior):
    noise = torch.randn(bench.own.model.d_model, generator=torch.Generator().manual_seed(4))
    trial = Trial(Evidence(bench, behavior, {LAYER: noise}, 1e-3), read_gates())
    assert not trial.prompt(**read_gates()["prompt"]).passed


def test_specificity_is_the_largest_other_rise_as_a_share(bench, trial):
    behaviors, after = bench.own.behaviors, bench.own.after
    clean = rates(bench, bench.own.clean_traces, behaviors, after)
    steered = rates(bench, trial.traces, behaviors, after)
    change = {b: steered[b] - clean[b] for b in behaviors}
    own = change.pop("verification")
    for label in (*BEHAVIORS, None):
        if label not in behaviors:
            shares = []
            for traces in (trial.traces, bench.own.clean_traces):
                labels = [s.behavior for row in bench.segments(traces) for s in row]
                shares.append(labels.count(label) / len(labels))
            change[label] = shares[0] - shares[1]
    share = max(0.0, *change.values()) / own
    found = trial.specificity(share + 1e-6)
    assert len(found.details) == len(BEHAVIORS)
    assert found.estimate == pytest.approx(share, abs=1e-9)
    assert found.passed
    assert not trial.specificity(share - 1e-6).passed


def test_an_edit_of_another_length_than_asked_for_did_not_fire_as_it_should(bench, checks):
    trial = Trial(Evidence(bench, "verification", {LAYER: checks}, 0.3), read_gates())
    assert trial.fired(0.01).passed
    trial.dose = 0.4
    found = trial.fired(0.01)
    assert not found.passed
    assert found.estimate == pytest.approx(0.25, abs=1e-3)


def test_at_a_collapse_dose_the_model_breaks_and_the_gates_say_so(bench, checks):
    gates = read_gates()
    trial = Trial(Evidence(bench, "verification", {LAYER: checks}, 3.0), gates)
    side = trial.side_effects(**gates["side_effects"])
    assert not side.passed
    traces, accuracy = trial.traces, side.details["traces"]["accuracy"]
    assert accuracy["steered"] == np.mean([t.correct for t in traces])
    assert side.details["traces"]["length"]["steered"] == np.mean(
        [len(t.tokens) - t.n_prompt for t in traces]
    )


def test_a_direction_without_length_or_chance_of_its_own_gives_the_dose_on_select(bench, checks):
    chosen = Evidence(bench, "verification", {LAYER: checks}, None)
    assert 0.1 <= chosen.dose <= 0.5
    longer = Evidence(bench, "verification", {LAYER: 7 * checks}, None)
    assert longer.dose == chosen.dose
    torch.testing.assert_close(longer.steering.vectors, chosen.steering.vectors)


def test_a_length_near_the_edge_of_float32_is_the_same_direction(bench, checks):
    expected = Evidence(bench, "verification", {LAYER: checks}, 0.3).steering.vectors
    for scale in (1e18, 1e-20):
        unit = checks / checks.norm() * scale
        found = Evidence(bench, "verification", {LAYER: unit}, 0.3).steering.vectors
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_necessity_takes_the_behavior_from_the_thinking_model(bench, trial):
    found = trial.necessity(0.2, 0.3)
    assert found.passed
    assert found.estimate < 0
    before = rates(bench, bench.thinking.clean_traces, ["verification"], bench.thinking.after)
    assert found.details["baseline_rate"] == pytest.approx(before["verification"], abs=1e-9)
