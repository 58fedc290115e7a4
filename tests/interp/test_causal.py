"""Causal tests: effects equal a slow loop, selection follows its rule, arms equal runs of their own."""

import numpy as np
import pytest
import torch

from interp import causal
from interp.causal import (
    MIN_SPREAD,
    Arm,
    ArmResult,
    Candidate,
    beside_null,
    choose,
    count,
    effect_record,
    effects,
    rate_change,
    run_arms,
    sizes,
    specific,
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


def unit(v):
    v = v.double().numpy()
    return v / np.linalg.norm(v)


def ablated_by_hand(model, points, layer, v, strength, means):
    """P(behavior) when layer and all above are moved to the means at each point, one by one."""
    traces, places = points_of(model)
    u, held = unit(v), []
    rows = []
    for trace, place in zip(traces, places, strict=True):

        def edit(resid, hook, k):
            x, mean = resid[0, -1].double().numpy(), means[k].double().numpy()
            if k == layer:
                held[:] = [(1 - strength) * ((x - mean) @ u)]
            resid[0, -1] = torch.from_numpy(x + (mean @ u + held[0] - x @ u) * u).float()
            return resid

        tokens = torch.tensor([trace.tokens[: place + 1]])
        named = [
            (f"blocks.{k}.hook_resid_post", lambda resid, hook, k=k: edit(resid, hook, k))
            for k in range(layer, 3)
        ]
        logits = model.bridge.run_with_hooks(tokens, fwd_hooks=named)
        rows.append(logits[0, -1].softmax(-1) @ points.shares)
    return torch.stack(rows)


def points_of(model):
    """The trace and place of every decision point of the fixture, in order."""
    from interp.behaviors import segment
    from probes import rng

    traces = generate(model, PROBLEMS, max_new_tokens=20)
    found = [(t, s.start - 1) for t in traces for s in segment(model, t)]
    chosen = sorted(rng(0, "decision points").permutation(len(found))[:12])
    return [found[i][0] for i in chosen], [found[i][1] for i in chosen]


def test_effects_of_adding_equal_a_loop_over_every_use(points):
    directions = vectors(2, 2, 3, 32)
    amounts = torch.tensor(UNITS)[:, None] * torch.tensor([0.1, 0.5])
    found = effects(points, range(3), directions, amounts.expand(2, 2, -1, -1), None)
    assert found.shape == (2, 2, 3, 2, 2, len(points))
    for n, reading, layer, use in np.ndindex(2, 2, 3, 2):
        resid = points.resid[layer].double().numpy()
        changed = resid + float(amounts[layer, use]) * unit(directions[n, reading, layer])
        at = points.probabilities(layer, torch.from_numpy(changed).float())
        expected = (at - points.clean).T.numpy()
        np.testing.assert_allclose(found[n, reading, layer, use], expected, atol=1e-4)


def test_effects_of_some_layers_are_those_of_all_at_their_places(points):
    directions, means = vectors(2, 2, 3, 32), vectors(3, 32)
    amounts = torch.tensor(UNITS)[:, None] * torch.tensor([0.1, 0.5])
    for held in (None, means):
        every = effects(points, range(3), directions, amounts.expand(2, 2, -1, -1), held)
        some = [2, 0]
        found = effects(
            points, some, directions[:, :, some], amounts[some].expand(2, 2, -1, -1), held
        )
        np.testing.assert_allclose(found, every[:, :, some], atol=1e-5)
        assert abs(every[:, :, 0] - every[:, :, 2]).max() > 1e-3


def test_effects_of_ablating_equal_full_forwards_edited_at_the_layer_and_all_above(sharp, points):
    directions, means = vectors(2, 1, 3, 32), vectors(3, 32)
    strengths = torch.tensor([1.0, 0.4]).expand(3, 2)
    found = effects(points, range(3), directions, strengths.expand(2, 1, -1, -1), means)
    for n, layer, use in np.ndindex(2, 3, 2):
        at = ablated_by_hand(
            sharp, points, layer, directions[n, 0, layer], float(strengths[layer, use]), means
        )
        expected = (at - points.clean).T.numpy()
        np.testing.assert_allclose(found[n, 0, layer, use], expected, atol=1e-4)


def test_sizes_are_mean_distances_to_the_mean_along_the_direction(points):
    directions, means = vectors(2, 2, 3, 32), vectors(3, 32)
    found = sizes(points, range(3), directions, UNITS, means)
    for n, reading, layer in np.ndindex(2, 2, 3):
        gap = (means[layer].double().numpy() - points.resid[layer].double().numpy()) @ unit(
            directions[n, reading, layer]
        )
        assert found[n, reading, layer] == pytest.approx(
            np.abs(gap).mean() / UNITS[layer], rel=1e-4
        )


def table(own, others):
    """Effects [reading, layer, dose, behavior] with behavior 0's given and one other behavior."""
    return np.stack([np.array(own, float), np.array(others, float)], -1)


N_USES = 5


def chosen(own, spreads=None, sign=1, use=None):
    """The use chosen for behavior 0 when another behavior stays put."""
    own = np.array(own, float)
    zero = np.zeros_like(own)
    scale = None if spreads is None else table(np.array(spreads, float), zero + 1)
    return choose(table(own, zero), 0, sign, scale, use)


def test_of_what_works_the_use_that_stands_out_most_from_random_directions_is_taken():
    own, spreads = np.zeros((2, 2, N_USES)), np.ones((2, 2, N_USES))
    own[..., 3] = [[0.9, 0.7], [0.45, 0.29]]
    spreads[..., 3] = [[0.4, 0.2], [0.1, 0.01]]  # 2.25, 3.5, 4.5; the last does not work
    assert chosen(own, spreads) == (1, 0, 3)
    assert chosen(-own, spreads, sign=-1) == (1, 0, 3)
    assert chosen(own) == (0, 0, 3)  # without spreads the largest


def test_the_smallest_dose_with_half_of_the_largest_effect_is_taken_unless_one_is_given():
    own = np.zeros((1, 2, N_USES))
    own[0, 1] = [0.05, 0.2, 0.31, 0.5, 0.6]
    assert chosen(own) == (0, 1, 2)
    own[0, 0, 1] = 0.3  # another layer may bring it earlier
    assert chosen(own) == (0, 0, 1)
    assert chosen(own, use=4) == (0, 1, 4)


def test_what_moves_another_behavior_the_same_way_is_not_specific():
    own, other = np.array([0.9, 0.4]), np.array([0.8, 0.1])
    np.testing.assert_allclose(specific(table(own, other), 0, 1), [0.1, 0.3])
    # A rival that gives way is no damage.
    np.testing.assert_allclose(specific(table(own, -other), 0, 1), own)
    np.testing.assert_allclose(specific(table(-own, -other), 0, -1), [0.1, 0.3])
    np.testing.assert_allclose(specific(own[:, None], 0, 1), own)  # no other behavior
    edits = table(own, other).reshape(1, 2, 1, 2)
    assert choose(edits, 0, 1) == (0, 1, 0)


def test_the_spread_is_the_root_mean_square_over_directions_and_never_tiny():
    found = spread(np.array([[0.3, 0.001], [-0.4, 0.002]]).reshape(2, 1, 1, 1, 2))
    np.testing.assert_allclose(found.ravel(), [np.sqrt((0.09 + 0.16) / 2), MIN_SPREAD])


def test_a_direction_that_only_harms_still_gets_its_least_bad_use():
    own = np.full((1, 3, 1), -0.5)
    own[0, 1] = -0.1
    assert chosen(own) == (0, 1, 0)


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
        Arm(f"arm-{i}", v, Candidate(0, layer, dose, strength=dose))
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
            MeanAblate(
                arm.vector,
                {k: means[k] for k in range(layer, 3)},
                at="starts",
                strength=arm.candidate.strength,
            )
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


def test_an_effect_is_the_change_of_the_rate_and_p_counts_nulls_at_least_as_specific():
    clean, steered = result([1, 1, 0, 2, 0], [4, 4, 4, 8, 4]), result([3, 2, 2, 5, 0], [5] * 5)
    # On the null problems: 2/8 clean and 5/10 steered.
    few = result([1, 1], [4, 4]), result([3, 2], [5, 5])
    nulls = [result([2, 3], [5, 5]), result([1, 1], [5, 5]), result([4, 4], [5, 5])]
    record = effect_record(clean, steered, *few, nulls, 0, 1, seed=0)
    assert record["baseline_rate"] == pytest.approx(4 / 24)
    assert record["steered_rate"] == pytest.approx(12 / 25)
    assert (record["baseline_chances"], record["steered_chances"]) == (24, 25)
    assert record["effect"] == pytest.approx(12 / 25 - 4 / 24)
    assert record["specific_effect"] == pytest.approx(1 / 4)
    assert record["p_value"] == pytest.approx((1 + 2) / 4)
    assert (record["n_null"], record["n_null_problems"], record["n_problems"]) == (3, 2, 5)
    assert effect_record(clean, steered, *few, nulls, 0, -1, seed=0)["p_value"] == (
        pytest.approx(3 / 4)
    )


def test_a_null_that_moves_everything_alike_does_not_count_as_strong():
    observed = np.array([0.3, 0.0])
    null = np.array([[0.4, 0.35], [0.2, 0.0], [0.1, -0.5]])
    found = beside_null(observed, null, 0, 1)
    assert found["p_value"] == pytest.approx(1 / 4)
    assert found["specific_effect"] == pytest.approx(0.3)
    assert beside_null(observed, np.array([[0.4, 0.05]] * 3), 0, 1)["p_value"] == 1.0


def test_without_a_chance_a_rate_is_zero():
    never, sometimes = result([0] * 6, [0] * 6), result([1, 0, 1, 0, 0, 0], [2, 2, 1, 1, 1, 1])
    assert rate_change(never, sometimes, 0, seed=0)["effect"] == pytest.approx(2 / 8)
    found = rate_change(sometimes, never, 0, seed=0)
    # An edit that leaves no chance has wrecked the traces: nothing to be sure of.
    assert found["effect"] == pytest.approx(-2 / 8) and found["ci"] is None


def test_with_chances_in_few_problems_an_effect_has_no_interval():
    few, many = result([1] * 4 + [0] * 96, [1] * 4 + [0] * 96), result([1] * 100, [2] * 100)
    for pair in ((few, many), (many, few)):
        found = rate_change(*pair, 0, seed=0)
        assert abs(found["effect"]) == pytest.approx(1 / 2) and found["ci"] is None
