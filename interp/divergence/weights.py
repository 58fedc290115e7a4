"""What training changed in the weights, matrix by matrix."""

import re
from typing import Any

import torch
from torch import Tensor

from interp.models import Model
from interp.pairs import Pair

UNCHANGED = 1e-3
"""An entry counts as unchanged if it moved by less than this share of the base's root mean square."""
_ATTENTION = re.compile(r"attn|attention")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def named_weights(model: Model) -> dict[str, Tensor]:
    """Weight matrices by the checkpoint's own names; tied ones once."""
    hf: Any = model.bridge.original_model
    return {
        name.replace("._original_component", ""): value
        for name, value in hf.named_parameters()
        if value.ndim == 2
    }


@torch.no_grad()
def weight_changes(pair: Pair, restored: dict[str, list[float]]) -> list[dict]:
    """`divergence.json: weights`; `restored[component][layer]` are causal shares from patching.

    Stable rank is the squared Frobenius over the squared spectral norm (Rudelson & Vershynin 2007).
    Embeddings of tokens that one model alone has are left out.
    """
    base, found = named_weights(pair.base), []
    for module, after in named_weights(pair.thinking).items():
        if module not in base:
            continue
        n = min(len(after), len(base[module]))
        before = base[module][:n].double()
        delta = after[:n].double() - before
        size, norm = before.norm(), delta.norm()
        # Singular values by the smaller Gram matrix: an embedding is tall.
        small = delta.T @ delta if delta.shape[0] > delta.shape[1] else delta @ delta.T
        largest = torch.linalg.eigvalsh(small)[-1].clamp_min(0)
        layer = _LAYER.search(f".{module}")
        component = None
        if layer:
            component = "attn_out" if _ATTENTION.search(module) else "mlp_out"
        shares = restored.get(component or "")
        found.append(
            {
                "module": module,
                "layer": int(layer[1]) if layer else None,
                "component": component,
                "relative_change": float(norm / size),
                "stable_rank": float(norm**2 / largest) if largest > 0 else None,
                "full_rank": min(delta.shape),
                "unchanged": float(
                    (delta.abs() < UNCHANGED * size / before.numel() ** 0.5).double().mean()
                ),
                "restored": shares[int(layer[1])] if layer and shares else None,
            }
        )
    return found
