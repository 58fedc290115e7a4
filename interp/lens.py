"""Logits of residual streams, a part at a time: memory that does not grow with vocabulary x length."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models import Model, inputs_of

CHUNK = 1 << 21
"""Logits of a model that `parts` has compared at a time."""
MAX_LOGITS = 1 << 28
"""The most logits of a batch, unless one text alone has more: a gibibyte of each kind in float32."""


def final_states(
    model: Model, ids: Int[Tensor, "row pos"], real: Bool[Tensor, "row pos"]
) -> Float[Tensor, "row pos d_model"]:
    """What the unembedding reads: the last residual stream after the final norm."""
    read = model.hf.base_model(**inputs_of(ids, real), use_cache=False)
    return read.last_hidden_state.to(model.device)


def unembed(model: Model, states: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
    """Logits of `final_states`, scaled and capped as the model's own are, on the device of its first weights."""
    hf: Any = model.bridge.original_model
    logits = hf.lm_head(states).to(model.device)  # weights may lie on several devices
    # Each is a pass over all logits, and most architectures have none.
    if (scale := getattr(hf.config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(hf.config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(hf.config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


@torch.no_grad()
def lens(model: Model, resid: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
    """Logit lens: final norm and unembedding of a residual stream (nostalgebraist 2020)."""
    return unembed(model, model.bridge.ln_final(resid.to(model.device, model.dtype)))


def parts(n: int, d_vocab: int) -> Iterator[slice]:
    """`n` positions in parts of at most `CHUNK` logits."""
    size = max(1, CHUNK // d_vocab)
    return (slice(begin, begin + size) for begin in range(0, n, size))
