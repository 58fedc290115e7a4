"""What a model would say next if the residual stream were another: queries over cached keys and values."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from interp.layout import attention_mask
from interp.models import Model, inputs_of, widened
from interp.pooling import hook_name

KeyValues = Sequence[tuple[Tensor, Tensor]]
"""Keys and values [row, head, pos, d_head] of every layer."""
Above = Callable[[int, Float[Tensor, "query row d_model"]], Float[Tensor, "query row d_model"]]
"""Edits the output of a block, given its layer."""


def key_values(cache: Any, rows: Int[Tensor, " row"] | None = None) -> KeyValues:
    """Keys and values of a cache, of some of its rows if these are given."""
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    if rows is None:
        return pairs
    # Layers may lie on several devices.
    return [(k[at], v[at]) for k, v in pairs for at in [rows.to(k.device)]]


def read_cached(
    model: Model,
    ids: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row pos"],
    layers: Sequence[int],
    pick: Callable[[Float[Tensor, "row pos d_model"]], Tensor] = lambda resid: resid,
) -> tuple[dict[int, Tensor], Any]:
    """One forward over left-padded texts: what `pick` takes of each layer's output, and the cache."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int):
        def hook(resid: Tensor, hook=None) -> None:
            kept[layer] = widened(pick(resid.to(ids.device))).clone()

        return hook

    hooks = [(hook_name("resid_post", layer), keep(layer)) for layer in layers]
    with model.bridge.hooks(fwd_hooks=hooks):
        read = model.hf(
            **inputs_of(ids, real),
            past_key_values=DynamicCache(),  # keeps all of the text, for layers with a window too
            use_cache=True,
            logits_to_keep=1,  # nobody reads any, and all of a text would be large
        )
    return kept, read.past_key_values


def logits_above(
    model: Model,
    layer: int,
    resid: Float[Tensor, "row query d_model"],
    kv: KeyValues,
    seen: Bool[Tensor, "row query pos"],
    positions: Int[Tensor, "row query"],
    above: Above | None = None,
) -> Float[Tensor, "row query d_vocab"]:
    """Next-token logits when the output of block `layer` is `resid`.

    The queries of a row stand side by side: each sees itself and the cached positions that `seen` says
    (all of its text so far), and no other query, so many edits of one text cost one pass through the
    blocks above `layer`. The cache is left as it was. `above(k, resid)` edits the output of each later
    block k in turn.
    """
    hf: Any = model.bridge.original_model
    itself = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device).expand(
        len(seen), -1, -1
    )

    def behind() -> Int[Tensor, "row query key"]:
        cached = positions[..., None] - (seen.cumsum(-1) - 1)
        return torch.cat([cached, torch.zeros_like(itself, dtype=cached.dtype)], -1)

    mask = attention_mask(hf, torch.cat([seen, itself], -1), behind)
    with _blocks_above(hf.base_model, layer, above):
        said = hf(
            inputs_embeds=resid.to(model.dtype),
            past_key_values=_cache(kv),
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
        ).logits
    return widened(said)


def _cache(kv: KeyValues) -> Cache:
    layers = []
    for keys, values in kv:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        layers.append(layer)
    return Cache(layers=layers)


@contextmanager
def _blocks_above(body: Any, layer: int, above: Above | None):
    blocks, types = body.layers, getattr(body.config, "layer_types", None)
    body.layers = nn.ModuleList(list(blocks)[layer + 1 :])
    if types:  # looked up by a block's place in the list
        body.config.layer_types = types[layer + 1 :] or types
    hooks = []
    if above is not None:
        for k, block in enumerate(body.layers, layer + 1):
            hooks.append(block.register_forward_hook(_edit(k, above)))
    try:
        yield
    finally:
        body.layers = blocks
        if types:
            body.config.layer_types = types
        for hook in hooks:
            hook.remove()


def _edit(layer: int, above: Above):
    # Blocks see queries as positions of a row; a caller sees [query, row, d_model].
    def hook(block, args, out: Tensor) -> Tensor:
        edited = above(layer, rearrange(widened(out), "r q d -> q r d"))
        return rearrange(edited, "q r d -> r q d").to(out.dtype)

    return hook
