"""The reference of every proof: the edit as this package's own hooks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from interp.export.runtime import Pass
from interp.interventions import Intervention, intervene
from interp.models import Frame, Model
from interp.pooling import hook_name
from interp.traces import decode


class Reference:
    """`model` with whatever interventions are active, one text at a time over its cache."""

    name, version = "whenlens", ""

    def __init__(self, model: Model, resid: list[Tensor]) -> None:
        self._model, self._resid = model, resid
        self._cache, self._n = None, 0

    def prompt(self, tokens: Sequence[int]) -> Pass:
        """The pass over a prompt, whose last token alone is a possible start."""
        self._cache, self._n = None, 0
        starts = torch.zeros(1, len(tokens), dtype=torch.bool)
        starts[0, -1] = True
        return self._read(tokens, starts)

    def step(self, token: int) -> Pass:
        """The pass over one more token."""
        return self._read([token], self._model.boundary[[token]][None])

    def complete(self, tokens: Sequence[int], n: int, ends: Sequence[int]) -> list[int]:
        """Greedy tokens, at most `n`, by the loop that writes traces."""
        return decode(self._model, [list(tokens)], None, n)[0]

    @torch.no_grad()
    def _read(self, tokens: Sequence[int], starts: Tensor) -> Pass:
        device = self._model.device
        ids = torch.tensor([list(tokens)], device=device)
        real = torch.ones_like(ids, dtype=torch.bool)
        frame = Frame(torch.zeros(1, dtype=torch.long, device=device), real, starts.to(device))
        positions = torch.arange(self._n, self._n + len(tokens), device=device)[None]
        self._n += len(tokens)
        with self._model.framed(frame):
            read = self._model.hf(
                input_ids=ids,
                past_key_values=self._cache,
                attention_mask=torch.ones(1, self._n, dtype=torch.long, device=device),
                position_ids=positions,
                use_cache=True,
            )
        self._cache = read.past_key_values
        return Pass(read.logits[0].float().cpu(), self._resid[0][0].float().cpu())


@contextmanager
def reference(model: Model, edits: Sequence[Intervention], layer: int) -> Iterator[Reference]:
    """The model under these edits, with the output of block `layer` under watch."""
    resid: list[Tensor] = []

    def keep(value: Tensor, hook=None) -> None:
        resid[:] = [value]

    with intervene(model, *edits):
        with model.bridge.hooks(fwd_hooks=[(hook_name("resid_post", layer), keep)]):
            yield Reference(model, resid)
