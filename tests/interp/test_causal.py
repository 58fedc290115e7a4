"""Causal tests: effects equal a slow loop, selection follows its rule, arms equal runs of their own."""

import numpy as np
import pytest
import torch

from interp import causal
from interp.causal import (
    DOSES,
    MIN_SPREAD,
    Arm,
    ArmResult,
    Candidate,
    choose,
    count,
    edited,
    effect_record,
    effects,
    rate_change,
    run_arms,
    spread,
)
from interp.decisions import DecisionPoints
from interp.interventions import Add, MeanAblate, intervene
from interp.tasks import load_task
from interp.traces import generate
from interp.types import Segment, Trace

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 5])[:5]
UNITS = [2.0, 3.0, 4.0]
AFTER = {
    "verification": frozenset({"start", "backtracking"}),
    "backtracking": frozenset({"verification"}),
}


def grade(problem, text):
    return len(text) % 2 == 0


def annotator(sentences):
    """Odd sentences count as verification, even ones as backtracking."""
    return ["verification" if len(s) % 2 else "backtracking" for s in sentences]


@pytest.fixture(scope="module")
def points(sharp):
    from interp.behaviors import segment

    traces = generate(sharp, PROBLEMS, max_new_tokens=20)
    segments = [segment(sharp, t) for t in traces]
    shares = torch.rand(sharp.bridge.cfg.d_vocab, 2, generator=torch.Generator().manual_seed(0))
    return DecisionPoints(sharp, traces, segments, shares, n_points=12)


def vectors(n, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("ablate", [False, True])
def test_effects_equal_a_loop_over_every_use(points, ablate):
    readings = vectors(2, 3, 32)
    means = vectors(3, 32) if ablate else None
    found = effects(points, readings, UNITS, means)
    assert found.shape == (2, 3, 1 if ablate else len(DOSES), 2, len(points))
    for reading in range(2):
        for layer in range(3):
            v = readings[reading, layer].double().numpy()
            v = v / np.linalg.norm(v)
            resid = points.resid[layer].double().numpy()
            for d in range(found.shape[2]):
                if means is None:
                    changed = resid + DOSES[d] * UNITS[layer] * v
                else:
                    gap = (means[layer].double().numpy() - resid) @ v
                    changed = resid + gap[:, None] * v
                at = points.probabilities(layer, torch.from_numpy(changed).float())
                expected = (at - points.clean).T.numpy()
                np.testing.assert_allclose(found[reading, layer, d], expected, atol=1e-4)


def test_mean_ablation_sets_the_component_to_the_means(points):
    v, means = vectors(1, 32)[0], vectors(3, 32)
    resid = edited(points, 1, v, (), UNITS, means)[0]
    component = resid.double().numpy() @ v.double().numpy()
    np.testing.assert_allclose(component, float(means[1] @ v), rtol=1e-3, atol=1e-3)


def table(own, others):
    """Effects [reading, layer, dose, behavior] with behavior 0's given and one other behavior."""
    return np.stack([np.array(own, float), np.array(others, float)], -1)


def chosen(own, spreads=None, sign=1):
    """The use chosen for behavior 0 when another behavior stays put."""
    own = np.array(own, float)
    spreads = np.ones_like(own) if spreads is None else np.array(spreads, float)
    zero = np.zeros_like(own)
    return choose(table(own, zero), table(spreads, zero + 1), 0, sign)


def test_of_what_works_the_use_that_stands_out_most_from_random_directions_is_taken():
    own, spreads = np.zeros((2, 2, len(DOSES))), np.ones((2, 2, len(DOSES)))
    own[..., 3] = [[0.9, 0.7], [0.45, 0.29]]
    spreads[..., 3] = [[0.4, 0.2], [0.1, 0.01]]  # 2.25, 3.5, 4.5; the last does not work
    assert chosen(own, spreads) == Candidate(1, 0, DOSES[3])
    assert chosen(-own, spreads, sign=-1) == Candidate(1, 0, DOSES[3])


def test_the_spread_is_the_root_mean_square_over_directions_and_never_tiny():
    found = spread(np.array([[0.3, 0.001], [-0.4, 0.002]]).reshape(2, 1, 1, 1, 2))
    np.testing.assert_allclose(found.ravel(), [np.sqrt((0.09 + 0.16) / 2), MIN_SPREAD])


def test_a_direction_that_only_harms_still_gets_its_least_bad_use():
    own = np.full((1, 3, 1), -0.5)
    own[0, 1] = -0.1
    assert chosen(own) == Candidate(0, 1, 0.0)


def test_chances_are_segments_after_which_the_behavior_is_a_choice(sharp, monkeypatch):
    kinds = ["deduction", "verification", "verification", None, "deduction", "backtracking"]
    segments = [Segment(i, i + 1, "", kind) for i, kind in enumerate(kinds)]
    monkeypatch.setattr(causal, "segment", lambda model, trace: segments)
    monkeypatch.setattr(causal, "annotate", lambda parts, annotator: parts)
    trace = Trace("p", "m", "", "", (1,), 1, True, True)
    after = {
        "verification": frozenset({"deduction"}),
        "backtracking": frozenset({"deduction", "verification"}),
    }
    found = count(sharp, [trace], "grammar", after)
    # Of the two after a deduction one is a check; a check after a check is no chance of a check.
    assert found.taken[:, 0].tolist() == [1, 1]
    assert found.chances[:, 0].tolist() == [2, 4]
    assert found.rate(0) == 1 / 2 and found.correct.tolist() == [1.0]


@pytest.mark.parametrize("ablate", [False, True])
@pytest.mark.parametrize("rows_per_batch", [1, 10, 1000])
def test_arms_in_shared_batches_equal_runs_of_their_own(sharp, ablate, rows_per_batch):
    means = vectors(3, 32) if ablate else None
    arms = [
        Arm(f"arm-{i}", v, Candidate(0, layer, dose))
        for i, (v, layer, dose) in enumerate(
            zip(vectors(4, 32), (1, 0, 1, 1), (0.5, 1.0, 2.0, 0.1), strict=True)
        )
    ]
    done = []
    found = run_arms(
        sharp, PROBLEMS, arms, annotator, AFTER, UNITS, means,
        grade, 3, done.append, rows_per_batch,
    )  # fmt: skip
    assert sum(done) == len(arms)
    for arm in arms:
        layer = arm.candidate.layer
        edit = (
            MeanAblate(arm.vector, {layer: means[layer]}, at="starts")
            if means is not None
            else Add(arm.vector, layer, arm.candidate.dose, UNITS[layer])
        )
        with intervene(sharp, edit):
            traces = generate(sharp, PROBLEMS, grade, seed=3)
        expected = count(sharp, traces, annotator, AFTER)
        assert expected.chances.sum() > expected.taken.sum() > 0
        assert np.array_equal(found[arm.name].taken, expected.taken)
        assert np.array_equal(found[arm.name].chances, expected.chances)
        assert np.array_equal(found[arm.name].correct, expected.correct)


def result(hits, chances):
    values = (np.array([x], float) for x in (hits, chances))
    return ArmResult(*values, np.zeros(len(hits)))


def test_an_effect_is_the_change_of_the_rate_and_p_counts_nulls_at_least_as_strong():
    clean, steered = result([1, 1, 0, 2], [4, 4, 4, 8]), result([3, 2, 2, 5], [5, 5, 5, 5])
    # The nulls ran on the first two problems, where the direction's own effect is 5/10 - 2/8.
    nulls = [result([2, 3], [5, 5]), result([1, 1], [5, 5]), result([4, 4], [5, 5])]
    record = effect_record(clean, steered, nulls, 0, 1, seed=0)
    assert record["baseline_rate"] == pytest.approx(4 / 20)
    assert record["steered_rate"] == pytest.approx(12 / 20)
    assert record["effect"] == pytest.approx(8 / 20)
    assert record["p_value"] == pytest.approx((1 + 2) / 4)
    assert (record["n_null"], record["n_null_problems"], record["n_problems"]) == (3, 2, 4)
    assert effect_record(clean, steered, nulls, 0, -1, seed=0)["p_value"] == pytest.approx(3 / 4)


def test_without_a_chance_a_rate_is_zero():
    never, sometimes = result([0, 0, 0], [0, 0, 0]), result([1, 0, 1], [2, 2, 0])
    assert rate_change(never, sometimes, 0, seed=0).value == pytest.approx(2 / 4)
    assert rate_change(sometimes, never, 0, seed=0).value == pytest.approx(-2 / 4)
