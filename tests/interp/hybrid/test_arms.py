"""Controls keep to the moments of the method that they are compared with, and draw anew by purpose."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from interp.hybrid.arms import (
    COEFFICIENTS,
    Recipe,
    Settings,
    method,
    plan_controls,
    random_vectors,
)
from interp.hybrid.controllers import Categories
from interp.hybrid.decode import View, decode_hybrid
from interp.hybrid.lab import Fits
from interp.hybrid.vectors import METHODS
from interp.traces import prompt_tokens
from tests.interp.conftest import PROBLEMS

SETTINGS = Settings(1, 1, 0.3, 0.1, 1.0)
N_NEW = 12


class Planted(Fits):
    """Two categories, the second without a vector; used at segment starts only."""

    def __init__(self, vectors, seed=0):
        self.seed, self.lab = seed, SimpleNamespace(taxonomy=SimpleNamespace(layer=0))
        with_one = vectors.vectors * torch.tensor([[1.0], [0.0]])
        self.planted = replace(
            vectors, vectors=with_one, bias=torch.zeros(32), network=None, starts_only=True
        )

    def categories(self, system):
        return Categories(("one", "two"), lambda resid: (resid.sum(-1) > 0).long())

    def vectors(self, method, system, layer, dose):
        return self.planted

    networked = vectors

    def logit_biases(self, system):
        return torch.randn(2, 161, generator=torch.Generator().manual_seed(3)) * 20


@pytest.fixture(scope="module")
def fits(vectors):
    return Planted(vectors)


def steered_of(pair, arm):
    prompts = [prompt_tokens(pair.base, p.prompt) for p in PROBLEMS]
    draws = torch.rand(len(prompts), N_NEW, 3, generator=torch.Generator().manual_seed(1))
    rows = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, False, N_NEW)
    starts = [[True, *pair.base.boundary[torch.tensor(row.tokens[:-1])].tolist()] for row in rows]
    return rows, starts


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_every_control_steers_only_where_the_method_may(pair, fits, coefficients):
    recipe = Recipe("taxonomy", METHODS[0], coefficients)
    n_steered = {}
    for name, arm in plan_controls(recipe, SETTINGS, 0.5, 2).items():
        if coefficients == "network" and name not in ("bias-only", "logit-bias"):
            continue  # the planted vectors have no network
        for make in arm.makes:
            rows, starts = steered_of(pair, make(fits))
            for row, may in zip(rows, starts, strict=True):
                for category, start in zip(row.steered, may, strict=True):
                    assert category < 0 or start, name
                    assert category != 1, name
            n_steered[name] = sum(c >= 0 for row in rows for c in row.steered)
    assert n_steered.pop("bias-only") == 0  # the planted vectors have no bias
    assert all(n_steered.values()), n_steered


def test_a_control_that_is_no_part_of_the_recipe_has_no_network_of_its_own():
    found = plan_controls(Recipe("probe", METHODS[2], "network"), SETTINGS, 0.1, 1)
    assert found["bias-only"].recipe == Recipe("probe", METHODS[1], "fixed")
    assert found["logit-bias"].recipe == Recipe("probe", METHODS[2], "fixed")
    assert found["random-vectors"].recipe.coefficients == "network"


def test_random_sets_differ_by_number_seed_and_purpose_and_come_again(pair, vectors):
    recipe = Recipe("taxonomy", METHODS[0], "fixed")

    def logits(seed, purpose, number):
        arm = random_vectors(recipe, Planted(vectors, seed), SETTINGS, purpose, number)
        shifts = []
        nothing = torch.zeros(1, 32)
        view = View(0, torch.zeros(1, 161), nothing, None, None, torch.zeros(1))
        arm.proposal.candidates(view, torch.tensor([0]), lambda x: shifts.append(x) or x)
        return shifts[0][0, 0]

    draws = [(0, "report", 0), (0, "report", 1), (1, "report", 0), (0, "select", 0)]
    found = [logits(*draw) for draw in draws]
    for i, one in enumerate(found):
        assert torch.equal(one, logits(*draws[i]))
        assert all(not torch.equal(one, other) for other in found[:i])
        length = float(Planted(vectors).planted.shifts[0].norm())
        assert float(one.norm()) == pytest.approx(length, rel=1e-5)


def test_the_method_itself_is_what_the_controls_are_compared_with(pair, fits):
    arm = method(Recipe("taxonomy", METHODS[0], "fixed"), fits, SETTINGS)
    assert arm.proposal.starts_only and arm.proposal.idle == {1}
