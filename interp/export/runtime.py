"""What runs an export, and what is read of it: logits and the edited residual stream, pass by pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """What one forward pass said, and the residual stream after the block under watch."""

    logits: Float[Tensor, "pos d_vocab"]
    resid: Float[Tensor, "pos d_model"]


@runtime_checkable
class Runtime(Protocol):
    """A model that reads a prompt, then goes on token by token over its cache."""

    name: str
    version: str

    def prompt(self, tokens: Sequence[int]) -> Pass:
        """The pass over a prompt, over an empty cache."""
        ...

    def step(self, token: int) -> Pass:
        """The pass over one more token."""
        ...

    def complete(self, tokens: Sequence[int], n: int, ends: Sequence[int]) -> list[int]:
        """Greedy tokens until one of `ends`, `n` at most, by the runtime's own way of generating."""
        ...


class Unproven(Exception):
    """The runtime of a format is not to be had here; the message says why."""
