"""Edit the residual stream: add, ablate, mean-ablate, and an audit that the edits fired."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import hook_name
from interp.errors import UserError
from interp.models import Frame, Model

At = Literal["starts", "all"]


def _rowwise(
    values: Float[Tensor, "*row d_model"], frame: Frame
) -> Float[Tensor, "*batch_or_one 1 d_model"]:
    """One vector for all rows, or one for each row of the caller's list."""
    return values if values.ndim == 1 else values[frame.rows][:, None]


@dataclass(frozen=True)
class Add:
    """Activation addition at one layer (Turner et al. 2308.10248).

    `vector` [d_model], or [row, d_model] to give each generated row its own, is rescaled to length
    `dose` x `unit`, where `unit` is the mean norm of the residual stream at that layer, so a dose
    is a share of the residual's length. `dose` may be a tensor [row] as well. `at` says where:
    `starts` edits only tokens whose next token may start a segment, `all` every token.
    """

    vector: Float[Tensor, "*row d_model"]
    layer: int
    dose: float | Float[Tensor, " row"]
    unit: float
    at: At = "starts"
    site: str = "resid_post"

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer edited."""
        return (self.layer,)

    def edit(
        self, resid: Float[Tensor, "batch pos d_model"], frame: Frame, layer: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream with the vector added everywhere."""
        length = self.vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        dose = self.dose[:, None] if isinstance(self.dose, Tensor) else self.dose
        scaled = (self.vector / length * self.unit * dose).to(resid)
        return resid + _rowwise(scaled, frame)


@dataclass(frozen=True)
class Ablate:
    """Directional ablation, x - (x . v) v for unit v (Arditi et al. 2406.11717, eq. 4).

    With `toward`, the component is set to that value instead of zero: mean ablation. `vector` is
    [d_model] or [row, d_model]; `active` [layer, row] switches rows off at some layers, so that
    rows of one batch can be ablated at different layers.
    """

    vector: Float[Tensor, "*row d_model"]
    layers: tuple[int, ...]
    toward: Float[Tensor, "..."] | None = None
    at: At = "starts"
    site: str = "resid_post"

    def edit(
        self, resid: Float[Tensor, "batch pos d_model"], frame: Frame, layer: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream with the component along the direction removed or reset."""
        unit = self.vector / self.vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        unit = _rowwise(unit.to(resid), frame)
        component = (resid * unit).sum(-1, keepdim=True)
        return resid - component * unit
