"""The arms of the experiment: what is steered when, by what, how strongly, and the controls."""

from collections.abc import Callable
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
"""How strongly: as trained, as a network says, or swept and judged by the thinking model or by lot."""


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


def _proposing(
    recipe: Recipe, proposal: Proposal, judge: str, fits: Fits, settings: Settings
) -> Arm:
    return Arm(
        controller(recipe.controller, fits, settings), proposal, judge, fits.lab.taxonomy.layer
    )


def ceiling(recipe: Recipe, fits: Fits, settings: Settings) -> Arm:
    """The thinking model's own token wherever the recipe steers."""
    return _proposing(recipe, THINKING_TOKEN, "first", fits, settings)


def random_vectors(recipe: Recipe, fits: Fits, settings: Settings, number: int) -> Arm:
    """The recipe with the `number`-th set of random directions of the same lengths."""
    return method(recipe, fits, settings, lambda v: v.randomized(1000 * fits.seed + number))


def only(arm: Arm, margin: float, fits: Fits) -> Arm:
    """The arm where the thinking model prefers its own token by a margin."""
    system = CONTROLLERS[arm.controller.name]
    at = at_disagreements(arm.controller.name, fits.categories(system), margin)
    return replace(arm, controller=at)


def controls(
    recipe: Recipe, fits: Fits, settings: Settings, steer_rate: float
) -> dict[str, Callable[[], Arm]]:
    """Every control of a recipe but the random vectors, each made when it is called.

    `steer_rate` is the share of tokens that the recipe's arm steers.
    """
    grid, _, judge = coefficients(recipe)
    system = CONTROLLERS[recipe.controller]

    def with_vectors() -> list[int]:
        return vectors(recipe, fits, settings).shifts.norm(dim=-1).nonzero()[:, 0].tolist()

    def bias_only() -> Arm:
        bias = replace(recipe, vectors=METHODS[1])
        return method(
            bias, fits, settings, lambda v: replace(v, vectors=torch.zeros_like(v.vectors))
        )

    def biases() -> Arm:
        return _proposing(
            recipe, logit_bias(fits.logit_biases(system), grid), judge, fits, settings
        )

    return {
        "random-category": lambda: method(
            recipe, fits, settings, moments=lambda c, v: of_random_category(c, with_vectors())
        ),
        "least-similar-category": lambda: method(
            recipe, fits, settings, moments=of_least_similar_category
        ),
        "random-positions": lambda: method(
            recipe,
            fits,
            settings,
            moments=lambda c, v: at_random(fits.categories(system), steer_rate),
        ),
        "magnitude-only": lambda: method(
            recipe, fits, settings, lambda v: v.magnitudes_only(fits.seed)
        ),
        "bias-only": bias_only,
        "logit-bias": biases,
    }
