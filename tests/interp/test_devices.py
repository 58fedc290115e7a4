"""Models on a device that is not the CPU: nothing meets a tensor of the other place, and numbers are the same."""

import numpy as np
import pytest
import torch

from interp.activations import collect
from interp.causal import changes
from interp.decisions import DecisionPoints
from interp.divergence.explained import divergences
from interp.divergence.layers import lens_kl
from interp.divergence.patching import factorial, patch, splits_at
from interp.divergence.projection import projected
from interp.divergence.tokens import score
from interp.hybrid.controllers import (
    at_disagreements,
    at_entropy,
    at_first_token,
    at_random,
    one_category,
    probe_categories,
)
from interp.hybrid.decode import THINKING_TOKEN, Arm, decode_hybrid, logit_bias, steered
from interp.hybrid.points import disagreements, entropy_threshold, read_points
from interp.hybrid.vectors import logit_biases, trained_jointly, trained_per_category, with_network
from interp.interventions import Ablate, Add, MeanAblate, intervene
from interp.models import load_model
from interp.pairs import Pair
from interp.power import power_sample
from interp.traces import generate
from tests.interp.conftest import PROBLEMS, segments_of_four
from tests.interp.elsewhere import PLACE, elsewhere, move

LAYER = 1


@pytest.fixture(scope="module")
def pairs(even_folders):
    """The same pair on the CPU and elsewhere."""
    here, there = (
        Pair("pair", *(load_model(folder, device="cpu") for folder in even_folders))
        for _ in range(2)
    )
    for model in (there.base, there.thinking):
        move(model)
    return here, there


@pytest.fixture
def on_each(pairs):
    """What `work` gives for the pair on either device, as numpy arrays or plain values."""

    def run(work):
        expected = work(pairs[0], torch.device("cpu"))
        with elsewhere():
            assert pairs[1].base.device == PLACE
            found = work(pairs[1], PLACE)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, atol=2e-3, rtol=2e-3)

    return run


@pytest.fixture(scope="module")
def traces(pairs):
    return generate(pairs[0].thinking, PROBLEMS, sampled=False, max_new_tokens=16)


@pytest.fixture(scope="module")
def segments(traces):
    return segments_of_four(traces)


def tokens_of(traces):
    return [token for trace in traces for token in trace.tokens]


def numbers(*tensors):
    return [tensor.detach().cpu().numpy() for tensor in tensors]


def test_tensors_of_two_places_do_not_mix():
    with elsewhere():
        there = torch.ones(3, device=PLACE)
        assert (there + 1).tolist() == [2.0] * 3 and there.cpu().numpy().sum() == 3
        for mix in (lambda: there + torch.ones(3), lambda: torch.ones(3)[there > 0], there.numpy):
            with pytest.raises((RuntimeError, TypeError), match="two devices|copy it to the CPU"):
                mix()


def test_texts_and_activations(on_each, traces, segments):
    vector, means = torch.randn(32), {layer: torch.randn(32) for layer in (1, 2)}

    def work(pair, device):
        made = [generate(pair.base, PROBLEMS, n_samples=2, max_new_tokens=8, share_prompts=True)]
        for edit in Add(vector, 1, 0.5, 1.0), Ablate(vector, (0, 1)), MeanAblate(vector, means):
            with intervene(pair.base, edit):
                made.append(generate(pair.base, PROBLEMS, max_new_tokens=8))
        store = collect(pair.base, traces, segments)
        ids = [str(i) for i in range(len(traces))]
        prompts = [trace.tokens[: trace.n_prompt] for trace in traces]
        power = power_sample(pair.base, prompts, ids=ids, block=4, n_steps=2, max_new_tokens=8)
        said = [token for one in power for token in one.tokens]
        return [*map(tokens_of, made), store["blocks.1.hook_resid_post", "mean"], said]

    on_each(work)


def test_decision_points(on_each, pairs, traces, segments):
    shares = torch.rand(pairs[0].base.bridge.cfg.d_vocab, 2)
    vectors, means, eights = torch.randn(3, 32), torch.randn(3, 32), torch.full((3,), 8.0)

    def work(pair, device):
        points = DecisionPoints(pair.base, traces, segments, shares, 40)
        v, to, amounts = (x.to(device) for x in (vectors, means, eights))
        added = changes(points, LAYER, v, amounts, None)
        return numbers(points.clean, added, changes(points, LAYER, v, amounts / 8, to))

    on_each(work)


def test_points_vectors_and_hybrids(on_each, traces, monkeypatch):
    monkeypatch.setattr("interp.hybrid.vectors.EPOCHS", 3)
    draws = torch.rand(len(traces), 8, 3, dtype=torch.float64)
    prompts = [trace.tokens[: trace.n_prompt] for trace in traces]

    def work(pair, device):
        points = disagreements(every := read_points(pair, traces, [LAYER], 2))
        which = [torch.zeros_like(p.target) for p in points]
        joint = trained_jointly(points, which, ("any",), LAYER, 0)
        apart = trained_per_category(points, points, which, ("any",), LAYER, 0)
        networked = with_network(apart, points, which, 0)
        biases = logit_biases(points, which, 1)
        resid = torch.cat([p.thinking_resid[p.real] for p in points])
        named = probe_categories(resid, ["a" if i % 2 else "b" for i in range(len(resid))])
        one, noise = one_category(), joint.randomized(np.random.default_rng(0))
        arms = [
            Arm(at_disagreements("any", one, 1e-5), steered(joint, network=True), "first", 2),
            Arm(at_disagreements("any", one), steered(apart, (0.5, 1.0)), "thinking", 2),
            Arm(at_disagreements("any", one), steered(noise), "random", 2),
            Arm(at_first_token(), steered(networked, network=True)),
            Arm(at_random(one, 0.3), THINKING_TOKEN, thinking_layer=2),
            Arm(at_entropy(0.0), logit_bias(biases), "random"),
        ]
        for arm in arms:
            for sampled in (False, True):
                rows = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, sampled, 8)
                assert any(c >= 0 for row in rows for c in row.steered)
        read = [x[p.real] for p in every for x in (p.base_loss, p.base_entropy, p.target)]
        logits = [p.logits(LAYER, p.base_resid[LAYER])[p.real] for p in every]
        return [
            *numbers(*read, *logits, *(p.base_logits() for p in points), named.read(resid)),
            entropy_threshold(every),
        ]

    on_each(work)


def test_divergence_lenses_and_patches(on_each, pairs, traces):
    known = score(pairs[0], pairs[0].vocabulary, traces)
    places = [(i, int(np.flatnonzero(one.differ)[0])) for i, one in enumerate(known)]
    tokens = [(int(known[i].thinking_token[t]), int(known[i].base_token[t])) for i, t in places]
    shifts = torch.randn(2, 32)

    def work(pair, device):
        scored = np.concatenate([one.js for one in score(pair, pair.vocabulary, traces)])
        splits = splits_at(pair, traces, places, tokens)
        whole = [
            patch(splits, *models, 2)["attn_out"].whole
            for models in (("thinking", "base"), ("base", "thinking"))
        ]
        assert len(factorial(splits, np.arange(len(places)), 0)) == 3
        points = disagreements(read_points(pair, traces, [LAYER], 2))
        parted = divergences(pair, pair.vocabulary, traces, list(range(len(traces))), points)
        resid = torch.cat([p.thinking_resid[p.real] for p in points])
        projected(parted, LAYER, resid, np.ones(len(resid)), shifts, ["a", "b"], 4, 0)
        kls = lens_kl(pair, pair.vocabulary, traces, places)
        return [scored, kls, *whole, parted.steered(LAYER, shifts)]

    on_each(work)
