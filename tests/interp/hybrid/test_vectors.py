"""Vectors: they do what they are trained for, shuffled targets teach nothing, controls keep lengths."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.activations import ActivationStore
from interp.hybrid.points import disagreements, read_points
from interp.hybrid.vectors import (
    CoefficientNetwork,
    difference_of_means,
    logit_biases,
    trained_jointly,
    trained_per_category,
    unit_of,
    with_network,
)
from interp.traces import generate
from probes import rng
from tests.interp.conftest import ALL

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def every(pair):
    traces = generate(
        pair.thinking, list(ALL[:: len(ALL) // 60])[:60], sampled=False, max_new_tokens=12
    )
    return read_points(pair, traces, [1], thinking_layer=1)


@pytest.fixture(scope="module")
def points(every):
    """Disagreements with a target that a constant vector can reach: one token for each category."""
    found = disagreements(every)
    return [replace(p, target=10 + categorize(p)) for p in found]


def categorize(p):
    return (p.thinking_resid.sum(-1) > 0).long()


def hits(points, vectors, network=False):
    """Share of the points at which the steered base says the target."""
    right = total = 0
    for p in points:
        c = categorize(p)
        shift = vectors.shift(c)
        if network:
            shift = shift * vectors.network(p.base_resid[1], c)[..., None]
        said = p.logits(1, p.base_resid[1] + shift).argmax(-1)
        right += int((said == p.target)[p.real].sum())
        total += int(p.real.sum())
    return right / total


@pytest.fixture(scope="module")
def jointly(points):
    return trained_jointly(points, [categorize(p) for p in points], NAMES, 1, seed=0)


@torch.no_grad()
def test_joint_training_finds_planted_targets_and_random_vectors_do_not(points, jointly):
    assert hits(points, jointly) > 0.8
    assert hits(points, jointly, network=True) > 0.8
    assert max(hits(points, jointly.randomized(rng(seed))) for seed in range(5)) < 0.2
    assert hits(points, jointly.magnitudes_only(rng(0))) < 0.2


def test_targets_without_a_pattern_teach_nothing_about_new_points(points):
    generator = torch.Generator().manual_seed(0)
    half = len(points[0].trace) // 2
    noise = [
        replace(p, target=torch.randint(4, 160, p.target.shape, generator=generator))
        for p in points
    ]
    seen = [p.where(torch.arange(len(p.trace))[:, None] < half) for p in noise]
    unseen = [p.where(torch.arange(len(p.trace))[:, None] >= half) for p in noise]
    seen, unseen = [p for p in seen if p], [p for p in unseen if p]
    vectors = trained_jointly(seen, [categorize(p) for p in seen], NAMES, 1, 0, network=False)
    with torch.no_grad():
        assert hits(unseen, vectors) < 0.1


@torch.no_grad()
def test_training_by_category_stands_on_a_frozen_bias(points):
    categories = [categorize(p) for p in points]
    found = trained_per_category(points, points, categories, NAMES, 1, seed=0)
    assert hits(points, found) > 0.8
    only_bias = replace(found, vectors=torch.zeros_like(found.vectors))
    assert found.bias.norm() > 0
    assert hits(points, only_bias) < hits(points, found)


def test_a_network_starts_at_one_and_learns_how_strongly(points, jointly):
    fresh = CoefficientNetwork(32, 2, 10.0)
    some = torch.randn(7, 32) * 10
    torch.testing.assert_close(fresh(some, torch.zeros(7, dtype=torch.long)), torch.ones(7))
    weak = replace(jointly, vectors=jointly.vectors * 0.3, network=None)
    with_one = with_network(weak, points, [categorize(p) for p in points], seed=0)
    with torch.no_grad():
        assert hits(points, with_one, network=True) > hits(points, weak)


def test_the_mean_coefficient_is_folded_into_the_vectors(points, jointly):
    with torch.no_grad():
        for c in (0, 1):
            rows = torch.cat([p.base_resid[1][p.real & (categorize(p) == c)] for p in points])
            mean = jointly.network(rows, torch.full((len(rows),), c)).mean()
            assert float(mean) == pytest.approx(1.0, abs=1e-4)


def test_a_category_without_points_has_no_vector(points):
    found = trained_jointly(points, [categorize(p) for p in points], (*NAMES, "never"), 1, 0)
    assert found.vectors[2].norm() == 0 < found.vectors[0].norm()


def test_controls_keep_the_lengths(vectors):
    shift = vectors.bias + vectors.vectors
    for control in (vectors.randomized(rng(1)), vectors.magnitudes_only(rng(1))):
        torch.testing.assert_close(control.shift(torch.arange(2)).norm(dim=-1), shift.norm(dim=-1))
    a, b = vectors.magnitudes_only(rng(1)).shift(torch.arange(2))
    torch.testing.assert_close(a / a.norm(), b / b.norm())
    assert not torch.equal(vectors.randomized(rng(1)).vectors, vectors.randomized(rng(2)).vectors)


def test_difference_of_means_equals_a_slow_loop_within_places():
    rng = np.random.default_rng(0)
    n = 200
    categories = rng.integers(0, 2, n)
    previous = rng.choice(["a", "b"], n)
    categories[previous == "b"] = np.where(rng.random((previous == "b").sum()) < 0.5, 2, 1)
    x = rng.normal(size=(n, 6)).astype(np.float32) + (categories == 0)[:, None]
    text = np.array([""] * n)
    store = ActivationStore(
        {("blocks.0.hook_resid_post", "before"): torch.from_numpy(x)}, text, previous, text,
        np.zeros(n, int), np.arange(n), "m",
    )  # fmt: skip
    found = difference_of_means(store, categories, previous, ("x", "y", "z", "w"), 0, dose=0.5)
    unit = np.linalg.norm(x, axis=1).mean()
    for c in (0, 1, 2):
        total, weight = np.zeros(6), 0.0
        for place in ("a", "b"):
            yes = x[(categories == c) & (previous == place)]
            no = x[(categories != c) & (previous == place)]
            if len(yes) and len(no):
                total += len(yes) * (yes.mean(0) - no.mean(0))
                weight += len(yes)
        vector = found.vectors[c].numpy()
        assert np.linalg.norm(vector) == pytest.approx(0.5 * unit, rel=1e-4)
        cosine = vector @ total / np.linalg.norm(vector) / np.linalg.norm(total)
        assert cosine > 0.99, c
    assert found.vectors[3].norm() == 0


def test_logit_biases_reach_the_closed_form_of_a_constant_base(points, monkeypatch):
    # With no logits of its own, the base's best bias is the log of each token's share.
    monkeypatch.setattr(
        "interp.hybrid.points.lens",
        lambda model, resid: resid.new_zeros(len(resid), model.bridge.cfg.d_vocab),
    )
    flat = [replace(p, target=torch.where(p.at % 3 == 0, 7, 11)) for p in points]
    found = logit_biases(flat, [torch.zeros_like(p.target) for p in flat], 1).softmax(-1)[0]
    share = torch.cat([p.target[p.real] for p in flat]).eq(7).float().mean()
    assert float(found[7]) == pytest.approx(float(share), abs=0.02)
    assert float(found[7] + found[11]) > 0.98


def test_the_unit_is_the_mean_norm_at_the_points(points):
    norms = [float(p.base_resid[1][i, j].norm()) for p in points for i, j in p.real.nonzero()]
    assert unit_of(points, 1) == pytest.approx(np.mean(norms), rel=1e-4)
