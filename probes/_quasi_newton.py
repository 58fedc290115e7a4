"""Many penalized logistic regressions on the same rows, minimized side by side."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MEMORY = 10
"""How many steps back the curvature is remembered."""
DAMPING = 10.0
"""What is added to the first curvature in every dimension, in units of the mean variance."""
N_MOMENTS = 1000
"""About so many rows are enough for the first curvature: it is only where to start from."""
LINE_STEPS = 10
FLAT = 0.5
"""A line search ends where the slope has fallen to this share of what it was."""


@dataclass(frozen=True)
class Fits:
    """A row for each fit: the sum over its rows of the log loss, and of penalty * w^2 / 2.

    `used` is 1 where a row counts and 0 elsewhere. The last weight is the intercept, without penalty.
    """

    target: Float[Tensor, "fit n"]
    used: Float[Tensor, "fit n"]
    penalty: Float[Tensor, "fit d"]

    def some(self, keep: Bool[Tensor, " fit"]) -> "Fits":
        """Those of the fits that a mask says."""
        return Fits(self.target[keep], self.used[keep], self.penalty[keep])


@dataclass(frozen=True)
class _Pair:
    """One step [fit, d], what it changed in the gradient, and 1 over their product.

    Where rounding left no curvature along the step that 1 is 0, and the pair says nothing.
    """

    step: Tensor
    change: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> "_Pair":
        product = (step * change).sum(1, keepdim=True)
        floor = torch.finfo(step.dtype).eps * step.norm(dim=1, keepdim=True)
        known = product > floor * change.norm(dim=1, keepdim=True)
        return cls(step, change, torch.where(known, 1 / product, 0.0))

    def some(self, keep: Tensor) -> "_Pair":
        return _Pair(self.step[keep], self.change[keep], self.inverse[keep])


def minimize(
    x: Float[Tensor, "d n"], fits: Fits, tol: float, max_steps: int
) -> tuple[Float[Tensor, "fit d"], Float[Tensor, " fit"]]:
    """Weights, and how much each objective could still fall, as a share of how much it has fallen.

    x has a row for each feature, the last of ones: products along rows are the fastest.

    L-BFGS (Liu & Nocedal 1989) with a line search. A step costs two products of all fits with x; the
    search costs none, as logits are linear in the step. First curvature: the covariance of x, damped,
    times the mean p (1 - p) of the fit. Without damping the early steps chase dimensions in which
    little varies, and fit noise there.
    A step along -H g gains half of g H g where it is exact. A fit ends where the next would gain at
    most the share `tol` of what all steps gained; fits that have ended leave the products.
    """
    share = (fits.target * fits.used).sum(1) / fits.used.sum(1)
    first = _first_inverse(x)
    found = torch.zeros_like(fits.penalty)
    found[:, -1] = torch.logit(share)
    left, gained = torch.full_like(share, torch.inf), torch.zeros_like(share)
    at, w = torch.arange(len(found), device=x.device), found.clone()
    logits = w[:, -1:].expand_as(fits.target)
    p = torch.sigmoid(logits)
    pairs: list[_Pair] = []
    step, before = w, w
    for number in range(max_steps):
        gradient = ((p - fits.target).mul_(fits.used) @ x.T).addcmul_(fits.penalty, w)
        if number:
            pairs = [*pairs[1 - MEMORY :], _Pair.of(step, gradient - before)]
        weight = (p - p.square()).mul_(fits.used)
        along = _two_loops(gradient, pairs, first, weight.mean(1, keepdim=True)).neg_()
        slope = (gradient * along).sum(1)
        left[at], found[at] = -slope / 2 / gained[at], w
        going = left[at] > tol
        if not going.any():
            break
        if going.sum() < 0.9 * len(going):
            at, w, logits, p, weight = at[going], w[going], logits[going], p[going], weight[going]
            gradient, along, slope = gradient[going], along[going], slope[going]
            fits, pairs = fits.some(going), [pair.some(going) for pair in pairs]
        far, logits, p = _line_search(logits, along @ x, fits, weight, slope, w, along)
        gained[at] -= slope * far[:, 0] / 2
        step, before = far * along, gradient
        w = w + step
    return found, left


def _first_inverse(x: Float[Tensor, "d n"]) -> Float[Tensor, "d d"]:
    """Inverse of the damped moments of x."""
    n = x.shape[1]
    some = x[:, :: max(1, n // N_MOMENTS)]
    moments = (some @ some.T).mul_(n / some.shape[1])
    moments.diagonal()[:-1] += DAMPING * moments.diagonal().mean()
    return torch.cholesky_inverse(torch.linalg.cholesky(moments))


def _two_loops(
    gradient: Float[Tensor, "fit d"],
    pairs: list[_Pair],
    first: Float[Tensor, "d d"],
    curvature: Float[Tensor, "fit 1"],
) -> Float[Tensor, "fit d"]:
    """The inverse Hessian that the last steps tell of, times the gradient (Nocedal 1980)."""
    found, shares = gradient.clone(), []
    for pair in reversed(pairs):
        shares.append((pair.step * found).sum(1, keepdim=True).mul_(pair.inverse))
        found.addcmul_(shares[-1], pair.change, value=-1)
    found = found @ first
    if not pairs:
        return found / curvature
    # The last step says how long the inverse has to be.
    last = pairs[-1]
    through = (last.change * (last.change @ first)).sum(1, keepdim=True)
    found /= torch.where(last.inverse > 0, through * last.inverse, curvature)
    for pair, share in zip(pairs, reversed(shares), strict=True):
        back = (pair.change * found).sum(1, keepdim=True).mul_(pair.inverse)
        found.addcmul_(share - back, pair.step)
    return found


def _line_search(
    logits: Float[Tensor, "fit n"],
    change: Float[Tensor, "fit n"],
    fits: Fits,
    weight: Float[Tensor, "fit n"],
    slope: Float[Tensor, " fit"],
    w: Float[Tensor, "fit d"],
    along: Float[Tensor, "fit d"],
) -> tuple[Float[Tensor, "fit 1"], Float[Tensor, "fit n"], Float[Tensor, "fit n"]]:
    """How far along `change` each loss falls, and logits and p there, by Newton's method between bounds.

    Where a Newton step leaves the bounds they are halved instead, or the step is doubled while there
    is no upper one.
    """
    tilt, bend = (fits.penalty * w * along).sum(1), (fits.penalty * along**2).sum(1)
    own = change * fits.used
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    far = -slope / (change.square().mul_(weight).sum(1) + bend)
    for number in range(LINE_STEPS):
        there = torch.addcmul(logits, far[:, None], change)
        p = torch.sigmoid(there)
        fall = (p - fits.target).mul_(own).sum(1) + tilt + far * bend
        if number == LINE_STEPS - 1 or (fall.abs() <= FLAT * slope.abs()).all():
            return far[:, None], there, p
        low, high = torch.where(fall < 0, far, low), torch.where(fall < 0, high, far)
        newton = far - fall / ((p - p.square()).mul_(own).mul_(change).sum(1) + bend)
        halved = torch.where(high.isinf(), 2 * far, (low + high) / 2)
        far = torch.where((newton > low) & (newton < high), newton, halved)
    raise AssertionError("unreachable")
