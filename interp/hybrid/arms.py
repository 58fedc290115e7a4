"""The arms of the experiment: what is steered when, by what, how strongly, and the controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from interp.hybrid.controllers import (
    at_disagreements,
    at_entropy,
    at_first_token,
    at_random,
    of_least_similar_category,
    of_random_category,
)
from interp.hybrid.decode import (
    GRID,
    THINKING_TOKEN,
    Arm,
    Controller,
    Proposal,
    logit_bias,
    steered,
)
from interp.hybrid.lab import Fits, Lab
from interp.hybrid.points import entropy_threshold
from interp.hybrid.vectors import METHODS, SteeringVectors
from probes import rng

CONTROLLERS = {
    "taxonomy": "taxonomy",
    "probe": "behaviors",
    "disagreement": "any",
    "entropy": "any",
    "first-token": "any",
    "random-positions": "taxonomy",
}
"""Controllers, and the system of categories that each one steers by."""
FULL = ("taxonomy", "probe")
"""Controllers that say both when and which: what a full hybrid has."""
COEFFICIENTS = ("fixed", "network", "sweep", "sweep-random")
"""How strongly, the simplest first: as trained, as a network says, or swept and judged by the thinking
model or by lot."""


@dataclass(frozen=True)
class Recipe:
    """One combination of the factorial."""

    controller: str
    vectors: str
    coefficients: str


ALL = tuple(Recipe(c, v, s) for c in CONTROLLERS for v in METHODS for s in COEFFICIENTS)


@dataclass(frozen=True)
class Settings:
    """What the select split chose: layers of trained vectors and of differences of means, and the
    latter's dose; `rate` and `threshold` are the fit split's rate of disagreement and entropy gate."""

    layer: int
    mean_layer: int
    dose: float
    rate: float
    threshold: float

    def layer_of(self, method: str) -> int:
        """Where vectors of a method are added."""
        return self.mean_layer if method == METHODS[0] else self.layer


def gate(lab: Lab) -> tuple[float, float]:
    """The rate of disagreement, and the entropy that tells it best."""
    return lab.rate, entropy_threshold(lab.points)


def controller(name: str, fits: Fits, settings: Settings) -> Controller:
    """One of `CONTROLLERS` with one seed's categories."""
    categories = fits.categories(CONTROLLERS[name])
    if name == "entropy":
        return at_entropy(settings.threshold)
    if name == "first-token":
        return at_first_token()
    if name == "random-positions":
        return at_random(categories, settings.rate)
    return at_disagreements(name, categories)


def vectors(recipe: Recipe, fits: Fits, settings: Settings) -> SteeringVectors:
    """The recipe's vectors, with a network where its coefficients need one."""
    make = fits.networked if recipe.coefficients == "network" else fits.vectors
    layer = settings.layer_of(recipe.vectors)
    return make(recipe.vectors, CONTROLLERS[recipe.controller], layer, settings.dose)


def coefficients(recipe: Recipe) -> tuple[tuple[float, ...], bool, str]:
    """Grid, whether a network says, and the judge."""
    judge = {"sweep": "thinking", "sweep-random": "random"}.get(recipe.coefficients, "first")
    grid = GRID if recipe.coefficients.startswith("sweep") else (1.0,)
    return grid, recipe.coefficients == "network", judge


def method(
    recipe: Recipe,
    fits: Fits,
    settings: Settings,
    change: Callable[[SteeringVectors], SteeringVectors] = lambda v: v,
    moments: Callable[[Controller, SteeringVectors], Controller] = lambda c, v: c,
) -> Arm:
    """The recipe's arm; controls `change` its vectors, or the controller's `moments`."""
    found = vectors(recipe, fits, settings)
    chosen = controller(recipe.controller, fits, settings)
    found.check(fits.categories(CONTROLLERS[recipe.controller]).names)
    grid, network, judge = coefficients(recipe)
    proposal = steered(change(found), grid, network)
    return Arm(moments(chosen, found), proposal, judge, fits.lab.taxonomy.layer)


@dataclass(frozen=True)
class Planned:
    """An arm that every seed runs with its own fits, once for each of `makes`."""

    kind: str
    recipe: Recipe
    makes: Sequence[Callable[[Fits], Arm]]


def plan_method(recipe: Recipe, settings: Settings) -> Planned:
    """A recipe as an arm of the report."""
    return Planned("method", recipe, [lambda fits: method(recipe, fits, settings)])


def random_vectors(
    recipe: Recipe, fits: Fits, settings: Settings, purpose: str, number: int
) -> Arm:
    """The recipe with random directions of the same lengths: `purpose` and `number` name the draw."""
    draws = rng(fits.seed, "random vectors", purpose, number)
    return method(recipe, fits, settings, lambda v: v.randomized(draws))


def only(arm: Arm, margin: float, fits: Fits) -> Arm:
    """The arm where the thinking model prefers its own token by a margin."""
    system = CONTROLLERS[arm.controller.name]
    at = at_disagreements(arm.controller.name, fits.categories(system), margin)
    return replace(arm, controller=at)


def ceiling(recipe: Recipe, fits: Fits, settings: Settings) -> Arm:
    """The thinking model's own token wherever the recipe steers."""
    return replace(_proposing(recipe, THINKING_TOKEN, fits, settings), judge="first")


def _proposing(recipe: Recipe, proposal: Proposal, fits: Fits, settings: Settings) -> Arm:
    """The recipe's arm with another proposal, kept to the tokens and categories of its own."""
    arm = method(recipe, fits, settings)
    own = arm.proposal
    return replace(arm, proposal=replace(proposal, starts_only=own.starts_only, idle=own.idle))


def _magnitude_only(recipe: Recipe, fits: Fits, settings: Settings) -> Arm:
    draws = rng(fits.seed, "magnitude only")
    return method(recipe, fits, settings, lambda v: v.magnitudes_only(draws))


def _bias_only(recipe: Recipe, fits: Fits, settings: Settings) -> Arm:
    return method(recipe, fits, settings, lambda v: replace(v, vectors=torch.zeros_like(v.vectors)))


def _logit_bias(recipe: Recipe, fits: Fits, settings: Settings) -> Arm:
    biases = fits.logit_biases(CONTROLLERS[recipe.controller])
    grid = coefficients(recipe)[0]
    return _proposing(recipe, logit_bias(biases, grid), fits, settings)


def plan_controls(
    recipe: Recipe, settings: Settings, rate: float, n_sets: int
) -> dict[str, Planned]:
    """Every control of a recipe, and its ceiling.

    `rate` is the share of the tokens it may steer that the recipe's arm steers, `n_sets` the number of
    sets of random vectors for each seed. Vectors that are no part of the recipe have no network of
    their own, so that they run with fixed coefficients where the recipe asks for one.
    """
    plain = recipe
    if recipe.coefficients == "network":
        plain = replace(recipe, coefficients="fixed")
    bias = replace(plain, vectors=METHODS[1])

    def at_random_positions(fits: Fits) -> Arm:
        moments = at_random(fits.categories(CONTROLLERS[recipe.controller]), rate)
        return method(recipe, fits, settings, moments=lambda c, v: moments)

    swept = replace(recipe, coefficients="sweep")

    def one(of: Recipe, make: Callable[[Fits], Arm], kind: str = "control") -> Planned:
        return Planned(kind, of, [make])

    return {
        "random-vectors": Planned(
            "control",
            recipe,
            [
                lambda fits, k=k: random_vectors(recipe, fits, settings, "report", k)
                for k in range(n_sets)
            ],
        ),
        "random-vectors: sweep": one(
            swept, lambda fits: random_vectors(swept, fits, settings, "swept", 0)
        ),
        "random-category": one(
            recipe, lambda fits: method(recipe, fits, settings, moments=of_random_category)
        ),
        "least-similar-category": one(
            recipe, lambda fits: method(recipe, fits, settings, moments=of_least_similar_category)
        ),
        "random-positions": one(recipe, at_random_positions),
        "magnitude-only": one(recipe, lambda fits: _magnitude_only(recipe, fits, settings)),
        "bias-only": one(bias, lambda fits: _bias_only(bias, fits, settings)),
        "logit-bias": one(plain, lambda fits: _logit_bias(plain, fits, settings)),
        "thinking-token": one(recipe, lambda fits: ceiling(recipe, fits, settings), "ceiling"),
    }
