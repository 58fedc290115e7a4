"""Controllers: when to steer the base, and which category's vector to use.

They are made of this module's functions, so that they can travel to other processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from interp.hybrid.decode import Controller, View
from interp.hybrid.vectors import SteeringVectors
from interp.taxonomy import Taxonomy

Read = Callable[[Float[Tensor, "*n d_model"]], Int[Tensor, "*n"]]
Which = Callable[[View], Int[Tensor, " row"]]


@dataclass(frozen=True)
class Categories:
    """Names for what may be steered, and how to tell one from the thinking model's residual stream."""

    names: tuple[str, ...]
    read: Read


def one_category() -> Categories:
    """No which, only when: a single vector for every place."""
    return Categories(("any",), _one)


def _one(resid: Float[Tensor, "*n d_model"]) -> Int[Tensor, "*n"]:
    return torch.zeros(resid.shape[:-1], dtype=torch.long, device=resid.device)


def taxonomy_categories(taxonomy: Taxonomy, mean: Float[Tensor, " d_model"]) -> Categories:
    """The taxonomy's category of a single token, centered by `mean`, that of such tokens."""
    here = replace(taxonomy, mean=mean)
    return Categories(tuple(f"category {i}" for i in range(taxonomy.n_categories)), here.categories)


def probe_categories(resid: Float[Tensor, "n d_model"], behaviors: Sequence[str]) -> Categories:
    """A multinomial logistic probe of the behavior that a token's sentence will show."""
    names = tuple(sorted(set(behaviors)))
    if len(names) == 1:
        return Categories(names, _one)
    scale = StandardScaler().fit(resid.cpu().numpy())
    last: Any = LogisticRegression(max_iter=300)
    last.fit(scale.transform(resid.cpu().numpy()), [names.index(b) for b in behaviors])
    # Two classes have one row of weights, the other's being its negative.
    weights, bias = last.coef_ / np.asarray(scale.scale_), last.intercept_
    if len(names) == 2:
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    w = torch.from_numpy(weights).float().to(resid.device)
    b = torch.from_numpy(bias - weights @ np.asarray(scale.mean_)).float().to(resid.device)
    return Categories(names, partial(_likeliest, w, b))


def _likeliest(
    weights: Float[Tensor, "category d_model"],
    bias: Float[Tensor, " category"],
    resid: Float[Tensor, "*n d_model"],
) -> Int[Tensor, "*n"]:
    return (resid @ weights.to(resid.device).T + bias.to(resid.device)).argmax(-1)


def _which(read: Read, view: View) -> Tensor:
    return read(view.base_resid if view.thinking_resid is None else view.thinking_resid)


def disagreement(view: View) -> Bool[Tensor, " row"]:
    """Where the greedy tokens of base and thinking model differ (Venhoff et al. 2510.07364)."""
    assert view.thinking_logits is not None
    return view.base_logits.argmax(-1) != view.thinking_logits.argmax(-1)


def at_disagreements(name: str, categories: Categories, margin: float = 0.0) -> Controller:
    """Steer where the models disagree, by the thinking model's category.

    With a `margin`, only where the thinking model's own token is likelier by as much, in
    probability, than the base's.
    """

    return Controller(name, partial(_apart, margin), partial(_which, categories.read))


def _apart(margin: float, view: View) -> Tensor:
    differ = disagreement(view)
    if margin:
        assert view.thinking_logits is not None
        p = view.thinking_logits.softmax(-1)
        differ &= p.amax(-1) - p.gather(-1, view.base_logits.argmax(-1, True))[:, 0] >= margin
    return differ


def at_entropy(threshold: float) -> Controller:
    """Steer where the base's entropy is at least a threshold, in nats; needs no thinking model."""
    when, which = partial(_unsure, threshold), partial(_which, _one)
    return Controller("entropy", when, which, needs_thinking=False)


def _unsure(threshold: float, view: View) -> Tensor:
    log_p = view.base_logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) >= threshold


def at_first_token() -> Controller:
    """Steer the first generated token only; needs no thinking model."""
    return Controller("first-token", _first, partial(_which, _one), needs_thinking=False)


def _first(view: View) -> Tensor:
    return torch.full_like(view.draws, view.step == 0, dtype=torch.bool)


def at_random(categories: Categories, rate: float) -> Controller:
    """Steer at random positions with a given rate, by the thinking model's category there."""
    return Controller("random-positions", partial(_drawn, rate), partial(_which, categories.read))


def _drawn(rate: float, view: View) -> Tensor:
    return view.draws < rate


def of_random_category(controller: Controller, vectors: SteeringVectors) -> Controller:
    """The same moments, a random one of the categories that have a vector."""
    allowed = [c for c in range(len(vectors.names)) if c not in vectors.idle]
    return replace(controller, which=partial(_any_of, allowed, controller.which))


def _any_of(allowed: list[int], right: Which, view: View) -> Tensor:
    own = right(view)
    choice = torch.tensor(allowed, device=own.device)
    drawn = choice[(view.draws * len(allowed)).long().clamp_max(len(allowed) - 1)]
    return drawn.where(torch.isin(own, choice), own)


def of_least_similar_category(controller: Controller, vectors: SteeringVectors) -> Controller:
    """The same moments, the category whose shift has the smallest cosine with the right one's.

    Where the right one has no vector, nothing is steered, as without the control.
    """
    shift = vectors.shifts
    length = shift.norm(dim=-1)
    unit = shift / length.clamp_min(1e-12)[:, None]
    cosine = unit @ unit.T
    cosine[:, length == 0] = torch.inf  # a category without a vector is no control
    other = torch.where(
        length == 0, torch.arange(len(length), device=length.device), cosine.argmin(-1)
    )
    return replace(controller, which=partial(_another, other, controller.which))


def _another(other: Int[Tensor, " category"], right: Which, view: View) -> Tensor:
    own = right(view)
    return other.to(own.device)[own]
