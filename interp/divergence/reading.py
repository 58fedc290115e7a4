"""Residual streams of both models at chosen tokens of traces."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import hook_name
from interp.divergence.tokens import batches
from interp.models import Model, left_pad, positions_of
from interp.types import Trace

Places = Sequence[tuple[int, int]]
"""Generated tokens, as (trace, place among its generated tokens)."""


@torch.no_grad()
def resid_before(
    model: Model, traces: Sequence[Trace], places: Places
) -> Float[Tensor, "layer place d_model"]:
    """`resid_post` of every layer at the position that says the token at each place."""
    by_trace: dict[int, list[int]] = {}
    for number, (i, _) in enumerate(places):
        by_trace.setdefault(i, []).append(number)
    numbers = list(by_trace)
    found = torch.zeros(model.n_layers, len(places), model.d_model)
    for rows in batches([len(traces[i].tokens) for i in numbers]):
        part = [traces[numbers[row]] for row in rows]
        pad = model.tokenizer.pad_token_id or 0
        ids, real = left_pad([t.tokens for t in part], pad, model.device)
        at = [
            (row, ids.shape[1] - len(t.tokens) + t.n_prompt + places[k][1] - 1, k)
            for row, (t, r) in enumerate(zip(part, rows, strict=True))
            for k in by_trace[numbers[r]]
        ]
        row, pos, place = (torch.tensor(column) for column in zip(*at, strict=True))

        def keep(layer: int, row=row, pos=pos, place=place):
            def hook(resid: Tensor, hook=None) -> None:
                found[layer, place] = resid[row, pos].float().cpu()

            return hook

        hooks = [(hook_name("resid_post", n), keep(n)) for n in range(model.n_layers)]
        with model.bridge.hooks(fwd_hooks=hooks):
            model.hf.base_model(
                input_ids=ids,
                attention_mask=real.long(),
                position_ids=positions_of(real),
                use_cache=False,
            )
    return found
