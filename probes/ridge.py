"""Ridge probes over all layers, behaviors and penalties at once, from one factorization a layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes._arrays import Array, Groups, group_codes, same_length
from probes._layers import for_each_layer, layer_matrices


@dataclass(frozen=True)
class RidgeProbes:
    """prediction(x) = x . directions + intercepts, for every layer, penalty and behavior.

    `scores` are the predictions for each row by the probe fitted without the row's group.
    """

    alphas: tuple[float, ...]
    directions: Float[np.ndarray, "layer alpha behavior d_model"]
    intercepts: Float[np.ndarray, "layer alpha behavior"]
    scores: Float[np.ndarray, "layer alpha behavior n"]


def ridge_probes(
    x: Iterable[Float[Array, "n d_model"]],
    y: Bool[Array, "n behavior"] | Float[Array, "n behavior"],
    alphas: Sequence[float],
    groups: Groups,
) -> RidgeProbes:
    """Least squares with penalty alpha |direction|^2 and a free intercept, as `sklearn.linear_model.Ridge`.

    x: [layer, n, d_model], or anything that yields one matrix [n, d_model] a layer, so that as many
    layers as there are cores are in memory. The work is done in float64 where x lies, on the CPU or a GPU.

    Each layer's covariance is decomposed once for all penalties and behaviors. Predictions without a
    group need no second fit: with H the hat matrix and e the residuals, those of group g without
    it are (I - H_gg)^-1 e_g (Cook & Weisberg 1982, for one row: the PRESS residual). Groups may be problems, or
    the numbers of folds; the time grows with the cube of the largest.
    Raises ValueError for alphas that are not positive, NaN or infinite values, lengths that differ,
    or fewer than two groups.
    """
    n = same_length(y=y, groups=groups)
    if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
        raise ValueError(f"alphas are {alphas}, expected positive numbers: pass for example [1.0]")
    codes, n_groups = group_codes(groups)
    if n_groups < 2:
        raise ValueError(
            "all rows are of one group, expected at least two: pass one group a problem"
        )
    members = [np.flatnonzero(codes == g) for g in range(n_groups)]
    work = partial(_fit, y=y, alphas=alphas, members=members)
    fits = for_each_layer(work, layer_matrices(x, n))
    directions, intercepts, scores = (np.stack(part) for part in zip(*fits, strict=True))
    return RidgeProbes(tuple(alphas), directions, intercepts, scores)


def _fit(
    x: Float[Tensor, "n d_model"],
    y: Bool[Array, "n behavior"] | Float[Array, "n behavior"],
    alphas: Sequence[float],
    members: list[np.ndarray],
) -> tuple[
    Float[np.ndarray, "alpha behavior d_model"],
    Float[np.ndarray, "alpha behavior"],
    Float[np.ndarray, "alpha behavior n"],
]:
    """Directions, intercepts and predictions without the own group, of one layer."""
    target = torch.as_tensor(y, dtype=torch.float64, device=x.device)
    penalty = torch.tensor(alphas, dtype=torch.float64, device=x.device)
    x = x.double()
    center, base = x.mean(0), target.mean(0)
    centered = x - center
    variance, axes = torch.linalg.eigh(centered.T @ centered)
    shrink = 1 / (variance.clamp_min(0) + penalty[:, None])  # [alpha, d_model]
    rows = centered @ axes
    weights = shrink[:, :, None] * (rows.T @ (target - base))  # [alpha, d_model, behavior]
    residual = target - base - rows @ weights
    scores = torch.empty_like(residual)
    for at in members:
        own = rows[at]
        hat = (own * shrink[:, None]) @ own.T + 1 / len(x)
        kept = torch.eye(len(at), dtype=hat.dtype, device=hat.device) - hat
        scores[:, at] = target[at] - torch.linalg.solve(kept, residual[:, at])
    directions = (axes @ weights).mT
    found = directions, base - directions @ center, scores.mT
    return found[0].cpu().numpy(), found[1].cpu().numpy(), found[2].cpu().numpy()
