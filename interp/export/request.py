"""What is exported: a direction, what is done with it, how strongly, and where."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.directions import Direction
from interp.errors import UserError
from interp.interventions import Ablate, Add, At, Intervention
from interp.models import Model

Operation = Literal["add", "ablate"]


@dataclass(frozen=True)
class Export:
    """One edit of the residual stream, to be carried out by other software.

    `add` adds the direction at its layer with a length of `dose` x its unit; `ablate` removes it from every
    layer. `at` says where: every token, or only those whose next token may start a segment.
    """

    direction: Direction
    dose: float = 0.3
    operation: Operation = "add"
    at: At = "all"

    @property
    def unit(self) -> Float[Tensor, " d_model"]:
        """The direction with length 1."""
        vector = self.direction.vector.detach().float().cpu()
        return vector / vector.norm()

    @property
    def shift(self) -> Float[Tensor, " d_model"]:
        """What `add` adds."""
        return self.unit * self.direction.unit * self.dose

    def watched(self, model: Model) -> int:
        """The layer whose output shows the whole edit: its own, or the last for an ablation."""
        return self.direction.layer if self.operation == "add" else model.n_layers - 1

    def edits(self, model: Model, every_write: bool = False) -> tuple[Intervention, ...]:
        """The same edit as hooks of this package, which are the reference.

        An ablation acts on the output of every block; with `every_write`, also on the embedding and between
        attention and MLP, which leaves nothing for any component to read.
        """
        vector = self.direction.vector.to(model.device)
        if self.operation == "add":
            return (Add(vector, self.direction.layer, self.dose, self.direction.unit, self.at),)
        layers = tuple(range(model.n_layers))
        edits = [Ablate(vector, layers, self.at)]
        if every_write:
            edits.append(Ablate(vector, (0,), self.at, "resid_pre"))
            edits.append(Ablate(vector, layers, self.at, "resid_mid"))
        return tuple(edits)

    def check(self, model: Model) -> None:
        """Raise `UserError` unless the edit makes sense in this model."""
        d = self.direction
        d.check_model(model)
        model.check_layer(d.layer)
        length = float(self.shift.norm()) if self.operation == "add" else float(self.unit.norm())
        if not (torch.isfinite(torch.tensor(length)) and length > 0):
            raise UserError(
                f"The direction for {d.behavior} at dose {self.dose} has length {length}: expected a finite "
                "direction that is not zero, and a dose other than 0."
            )

    def describe(self) -> dict:
        """The request as JSON: what was asked, of which direction, from which model."""
        d = self.direction
        return {
            "operation": self.operation,
            "at": self.at,
            "dose": self.dose if self.operation == "add" else None,
            "length": float(self.shift.norm()) if self.operation == "add" else None,
            "behavior": d.behavior,
            "layer": d.layer,
            "unit": d.unit,
            "fitted_in": {"model": d.model, "fingerprint": d.model_fingerprint},
            "tokenizer_hash": d.tokenizer_hash,
        }
