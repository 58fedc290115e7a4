"""Logistic probes over all layers, behaviors and folds at once: one product with x for all of them."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from probes._arrays import Array, same_length
from probes._layers import for_each_layer, layer_matrices
from probes._quasi_newton import Fits, minimize
from probes.metrics import auroc

MAX_STEPS = 1000
"""After so many steps a fit is left as it is, with a warning."""


@dataclass(frozen=True)
class LogisticSweep:
    """decision(x) = x . directions + intercepts, in log-odds per unit of raw activation.

    Entry k of the fold axis is the probe fitted without fold k; `scores` are the decisions for each
    row by the probe that has not seen its fold, and `auroc` is that of all rows' scores together, as
    in `sweep`.
    """

    directions: Float[np.ndarray, "layer behavior fold d_model"]
    intercepts: Float[np.ndarray, "layer behavior fold"]
    scores: Float[np.ndarray, "layer behavior n"]
    auroc: Float[np.ndarray, "layer behavior"]


def logistic_sweep(
    x: Iterable[Float[Array, "n d_model"]],
    y: Bool[Array, "n behavior"],
    folds: Int[Array, " n"],
    C: float = 1.0,
    tol: float = 1e-4,
) -> LogisticSweep:
    """L2-penalized logistic regression on standardized activations, fitted without each fold in turn.

    Each fit has the optimum of `LogisticProbe(C)` on the rows outside the fold: features are
    standardized by those rows, C is the inverse of the penalty there, the intercept is free.

    x: [layer, n, d_model], or anything that yields one matrix [n, d_model] a layer, so that as many
    layers as there are cores are in memory. The work is done where x lies, on the CPU or a GPU, in float64 if x is
    float64 and else in float32. folds: which fold each row is in, as of `grouped_folds`.

    All behaviors and folds of a layer share each product with x, in L-BFGS that starts from the layer's
    covariance (`probes._quasi_newton`). A fit ends where the next step would gain at most the share `tol`
    of what all have gained. With the default AUROC is within 0.005 of the optimum's and coefficients are
    about as near to it as scikit-learn's default leaves them; 1e-9 brings them to 0.1% at C = 1, and 1e-12
    up to C = 100. A warning says where 1000 steps were not enough. On a CPU each layer has one core.
    Raises ValueError for NaN or infinite values, lengths that differ, C that is not positive, fewer than
    two folds, or a behavior that the rows outside a fold show always or never.
    """
    n = same_length(y=y, folds=folds)
    if not 0 < C < np.inf:
        raise ValueError(f"C is {C}, expected a positive number: pass for example 1.0")
    shown = np.asarray(torch.as_tensor(y).cpu())
    names, codes = np.unique(np.asarray(torch.as_tensor(folds).cpu()), return_inverse=True)
    if len(names) < 2:
        raise ValueError("all rows are in one fold, expected at least two folds")
    for k, name in enumerate(names.tolist()):
        share = shown[codes != k].mean(0)
        if (single := (share == 0) | (share == 1)).any():
            behavior = int(np.argmax(single))
            raise ValueError(
                f"the rows outside fold {name} show behavior {behavior} always or never, expected "
                "both: use fewer folds or leave the behavior out"
            )
    work = partial(_fit_layer, y=shown, folds=codes, C=C, tol=tol)
    fits = for_each_layer(work, layer_matrices(x, n))
    directions, intercepts, scores, left = (np.stack(part) for part in zip(*fits, strict=True))
    if (left > tol).any():
        warnings.warn(
            f"{(left > tol).sum()} of {left.size} fits did not converge in {MAX_STEPS} steps (up to "
            f"{left.max():.1e} is left to gain, tol is {tol:.1e}): use a smaller C or a larger tol",
            ConvergenceWarning,
            stacklevel=2,
        )
    quality = [[auroc(row, own) for row, own in zip(s, shown.T, strict=True)] for s in scores]
    return LogisticSweep(directions, intercepts, scores, np.array(quality))


def _fit_layer(
    x: Float[Tensor, "n d_model"],
    y: Bool[np.ndarray, "n behavior"],
    folds: Int[np.ndarray, " n"],
    C: float,
    tol: float,
) -> tuple[
    Float[np.ndarray, "behavior fold d_model"],
    Float[np.ndarray, "behavior fold"],
    Float[np.ndarray, "behavior n"],
    Float[np.ndarray, " fit"],
]:
    """Directions and intercepts in raw coordinates, scores out of the fold, and what is left to gain."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    fold = torch.from_numpy(folds).to(x.device)
    n_folds, n_behaviors = int(fold.max()) + 1, y.shape[1]
    # Standardized by all rows: what standardizing inside the fold would change is the size of the
    # penalty alone, as the intercept is free.
    center = x.mean(0, dtype=torch.float64).to(kind)
    rows = torch.ones(x.shape[1] + 1, len(x), dtype=kind, device=x.device)
    z = rows[:-1]
    torch.sub(x.T, center[:, None], out=z)
    rounding = len(x) * torch.finfo(torch.float64).eps
    scale = _or_one(z.square().mean(1), (rounding * center).square()).sqrt()
    z /= scale[:, None]
    penalty = _variance_outside(z, fold, n_folds) / C
    target = torch.from_numpy(y).to(x.device, kind)
    fits = Fits(
        target.T.repeat_interleave(n_folds, 0),
        (fold != torch.arange(n_folds, device=x.device)[:, None]).to(kind).repeat(n_behaviors, 1),
        torch.cat([penalty, torch.zeros_like(penalty[:, :1])], 1).repeat(n_behaviors, 1),
    )
    weights, left = minimize(rows, fits, tol, MAX_STEPS)
    logits = (weights @ rows).reshape(n_behaviors, n_folds, len(x))
    scores = logits[:, fold, torch.arange(len(x), device=x.device)]
    directions = weights[:, :-1].double() / scale
    intercepts = weights[:, -1].double() - directions @ center.double()
    return (
        directions.reshape(n_behaviors, n_folds, -1).cpu().numpy(),
        intercepts.reshape(n_behaviors, n_folds).cpu().numpy(),
        scores.double().cpu().numpy(),
        left.cpu().numpy(),
    )


def _variance_outside(
    z: Float[Tensor, "d_model n"], fold: Int[Tensor, " n"], n_folds: int
) -> Float[Tensor, "fold d_model"]:
    """Variance over the rows outside each fold, joined from the folds' (Chan, Golub & LeVeque 1979)."""
    members = (fold == torch.arange(n_folds, device=z.device)[:, None]).to(z.dtype)
    count = members.sum(1)
    means = members @ z.T / count[:, None]
    squares = members @ (z - means.T[:, fold]).square_().T
    others = 1 - torch.eye(n_folds, device=z.device, dtype=z.dtype)  # [left out, fold]
    n = (others @ count)[:, None]
    mean = others @ (count[:, None] * means) / n
    between = ((others * count)[:, :, None] * (means - mean[:, None]).square()).sum(1)
    return _or_one((others @ squares + between) / n, (1e-6 * mean).square())


def _or_one(
    variance: Float[Tensor, "*shape"], floor: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Variances, but 1 where there is none but rounding: what is constant is not scaled."""
    return torch.where(variance > floor, variance, torch.ones_like(variance))
