"""Which divergences a direction explains, against a slow loop over Hugging Face's own model."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from interp.activations import ActivationStore
from interp.divergence.explained import (
    DOSES,
    Directions,
    Use,
    choose_use,
    closed,
    divergences,
    explain,
    random_shifts,
    shifts_of,
)
from interp.hybrid.points import read_points, select
from tests.interp.conftest import at_last

LAYER = 1


@pytest.fixture(scope="module")
def diverged(pair, vocabulary, traces, found):
    points = read_points(pair, traces, range(3), pair.thinking.n_layers - 1)
    return divergences(
        pair,
        vocabulary,
        traces,
        list(range(len(traces))),
        select(points, [p.differ for p in points]),
    )


def kl(p_logits, q_logits):
    p, q = (x.double().softmax(-1).numpy() for x in (p_logits, q_logits))
    return rel_entr(p, q).sum()


def test_steered_kl_equals_a_slow_loop(slow, slow_thinking, traces, found, diverged):
    shifts = torch.randn(20, 32, generator=torch.Generator().manual_seed(0)) * 30
    after = diverged.steered(LAYER, shifts)
    assert after.shape == (20, len(diverged.kl))
    for k in range(0, len(diverged.kl), 3):
        i, t = int(diverged.trace[k]), int(diverged.place[k])
        assert found[i].differ[t]
        tokens = traces[i].tokens[: traces[i].n_prompt + t]
        thinking = slow_thinking.logits(tokens)[-1]
        assert diverged.kl[k] == pytest.approx(kl(thinking, slow.logits(tokens)[-1]), rel=1e-2)
        resid = slow.outputs(tokens, LAYER)[-1]
        for s in (0, 17):
            steered = slow.logits(tokens, {LAYER: at_last(resid + shifts[s])})[-1]
            assert after[s, k] == pytest.approx(kl(thinking, steered), rel=2e-2, abs=1e-2)


def test_edits_one_at_a_time_give_the_same(diverged, monkeypatch):
    """As where the vocabulary is large."""
    shifts = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) * 30
    together = diverged.steered(LAYER, shifts)
    monkeypatch.setattr("interp.divergence.explained.MAX_LOGITS", 1)
    np.testing.assert_allclose(diverged.steered(LAYER, shifts), together, rtol=1e-3, atol=1e-5)


def test_closed_means_half_of_the_kl():
    kl = np.array([1.0, 1.0, 0.2])
    assert closed(kl, np.array([0.5, 0.51, 0.05])).tolist() == [True, False, True]


@pytest.fixture
def some_high(monkeypatch, diverged):
    """The bar of a high divergence where random models have half of theirs above it."""
    monkeypatch.setattr("interp.divergence.explained.HIGH", float(np.median(diverged.js)))
    assert 0 < diverged.high.mean() < 1


def activations(n, d_model, spread, n_layers=3):
    """Segments of two behaviors, far apart in means, that vary along the dimensions of `spread` alone."""
    labels = np.array(["a", "b"] * (n // 2))
    noise = torch.randn(n, d_model, generator=torch.Generator().manual_seed(3)) * spread
    x = noise + torch.from_numpy((labels == "a") * 50.0).float()[:, None]
    names, rows = np.full(n, "deduction"), np.arange(n)
    values = {(f"blocks.{k}.hook_resid_post", "before"): x for k in range(n_layers)}
    return ActivationStore(values, labels, names, names, rows, rows, "base")


def test_matched_random_shifts_stay_where_activations_vary_within_a_behavior():
    spread = torch.tensor([3.0, 1.0] + [0.0] * 30)
    known = Directions(
        torch.zeros(3, 2, 32), [7.0] * 3, ["a", "b"], ["a"], activations(400, 32, spread)
    )
    found = known.matched_shifts(Use(1, 2.0), 500, 0)
    torch.testing.assert_close(found.norm(dim=-1), torch.full((500,), 14.0))
    assert (
        found[:, 2:].abs().max() < 1e-4 * 14
    )  # neither off the plane nor along the means' difference
    assert found[:, 0].abs().mean() > 2 * found[:, 1].abs().mean()


def test_shares_are_counted_over_high_divergences_and_over_all(diverged, some_high):
    last, length = 2, 40.0
    wide = shifts_of(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)), length)
    shown = ["deduction"] * len(diverged.kl)
    store = activations(200, 32, torch.ones(32))
    known = Directions(torch.stack([wide] * 3), [length] * 3, ["a", "b"], ["a", "b"], store)
    found, left = explain(diverged, Use(last, 1.0), known, shown, 30, 0)
    after = diverged.steered(last, wide)
    expected = (after <= diverged.kl / 2)[:, diverged.high]
    assert found["directions"] == pytest.approx(expected.any(0).mean())
    assert found["by_behavior"]["a"]["share"] == pytest.approx(expected[0].mean())
    assert found["by_behavior"]["a"]["p_value"] > 0.01  # a random direction among random ones
    assert found["table"]["deduction"]["b"] == pytest.approx(expected[1].mean())
    over_all = (after <= diverged.kl / 2).any(0).mean()
    assert found["all"]["directions"] == pytest.approx(over_all)
    assert (found["n"], found["all"]["n"]) == (diverged.high.sum(), len(diverged.kl))
    np.testing.assert_array_equal(left, after)
    for kind, shifts in (
        ("random", random_shifts(30, 2, 32, length, 0)),
        ("matched", known.matched_shifts(Use(last, 1.0), 60, 0)),
    ):
        hits = (diverged.steered(last, shifts) <= diverged.kl / 2)[:, diverged.high]
        of_sets = hits.reshape(30, 2, -1).any(1).mean(1)
        assert found[kind] == pytest.approx(of_sets.mean())
        assert found[f"{kind}_q95"] == pytest.approx(np.quantile(of_sets, 0.95))
        assert found["by_behavior"]["b"][kind] == pytest.approx(hits.mean())


def test_random_shifts_have_the_length_and_come_again():
    found = random_shifts(5, 2, 16, 3.0, 7)
    assert found.shape == (10, 16)
    torch.testing.assert_close(found.norm(dim=-1), torch.full((10,), 3.0))
    assert torch.equal(found, random_shifts(5, 2, 16, 3.0, 7))


def test_the_weakest_use_within_one_standard_error_of_the_best_is_chosen(
    diverged, some_high, monkeypatch
):
    # Random models give hardly anything to explain, so the bar is any closing at all.
    monkeypatch.setattr("interp.divergence.explained.CLOSED", 1e-3)
    vectors = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(5))
    units = [300.0, 600.0, 900.0]
    scores, errors = {}, {}
    for layer in range(3):
        for dose in DOSES:
            real = shifts_of(vectors[layer], dose * units[layer])
            random = random_shifts(5, 2, 32, dose * units[layer], 1).reshape(5, 2, 32)
            ours, *nulls = (
                (diverged.steered(layer, one) <= diverged.kl * (1 - 1e-3)).any(0)
                for one in (real, *random)
            )
            excess: dict[str, list[float]] = {}
            for i in np.flatnonzero(diverged.high):
                one = float(ours[i]) - float(np.mean([null[i] for null in nulls]))
                excess.setdefault(diverged.groups[i], []).append(one)
            scores[dose, layer] = np.mean([one for some in excess.values() for one in some])
            means = [np.mean(some) for some in excess.values()]
            errors[dose, layer] = np.std(means, ddof=1) / np.sqrt(len(means))
    best = max(scores, key=lambda use: scores[use])
    near = [use for use in scores if scores[use] >= scores[best] - errors[best]]
    found = choose_use(diverged, vectors, units, 0)
    assert (found.dose, found.layer) == min(near)
    assert 0 < len(near) < len(scores)
