"""Take linear information about a label out of activations: LEACE, and removal direction by direction."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from probes._arrays import Array, finite, same_length
from probes.estimators import WhitenedMeanDifference
from probes.metrics import auroc


@dataclass(frozen=True)
class Eraser:
    """x -> x - write (read . (x - mean)): what one label says linearly is gone, and nothing else moves.

    `read`, `write` and `mean` are [d_model].
    """

    read: Float[np.ndarray, " d_model"]
    write: Float[np.ndarray, " d_model"]
    mean: Float[np.ndarray, " d_model"]

    def __call__(self, x: Float[Array, "n d_model"]) -> Float[np.ndarray, "n d_model"]:
        """The activations without what the label says."""
        x = finite(x, "x")
        return x - np.outer((x - self.mean) @ self.read, self.write)


def leace(X: Float[Array, "n d_model"], y: Bool[np.ndarray, " n"], ridge: float = 1e-4) -> Eraser:
    """The least change that leaves no linear information about a binary label (Belrose et al. 2306.03819).

    Theorem 4.3 for one label: with d the difference of class means and S the covariance of X, the
    projection is along d, read off by S^-1 d / (d' S^-1 d). `ridge` x the mean variance is added to S.
    Raises ValueError where y has one class only, or both have one mean.
    """
    same_length(X=X, y=y)
    x = finite(X, "X")
    if y.all() or not y.any():
        raise ValueError("y has one class only, expected two: pass rows of both")
    mean = x.mean(0)
    covariance = np.cov((x - mean).T, bias=True)
    return eraser_of(x[y].mean(0) - x[~y].mean(0), mean, covariance, ridge)


def eraser_of(
    difference: Float[np.ndarray, " d_model"],
    mean: Float[np.ndarray, " d_model"],
    covariance: Float[np.ndarray, "d_model d_model"],
    ridge: float,
) -> Eraser:
    """The eraser of a label with this difference of class means, in data with these moments, as in `leace`."""
    if not difference.any():
        raise ValueError("the two classes have one mean, so there is nothing to erase")
    level = np.trace(covariance) / len(difference)
    read = np.linalg.solve(covariance + ridge * level * np.eye(len(difference)), difference)
    return Eraser(read / (difference @ read), difference, mean)


@dataclass(frozen=True)
class Removal:
    """Directions projected out one after the other: `directions` [step, d_model] have length 1 and stand at
    right angles; `auroc` has what a probe finds before the first and after each."""

    directions: Float[np.ndarray, "step d_model"]
    auroc: list[float]


def removal(
    X: Float[Array, "n d_model"],
    y: Bool[np.ndarray, " n"],
    X_test: Float[Array, "m d_model"],
    y_test: Bool[np.ndarray, " m"],
    n_steps: int,
    first: Float[np.ndarray, " d_model"] | None = None,
) -> Removal:
    """Project out `n_steps` directions, each that of a whitened probe fitted on what is left.

    Iterative null-space projection (Ravfogel et al. 2004.07667); `first` goes before all others. Ends
    early where nothing is left. A plain difference of means would be gone after one step by construction.
    """
    x, x_test = finite(X, "X"), finite(X_test, "X_test")
    removed, found = [], []
    for step in range(n_steps + 1):
        direction = WhitenedMeanDifference().fit(x, y).direction_
        found.append(auroc(x_test @ direction, y_test))
        if step == 0 and first is not None:
            direction = first
        for earlier in removed:  # exactly at right angles, whatever rounding left
            direction = direction - (direction @ earlier) * earlier
        length = np.linalg.norm(direction)
        if step == n_steps or length == 0:
            break
        unit = direction / length
        removed.append(unit)
        x, x_test = x - np.outer(x @ unit, unit), x_test - np.outer(x_test @ unit, unit)
    return Removal(np.array(removed).reshape(-1, x.shape[1]), found)
