"""Which part of the patch that makes the decision lies along known directions."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.divergence.explained import Divergences
from interp.divergence.patching import restored
from probes import permutation_p_value, rng


def logit_difference(logits: Tensor, thinking: Tensor, base: Tensor) -> Tensor:
    """Y: logit of the thinking model's token minus that of the base's own, for every edit."""
    tokens = torch.stack([thinking.argmax(-1), base.argmax(-1)], 1)
    found = logits.gather(2, tokens[:, None].expand(-1, logits.shape[1], -1))
    return found[..., 0] - found[..., 1]


def projected(
    first: Divergences,
    layer: int,
    thinking_resid: Float[Tensor, "divergence d_model"],
    whole: Float[np.ndarray, " divergence"],
    vectors: Float[Tensor, "direction d_model"],
    behaviors: Sequence[str],
    n_random: int,
    seed: int,
) -> dict:
    """`divergence.json: patching.projected`: the patch at the last position, along parts of it.

    The patch takes the base's residual stream to the thinking model's. Along a direction: its projection on
    it; beside it, random directions, each patch scaled to the same length and with the sign that the
    patch has along it. `whole` is Y of the thinking model minus that of the base.
    """
    d_model, groups = vectors.shape[1], first.groups
    unit = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    basis = torch.linalg.qr(unit.T)[0].T  # of the span of all directions
    draws = rng(seed, "projected").standard_normal((n_random, len(unit), d_model))
    random = torch.from_numpy(draws).float()
    planes = torch.linalg.qr(random.transpose(1, 2))[0].transpose(1, 2)
    lines = random[:, 0] / random[:, 0].norm(dim=-1, keepdim=True)

    def parts(patch: Float[Tensor, "n d_model"]) -> Float[Tensor, "n edit d_model"]:
        along = (patch @ unit.T)[..., None] * unit
        span = patch @ basis.T @ basis
        edits = [torch.zeros_like(patch)[:, None], patch[:, None], span[:, None]]
        edits += [(patch - span)[:, None], along, patch[:, None] - along]
        signed = (patch @ lines.T).sign()[..., None] * lines
        edits += [signed * along[:, i].norm(dim=-1)[:, None, None] for i in range(len(unit))]
        flat = torch.einsum("nd,rkd,rke->nre", patch, planes, planes)
        length = span.norm(dim=-1)[:, None, None]
        edits.append(flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-12) * length)
        return torch.cat(edits, 1)

    def edit(resid: Tensor, here: slice) -> Tensor:
        patch = thinking_resid[here].to(resid) - resid
        return resid[:, None] + parts(patch.cpu()).to(resid)

    y = first.edited(layer, edit, logit_difference)
    gain, n = y - y[0], len(unit)

    def share(row: int) -> dict:
        return restored(gain[row], whole, groups, seed)

    shares = gain.sum(1) / whole.clip(0).sum()
    nulls = shares[4 + 2 * n :].reshape(n + 1, n_random)
    directions = {
        name: share(4 + i)
        | {
            "complement": float(shares[4 + n + i]),
            "random": float(nulls[i].mean()),
            "random_q95": float(np.quantile(nulls[i], 0.95)),
            "p_value": permutation_p_value(shares[4 + i], nulls[i]),
        }
        for i, name in enumerate(behaviors)
    }
    return {
        "layer": layer,
        "full": share(1),
        "span": share(2),
        "complement": share(3),
        "directions": directions,
        "random": {"mean": float(nulls[n].mean()), "q95": float(np.quantile(nulls[n], 0.95))},
        "n_random": n_random,
    }
