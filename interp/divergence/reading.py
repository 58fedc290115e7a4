"""Residual streams of both models at chosen tokens of traces."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.divergence.tokens import N_TOKENS
from interp.engine import HERE, Engine
from interp.layout import batches
from interp.models import Model, inputs_of, left_pad
from interp.pooling import hook_name
from interp.types import Trace

Places = Sequence[tuple[int, int]]
"""Generated tokens, as (trace, place among its generated tokens)."""


def resid_before(
    model: Model, traces: Sequence[Trace], places: Places, engine: Engine = HERE
) -> Float[Tensor, "layer place d_model"]:
    """`resid_post` of every layer at the position that says the token at each place. A batch is a shard."""
    by_trace: dict[int, list[int]] = {}
    for number, (i, _) in enumerate(places):
        by_trace.setdefault(i, []).append(number)
    numbers = list(by_trace)
    rows = batches([len(traces[i].tokens) for i in numbers], N_TOKENS)
    shards = [
        [(traces[i], [places[k][1] for k in by_trace[i]]) for i in (numbers[row] for row in batch)]
        for batch in rows
    ]
    found = torch.zeros(model.n_layers, len(places), model.d_model)
    read = engine.map_shards(partial(_read_batch, model), shards)
    for batch, resid in zip(rows, read, strict=True):
        found[:, [k for row in batch for k in by_trace[numbers[row]]]] = resid
    return found


@torch.no_grad()
def _read_batch(
    model: Model, wanted: Sequence[tuple[Trace, Sequence[int]]]
) -> Float[Tensor, "layer place d_model"]:
    pad = model.tokenizer.pad_token_id or 0
    ids, real = left_pad([trace.tokens for trace, _ in wanted], pad, model.device)
    at = [
        (row, ids.shape[1] - len(trace.tokens) + trace.n_prompt + place - 1)
        for row, (trace, places) in enumerate(wanted)
        for place in places
    ]
    row, pos = (torch.tensor(column) for column in zip(*at, strict=True))
    found = torch.zeros(model.n_layers, len(at), model.d_model)

    def keep(layer: int):
        def hook(resid: Tensor, hook=None) -> None:
            found[layer] = resid[row, pos].float().cpu()

        return hook

    hooks = [(hook_name("resid_post", n), keep(n)) for n in range(model.n_layers)]
    with model.bridge.hooks(fwd_hooks=hooks):
        model.hf.base_model(**inputs_of(ids, real), use_cache=False)
    return found
