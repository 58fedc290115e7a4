"""Decision points: the cheap rescoring equals a full forward with the edit in place."""

import numpy as np
import pytest
import torch

from interp.behaviors import segment
from interp.decisions import DecisionPoints, first_token_shares
from interp.tasks import load_task
from interp.traces import generate
from interp.types import Segment, Trace
from tests.interp.conftest import at_last

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 6])[:6]


@pytest.fixture(scope="module")
def traces(sharp):
    return generate(sharp, PROBLEMS, max_new_tokens=25)


@pytest.fixture(scope="module")
def segments(sharp, traces):
    return [segment(sharp, trace) for trace in traces]


@pytest.fixture(scope="module")
def shares(sharp):
    return torch.from_numpy(np.random.default_rng(0).random((sharp.bridge.cfg.d_vocab, 2))).float()


@pytest.fixture(scope="module")
def prefixes(traces, segments):
    """Every decision point's tokens up to and including the point, in order."""
    return [
        trace.tokens[: part.start]
        for trace, parts in zip(traces, segments, strict=True)
        for part in parts
    ]


@pytest.fixture(scope="module")
def points(sharp, traces, segments, shares):
    return DecisionPoints(sharp, traces, segments, shares, n_points=10_000)


def test_there_is_a_point_before_every_segment(points, prefixes, traces, segments):
    assert len(points) == len(prefixes) > 15
    groups = [
        t.problem_id for t, parts in zip(traces, segments, strict=True) for _ in range(len(parts))
    ]
    assert points.groups.tolist() == groups


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_clean_stream_and_its_logits_are_the_models_own(points, prefixes, slow, layer):
    found = points.logits(layer, points.resid[layer])
    for i, prefix in enumerate(prefixes):
        torch.testing.assert_close(
            points.resid[layer][i], slow.outputs(prefix, layer)[-1], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(found[i], slow.logits(prefix)[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_edited_logits_equal_a_full_forward_with_the_edit_at_the_point(
    points, prefixes, slow, layer
):
    noise = np.random.default_rng(layer).normal(size=points.resid[layer].shape)
    edited = points.resid[layer] + torch.from_numpy(noise).float()
    found = points.logits(layer, edited)
    for i, prefix in enumerate(prefixes):
        expected = slow.logits(prefix, {layer: at_last(edited[i])})[-1]
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(expected, slow.logits(prefix)[-1], atol=1e-2)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_several_edits_in_one_pass_equal_one_at_a_time(points, layer):
    noise = np.random.default_rng(5).normal(size=(3, *points.resid[layer].shape))
    edited = points.resid[layer] + torch.from_numpy(noise).float()
    together = points.logits(layer, edited)
    for one, resid in zip(together, edited, strict=True):
        torch.testing.assert_close(one, points.logits(layer, resid), atol=1e-4, rtol=1e-4)


def test_an_edit_leaves_no_trace_in_the_next_call_or_in_the_model(points, sharp, slow, prefixes):
    clean = [points.logits(layer, points.resid[layer]) for layer in range(3)]
    for layer in (2, 0, 1):
        points.logits(layer, points.resid[layer] + 3.0)
    for layer in range(3):
        assert torch.equal(points.logits(layer, points.resid[layer]), clean[layer])
    assert len(sharp.bridge.original_model.model.layers) == 3
    with torch.no_grad():
        found = sharp.bridge(torch.tensor([list(prefixes[-1])]))[0]
    torch.testing.assert_close(found, slow.logits(prefixes[-1]), atol=1e-4, rtol=1e-4)


def test_probabilities_weigh_the_softmax_by_the_shares(points, shares):
    found = points.probabilities(1, points.resid[1])
    logits = points.logits(1, points.resid[1]).double().numpy()
    weights = np.exp(logits - logits.max(1, keepdims=True))
    expected = weights / weights.sum(1, keepdims=True) @ shares.double().numpy()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_sample_of_points_is_part_of_all_and_the_same_again(
    sharp, traces, segments, shares, points
):
    some = DecisionPoints(sharp, traces, segments, shares, n_points=7, seed=3)
    again = DecisionPoints(sharp, traces, segments, shares, n_points=7, seed=3)
    other = DecisionPoints(sharp, traces, segments, shares, n_points=7, seed=4)
    assert len(some) == 7
    assert torch.equal(some.resid[2], again.resid[2])
    assert not torch.equal(some.resid[2], other.resid[2])
    distance = (some.resid[2][:, None] - points.resid[2]).norm(dim=-1)
    nearest = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-3
    assert nearest.tolist() == sorted(set(nearest.tolist()))
    assert some.groups.tolist() == points.groups[nearest.numpy()].tolist()
    full = points.logits(0, points.resid[0])[nearest]
    torch.testing.assert_close(some.logits(0, some.resid[0]), full, atol=1e-4, rtol=1e-4)


def test_first_token_shares_count_segments():
    def made(tokens):
        return Trace("p", "m", "", "", tuple(tokens), 1, False, False)

    traces = [made([1, 5, 6, 5]), made([1, 5, 7])]
    segments = [
        [Segment(1, 2, "", "check"), Segment(2, 3, "", "aim"), Segment(3, 4, "", "aim")],
        [Segment(1, 2, "", "check"), Segment(2, 3, "", None)],
    ]
    found = first_token_shares(traces, segments, ["aim", "check"], 9)
    expected = np.zeros((9, 2))
    expected[5] = [1 / 3, 2 / 3]
    expected[6] = [1, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
