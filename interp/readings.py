"""Every way to read a behavior's direction, from labels that mean something and from ones that do not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ActivationStore
from interp.directions import as_tensor, mean_difference
from interp.errors import UserError
from interp.models import mean_norm
from interp.pooling import hook_name
from probes import covariance_matched_directions, shuffle_labels

Readings = tuple[tuple[str, str], ...]
READINGS: Readings = (("before", "matched"), ("mean", "matched"))
"""Read position and contrast of the differences of means that stand for selection.

Against segments that follow the same kind of segment, so that a direction holds what sets the
choice apart at its own place in the trace, and nothing of what merely says where in the trace one
is: taking that out breaks everything. Every edit is made at `before` positions, wherever the
direction was read. More readings would be more ways to be lucky, for the nulls too.
"""
N_FOLDS = 5
MIN_SHARE = 0.005


def check_labels(store: ActivationStore, behavior: str) -> np.ndarray:
    """Which segments show the behavior; raises `UserError` where there are too few or only such."""
    y = store.labels == behavior
    shown = len(np.unique(store.groups[y]))
    if shown < N_FOLDS:
        raise UserError(
            f"Only {int(y.sum())} segments of {shown} problems show {behavior}, fewer than the "
            f"{N_FOLDS} folds: sample more problems or leave this behavior out with --behavior."
        )
    if y.all():
        raise UserError(
            f"Every segment shows {behavior}: a contrast needs other segments; check the annotator."
        )
    if all(y[store.previous == kind].all() for kind in np.unique(store.previous[y])):
        raise UserError(
            f"{behavior} never stands where another behavior might, so it is no choice: leave it "
            "out with --behavior."
        )
    return y


def choices(store: ActivationStore, behaviors: Sequence[str]) -> dict[str, frozenset[str]]:
    """After which kinds of segment each behavior is a choice: taken 0.5% of the time or more.

    Elsewhere, as a check before anything is computed, a push tells how hard it is and not what.
    """
    return {
        b: frozenset(
            str(kind)
            for kind in np.unique(store.previous)
            if kind and (store.labels[store.previous == kind] == b).mean() >= MIN_SHARE
        )
        for b in behaviors
    }


def layer_units(store: ActivationStore, n_layers: int) -> list[float]:
    """Mean norm of the residual stream at `before` positions, for each layer."""
    return [
        mean_norm(torch.from_numpy(store[hook_name("resid_post", layer), "before"]))
        for layer in range(n_layers)
    ]


def vector_and_unit(
    store: ActivationStore, behavior: str, use: dict
) -> tuple[Float[Tensor, " d_model"], float]:
    """The direction that a chosen use refers to, and its layer's residual norm."""
    hook = hook_name("resid_post", use["layer"])
    x = store[hook, use["position"]]
    y = store.labels == behavior
    vector = mean_difference(x, y, use["contrast"], store.previous)
    return as_tensor(vector), mean_norm(torch.from_numpy(store[hook, "before"]))


def fitted_vectors(
    store: ActivationStore, y: np.ndarray, layers: Sequence[int], readings: Readings
) -> Float[Tensor, "reading layer d_model"]:
    """Directions of one behavior (`y` [segment]) for every reading and each of the layers."""
    found = [
        as_tensor(
            mean_difference(
                store[hook_name("resid_post", layer), read], y, contrast, store.previous
            )
        )
        for read, contrast in readings
        for layer in layers
    ]
    return torch.stack(found).reshape(len(readings), len(layers), -1)


def shuffled_vectors(
    store: ActivationStore,
    behaviors: list[str],
    layers: Sequence[int],
    readings: Readings,
    seed: int,
) -> dict[str, Float[Tensor, "reading layer d_model"]]:
    """What `fitted_vectors` finds when labels are shuffled inside every problem."""
    labels = shuffle_labels(store.labels, store.groups, seed)
    return {b: fitted_vectors(store, labels == b, layers, readings) for b in behaviors}


def cells(store: ActivationStore) -> np.ndarray:
    """What labels explain of each segment [segment]: its behavior, after the kind of the one before."""
    return np.array([f"{p}/{b}" for p, b in zip(store.previous, store.labels, strict=True)])


def habits(store: ActivationStore) -> Float[np.ndarray, "segment label"]:
    """Which labels each segment's trace has anywhere, as 0 and 1: what its writer is given to."""
    trace = np.unique(store.trace_index, return_inverse=True)[1]
    shown = [np.bincount(trace, store.labels == b) > 0 for b in np.unique(store.labels)]
    return np.stack(shown, 1)[trace].astype(float)


def residuals(store: ActivationStore, layers: Sequence[int]) -> ActivationStore:
    """The activations without what labels explain: a segment's own in its place, and its trace's habits.

    Less a least-squares fit on `habits` among the segments with one behavior after one kind. Null directions are
    drawn from these. The total covariance holds the behaviors' own axes, so that random directions from it would
    often be the direction on trial itself, and so would those that tell who checks from who does not; permuting
    residuals of the full model (ter Braak 1992) keeps both out, and under labels without meaning it is the same
    thing.
    """
    of_trace = torch.from_numpy(habits(store))
    places = np.unique(cells(store), return_inverse=True)[1]
    rows = [torch.from_numpy(np.flatnonzero(places == place)) for place in range(places.max() + 1)]
    values = {}
    for key in {(hook_name("resid_post", n), read) for n in layers for read, _ in READINGS}:
        x = torch.from_numpy(store[key]).to(torch.float64, copy=True)
        for at in rows:
            told, seen = (part - part.mean(0) for part in (of_trace[at], x[at]))
            fit = torch.linalg.lstsq(told, seen, driver="gelsd").solution  # habits may coincide
            x[at] = seen - told @ fit
        values[key] = x.float()
    return replace(store, values=values)


def random_vectors(
    store: ActivationStore, layers: Sequence[int], readings: Readings, n: int, seed: int
) -> Float[Tensor, "n reading layer d_model"]:
    """Random directions with the covariance of `store`'s activations within problems.

    Isotropic ones would be too easy to beat: most of them point where the residual stream never
    goes. These, from `residuals`, are what differences of means look like for labels without meaning.
    """
    slots = np.array([f"{g}/{p}" for g, p in zip(store.groups, store.previous, strict=True)])
    found = [
        covariance_matched_directions(
            store[hook_name("resid_post", layer), read],
            n,
            1.0,
            seed,
            groups=slots if contrast == "matched" else store.groups,
        )
        for read, contrast in readings
        for layer in layers
    ]
    shape = (n, len(readings), len(layers), -1)
    return torch.from_numpy(np.stack(found, 1)).float().reshape(shape)
