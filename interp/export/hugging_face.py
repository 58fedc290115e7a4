"""A model in plain transformers, as a runtime."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

from interp.export.runtime import Pass


class HuggingFace:
    """A causal language model; watches the output of block `layer`, as what comes next receives it.

    `forward` is the call that runs it: the model itself, or what edits it on the way.
    """

    name = "transformers"
    version = transformers.__version__

    def __init__(self, model: Any, layer: int, forward: Callable[..., Any] | None = None) -> None:
        self.model, self._forward = model, forward or model
        self._resid: list[torch.Tensor] = []
        self._cache = None
        blocks = model.model.layers
        after = blocks[layer + 1] if layer + 1 < len(blocks) else model.model.norm
        after.register_forward_pre_hook(self._keep, with_kwargs=True)

    def prompt(self, tokens: Sequence[int]) -> Pass:
        """The pass over a text from its beginning, over an empty cache."""
        self._cache = None
        return self._read(tokens)

    def step(self, token: int) -> Pass:
        """The pass over one more token."""
        return self._read([token])

    @torch.no_grad()
    def complete(self, tokens: Sequence[int], n: int, ends: Sequence[int]) -> list[int]:
        """Greedy tokens until one of `ends`, `n` at most, by `generate`."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        greedy = GenerationConfig(max_new_tokens=n, eos_token_id=list(ends), pad_token_id=ends[0])
        made = self.model.generate(ids, greedy, attention_mask=torch.ones_like(ids))
        return made[0, len(tokens) :].tolist()

    @torch.no_grad()
    def _read(self, tokens: Sequence[int]) -> Pass:
        ids = torch.tensor([list(tokens)], device=self.model.device)
        found = self._forward(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self._cache = found.past_key_values
        return Pass(found.logits[0].float().cpu(), self._resid[0][0].float().cpu())

    def _keep(self, module: Any, args: tuple, kwargs: dict) -> None:
        self._resid = [args[0] if args else kwargs["hidden_states"]]
