"""Stability, transfer and redundancy against numpy by hand, planted rises, and Hugging Face's own model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp.decisions import DecisionPoints
from interp.pairs import weights_folder
from interp.validation.evidence import Evidence
from interp.validation.robustness import redundancy, stability, transfer
from tests.interp.conftest import slow_model

LAYER = 2


def matched(x, y, previous):
    """Difference of means among segments that follow one kind, weighted by how many are labeled."""
    total = np.zeros(x.shape[1])
    usable = [k for k in set(previous) if 0 < y[previous == k].sum() < (previous == k).sum()]
    for kind in usable:
        here = previous == kind
        total += y[here].sum() * (x[here & y].mean(0) - x[here & ~y].mean(0))
    return total


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_stability_is_the_cosine_with_differences_of_means_made_by_hand(bench, checks, evidence):
    found = stability(evidence, 0.5)
    for name, store in (("fit", bench.own.store), ("report", bench.report)):
        key = next(k for k in store.values if str(LAYER) in k[0] and k[1] == "before")
        by_hand = matched(store[key].astype(float), store.labels == "verification", store.previous)
        expected = cosine(by_hand, checks.double().numpy())
        here = found.details["layers"][LAYER]
        value = here["reads"]["before"] if name == "fit" else here["other_problems"]
        assert value == pytest.approx(expected, abs=1e-4)
        if name == "fit":  # the direction is the fit itself
            assert value == pytest.approx(1, abs=1e-4)
            chance = [
                cosine(by_hand, v[LAYER].double().numpy()) for v in bench.nulls("verification")
            ]
            assert found.null == pytest.approx(np.quantile(chance, 0.95), abs=1e-4)
    assert found.ci[0] <= found.estimate <= found.ci[1] <= 1
    assert found.passed


def test_noise_and_the_opposite_direction_are_not_stable(bench, checks):
    noise = torch.randn(len(checks), generator=torch.Generator().manual_seed(0))
    for vector, low, high in ((noise, -0.4, 0.4), (-checks, -1, -0.8)):
        found = stability(Evidence(bench, "verification", {LAYER: vector}, 0.3), 0.5)
        assert not found.passed
        assert low <= found.estimate <= high


def test_of_several_layers_the_one_that_is_no_refit_counts(bench, checks):
    noise = torch.randn(len(checks), generator=torch.Generator().manual_seed(0))
    noise *= checks.norm() / noise.norm() / 2
    found = stability(Evidence(bench, "verification", {0: noise, LAYER: checks}, 0.3), 0.5)
    assert not found.passed
    assert found.details["layer"] == 0
    assert found.details["layers"][LAYER]["mean"] > 0.8


def test_a_direction_no_nearer_than_chance_is_not_stable(bench, checks):
    nulls = bench.nulls("verification")[:, LAYER]
    near = max(nulls, key=lambda v: cosine(v.double().numpy(), checks.double().numpy()))
    found = stability(Evidence(bench, "verification", {LAYER: near}, 0.3), -1.0)
    least = min(found.estimate, found.details["layers"][LAYER]["other_problems"])
    assert found.passed == (least > found.null)


class Planted(Evidence):
    """Evidence of which the rises and clean probabilities at some points are given, by setting."""

    def __init__(self, rises, clean):
        self.rises, self.behavior, self.named = rises, 0, {}
        groups = np.array([f"p{i // 2}" for i in range(40)])
        for name in rises:
            points = object.__new__(DecisionPoints)
            points.groups, points.clean = groups, torch.full((len(groups), 1), clean[name])
            self.named[name] = points
        self.at = np.ones(len(groups), bool)
        self.subject = SimpleNamespace(
            report=self.named["own"], report_at=self.at[None], config=SimpleNamespace(seed=0)
        )

    def rise(self, points, at):
        name = next(n for n, p in self.named.items() if p is points)
        return np.full(len(at), self.rises[name]) + np.tile([0.01, -0.01], 20), points.groups


def planted(rises, clean):
    evidence = Planted(rises, clean)
    return evidence, {n: (p, evidence.at) for n, p in evidence.named.items() if n != "own"}


@pytest.mark.parametrize(
    ("rises", "clean", "share", "passed"),
    [
        ({"own": 0.4, "other": 0.2}, {"own": 0.2, "other": 0.2}, 0.5, True),
        ({"own": 0.4, "other": 0.1}, {"own": 0.2, "other": 0.8}, 1.0, True),
        ({"own": 0.4, "other": 0.04}, {"own": 0.2, "other": 0.2}, 0.1, False),
        ({"own": 0.4, "other": -0.2}, {"own": 0.2, "other": 0.2}, -0.5, False),
        ({"own": 0.4, "a": 0.4, "b": 0.04}, {"own": 0.2, "a": 0.2, "b": 0.2}, 0.1, False),
    ],
)
def test_transfer_is_the_smallest_share_of_the_room_to_rise(rises, clean, share, passed):
    found = transfer(*planted(rises, clean), min_share=0.25)
    assert found.estimate == pytest.approx(share, rel=1e-6)
    assert found.passed is passed


def test_what_does_nothing_where_it_is_on_trial_has_nothing_to_transfer():
    found = transfer(*planted({"own": -0.1, "other": 0.5}, {"own": 0.2, "other": 0.2}), 0.25)
    assert found.passed is False
    assert found.estimate is None


@pytest.mark.slow
def test_the_share_that_goes_equals_full_forwards_reset_to_the_mean_from_the_layer_up(
    bench, checks, evidence
):
    found = redundancy(evidence, 0.5)
    thinking, unit = bench.thinking, (checks / checks.norm()).double()
    slow = slow_model(weights_folder("countdown-rl") / "thinking")
    means = {
        layer: torch.from_numpy(
            thinking.store[
                next(k for k in thinking.store.values if str(layer) in k[0] and k[1] == "before")
            ]
        )
        .double()
        .mean(0)
        for layer in range(LAYER, thinking.model.n_layers)
    }

    def reset(layer):
        def edit(resid):
            last = resid[0, -1].double()
            resid = resid.clone()
            resid[0, -1] = (last + ((means[layer] - last) @ unit) * unit).float()
            return resid

        return edit

    points, at = thinking.report, thinking.report_at[evidence.behavior]
    by_id = {t.problem_id: t for t in thinking.clean_traces}
    rows = bench.segments(thinking.clean_traces)
    starts = {
        t.problem_id: [s.start for s in row]
        for t, row in zip(thinking.clean_traces, rows, strict=True)
    }
    shares = points.shares[:, evidence.behavior]
    clean, left, compared = 0.0, 0.0, 0
    remaining = {g: list(starts[g]) for g in set(points.groups)}
    for i, group in enumerate(points.groups):
        tokens = by_id[group].tokens
        # The point is the start at which the clean probability is the one that was read.
        for start in list(remaining[group]):
            p = slow.logits(tokens[:start])[-1].softmax(-1)
            if (
                abs(float(p @ shares) - float(points.clean[i, evidence.behavior])) < 1e-6
                and (p @ points.shares - points.clean[i]).abs().max() < 1e-5
            ):
                remaining[group].remove(start)
                break
        else:
            raise AssertionError("no such point")
        if not at[i]:
            continue
        edits = {layer: reset(layer) for layer in means}
        clean += float(p @ shares)
        left += float(slow.logits(tokens[:start], edits)[-1].softmax(-1) @ shares)
        compared += 1
    assert compared == at.sum() > 10
    assert found.estimate == pytest.approx(1 - left / clean, abs=2e-3)
    assert found.details["removed_by_step"][1] == pytest.approx(found.estimate, abs=1e-6)
    assert found.details["leace"] > 0.5
    assert found.null < found.estimate


def test_a_setting_of_too_few_problems_is_not_measured_and_no_pass(bench, evidence):
    points, at = bench.own.report, bench.own.report_at[evidence.behavior]
    few = at & np.isin(points.groups, np.unique(points.groups[at])[:4])
    found = transfer(evidence, {"here": (points, at), "in few": (points, few)}, 0.25)
    assert found.passed is None and "in few" in found.reason
    assert found.details["settings"]["in few"] is None and found.details["shares"]["here"] == 1
    assert transfer(evidence, {"here": (points, at)}, 0.25).passed
    assert transfer(evidence, {"here": (points, at), "in few": (points, few)}, 1.01).passed is False
    assert transfer(evidence, {"in few": (points, few)}, 0.25).passed is None
