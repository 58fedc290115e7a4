"""Models in bfloat16, as they are on a GPU: nearly the numbers of the same weights in float32."""

import numpy as np
import pytest
import torch

from interp.activations import collect
from interp.behaviors import segment_all
from interp.causal import changes
from interp.decisions import DecisionPoints
from interp.divergence.explained import divergences
from interp.divergence.layers import lens_kl
from interp.divergence.patching import factorial, patch, splits_at
from interp.divergence.projection import projected
from interp.divergence.tokens import score
from interp.hybrid.controllers import at_disagreements, at_entropy, one_category, probe_categories
from interp.hybrid.decode import Arm, decode_hybrid, logit_bias, steered
from interp.hybrid.points import disagreements, entropy_threshold, read_points
from interp.hybrid.vectors import logit_biases, trained_jointly, trained_per_category, unit_of
from interp.interventions import Ablate, Add, MeanAblate, intervene
from interp.models import load_model
from interp.pairs import Pair
from interp.traces import generate
from tests.interp.conftest import PROBLEMS, segments_of_four

LAYER = 1


def loaded(folders, dtype) -> Pair:
    """The pair in a format; in float32 with the same weights as in bfloat16."""
    models = [load_model(folder, device="cpu", dtype=dtype) for folder in folders]
    for model in models:
        for weight in model.bridge.original_model.parameters():
            weight.data.copy_(weight.data.bfloat16())
    return Pair("pair", *models)


@pytest.fixture(scope="module")
def half(even_folders):
    return loaded(even_folders, torch.bfloat16)


@pytest.fixture(scope="module")
def full(even_folders):
    return loaded(even_folders, torch.float32)


@pytest.fixture(scope="module")
def traces(full):
    return generate(full.thinking, PROBLEMS, sampled=False, max_new_tokens=16)


@pytest.fixture(scope="module")
def segments(traces):
    return segments_of_four(traces)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Apart by no more than rounding to 8 bits does, a few times over; and never in half precision."""
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm(), (found, expected)


def test_activations_and_texts(half, full, traces, segments):
    hooks = "blocks.1.hook_resid_post", "mean"
    stores = [collect(pair.base, traces, segments) for pair in (half, full)]
    close(*(torch.from_numpy(store[hooks]) for store in stores))
    assert len(segment_all(half.base, traces, "grammar")) == len(traces)
    vector, unit = torch.randn(32), 1.0
    means = {layer: torch.randn(32) for layer in (1, 2)}
    edits = Add(vector, 1, 0.5, unit), Ablate(vector, (0, 1, 2)), MeanAblate(vector, means)
    for edit in edits:
        with intervene(half.base, edit):
            assert len(generate(half.base, PROBLEMS, max_new_tokens=8)) == len(PROBLEMS)


def test_decision_points(half, full, traces, segments):
    shares = torch.rand(full.base.bridge.cfg.d_vocab, 2)
    found, expected = (
        DecisionPoints(pair.base, traces, segments, shares, 40) for pair in (half, full)
    )
    close(found.clean, expected.clean)
    vectors, means = torch.randn(3, 32), torch.randn(3, 32)
    for amounts, to in ((torch.full((3,), 8.0), None), (torch.ones(3), means)):
        of_each = [changes(points, LAYER, vectors, amounts, to) for points in (found, expected)]
        assert of_each[0].dtype == torch.float32
        assert np.corrcoef(*(x.flatten() for x in of_each))[0, 1] > 0.95


def test_points_vectors_and_hybrids(half, full, traces):
    found, expected = (read_points(pair, traces, [LAYER], 2) for pair in (half, full))
    for one, other in zip(found, expected, strict=True):
        noise = torch.randn(one.base_resid[LAYER].shape)
        close(one.base_resid[LAYER], other.base_resid[LAYER])
        close(*(p.logits(LAYER, p.base_resid[LAYER] + noise) for p in (one, other)))
    assert entropy_threshold(found) == pytest.approx(entropy_threshold(expected), rel=0.02)
    points = disagreements(found)
    categories = [torch.zeros_like(p.target) for p in points]
    joint = trained_jointly(points, categories, ("any",), LAYER, 0)
    apart = trained_per_category(points, points, categories, ("any",), LAYER, 0)
    biases = logit_biases(points, categories, 1)
    resid = torch.cat([p.thinking_resid[p.real] for p in points])
    named = probe_categories(resid, ["a" if i % 2 else "b" for i in range(len(resid))])
    prompts = [trace.tokens[: trace.n_prompt] for trace in traces]
    draws = torch.rand(len(prompts), 8, 3, dtype=torch.float64)
    arms = [
        Arm(
            at_disagreements("any", one_category(), 1e-5), steered(joint, network=True), "first", 2
        ),
        Arm(at_disagreements("any", one_category()), steered(apart, (0.5, 1.0)), "thinking", 2),
        Arm(at_entropy(0.0), logit_bias(biases), "random"),
    ]
    for arm in arms:
        for sampled in (False, True):
            rows = decode_hybrid(half.base, half.thinking, prompts, arm, draws, sampled, 8)
            assert any(c >= 0 for row in rows for c in row.steered)
    assert set(named.read(resid).tolist()) <= {0, 1}
    assert unit_of(points, LAYER) == pytest.approx(unit_of(disagreements(expected), LAYER), rel=0.1)


def test_divergence_lenses_and_patches(half, full, traces):
    scored = [score(pair, pair.vocabulary, traces) for pair in (half, full)]
    close(*(torch.from_numpy(np.concatenate([one.js for one in found])) for found in scored))
    places = [(i, int(np.flatnonzero(one.differ)[0])) for i, one in enumerate(scored[1])]
    tokens = [
        (int(scored[1][i].thinking_token[t]), int(scored[1][i].base_token[t])) for i, t in places
    ]
    kls = [lens_kl(pair, pair.vocabulary, traces, places) for pair in (half, full)]
    assert np.linalg.norm(kls[0] - kls[1]) < 0.1 * np.linalg.norm(kls[1])
    splits = [splits_at(pair, traces, places, tokens) for pair in (half, full)]
    whole = [patch(s, "thinking", "base", 2)["attn_out"].whole for s in splits]
    assert np.linalg.norm(whole[0] - whole[1]) < 0.1 * np.linalg.norm(whole[1])
    assert len(factorial(splits[0], np.arange(len(places)), 0)) == 3
    points = disagreements(read_points(half, traces, [LAYER], 2))
    numbers = list(range(len(traces)))
    parted = divergences(half, half.vocabulary, traces, numbers, points)
    after = parted.steered(LAYER, torch.randn(2, 32))
    assert after.shape == (2, len(parted.kl)) and np.isfinite(after).all()
    resid = torch.cat([p.thinking_resid[p.real] for p in points])
    told = projected(
        parted, LAYER, resid, np.ones(len(resid)), torch.randn(2, 32), ["a", "b"], 4, 0
    )
    assert told["full"]["value"] != 0
