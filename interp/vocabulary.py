"""The tokens that both models of a pair know."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.models import Model

UNSAID = -1e4
"""Logit of a token that one of two models does not know: its probability is 0 in any format of numbers."""
MIN_SHARED = 0.5
"""Share of the smaller vocabulary that has to be shared for two models to be comparable."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids that mean the same token in both models; `ids` is None where that is every id.

    `base_only` and `thinking_only` are the numbers of tokens in one vocabulary alone.
    """

    size: int
    ids: Int[Tensor, " shared"] | None = None
    base_only: int = 0
    thinking_only: int = 0

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(() if self.ids is None else self.ids.tolist())

    def n_known(self, tokens: Sequence[int]) -> int:
        """How many tokens there are before the first that is not shared."""
        if self.ids is None:
            return len(tokens)
        return next((n for n, t in enumerate(tokens) if t not in self._known), len(tokens))

    def sayable(self, logits: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n d_vocab"]:
        """Logits under which no token is said that is not shared."""
        if self.ids is None:
            return logits
        found = torch.full_like(logits, UNSAID)
        ids = self.ids.to(logits.device)
        found[..., ids] = logits[..., ids]
        return found

    def shared_logits(self, logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n shared"]:
        """The columns of shared tokens."""
        return logits if self.ids is None else logits[:, self.ids.to(logits.device)]

    def ids_of(self, columns: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Token ids from places among the shared tokens."""
        return columns if self.ids is None else self.ids[columns]


def shared_vocabulary(base: Model, thinking: Model) -> Vocabulary:
    """The ids at which both tokenizers have the same token, or that end texts of both models, by any name.

    Raises `UserError` where that is less than half of the smaller vocabulary, or where tokens of one
    name have two ids.
    """
    ours, theirs = base.tokenizer.get_vocab(), thinking.tokenizer.get_vocab()
    widths = [m.bridge.cfg.d_vocab for m in (base, thinking)]
    if ours == theirs and widths[0] == widths[1]:
        return Vocabulary(widths[0])
    both = ours.keys() & theirs.keys()
    same = sorted(ours[token] for token in both if ours[token] == theirs[token])
    same = [i for i in same if i < min(widths)]
    if len(same) < len(both) or len(same) < MIN_SHARED * min(len(ours), len(theirs)):
        raise UserError(
            f"The vocabularies of {base.name} ({len(ours)} tokens) and {thinking.name} ({len(theirs)}) "
            f"share {len(same)} ids with the same token: expected vocabularies that differ in added "
            "tokens only; choose a thinking model trained from this base."
        )
    same = sorted({*same, *(set(base.ends) & set(thinking.ends))})
    return Vocabulary(len(same), torch.tensor(same), len(ours) - len(same), len(theirs) - len(same))
