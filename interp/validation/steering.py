"""Directions to add, at one layer or several, to score at decision points and to generate with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.causal import EDITS_PER_BATCH, generate_under
from interp.decisions import DecisionPoints
from interp.interventions import Add, Audit
from interp.models import Model
from interp.types import Problem, Trace

ROWS_PER_BATCH = 1024


@dataclass(frozen=True)
class Steering:
    """Directions at the outputs of `layers` (ascending), so long that the dose is 1.

    A dose of 1 makes the vector of the layer where it is longest, beside the mean residual norm there
    (`units`), as long as that norm; the other layers keep their ratios to it. `main_layer` is that layer.
    """

    layers: tuple[int, ...]
    vectors: Float[Tensor, "direction layer d_model"]
    main_layer: int

    @classmethod
    def of(
        cls, vectors: Mapping[int, Float[Tensor, " d_model"]], units: Sequence[float]
    ) -> "Steering":
        """One direction from raw vectors by layer."""
        layers = tuple(sorted(vectors))
        sizes = {n: float(vectors[n].double().norm()) / units[n] for n in layers}
        main = max(layers, key=sizes.__getitem__)
        stacked = torch.stack([vectors[n] for n in layers])[None].double()
        return cls(layers, (stacked / sizes[main]).float(), main)

    def lengthen(self, others: Float[Tensor, "direction layer d_model"]) -> "Steering":
        """Other directions, at each layer as long as the first of these."""
        length = self.vectors[0].norm(dim=-1)[None, :, None]
        scaled = others / others.norm(dim=-1, keepdim=True).clamp_min(1e-12) * length
        return replace(self, vectors=scaled.float())

    @property
    def main(self) -> Float[Tensor, "direction d_model"]:
        """The directions at `main_layer`."""
        return self.vectors[:, self.layers.index(self.main_layer)]

    @property
    def negated(self) -> "Steering":
        """The opposite directions."""
        return replace(self, vectors=-self.vectors)

    def edits(self, dose: float) -> list[Add]:
        """The first of the directions at a dose, where a segment may start."""
        return [
            Add(v, layer, float(v.norm()) * dose, 1.0)
            for layer, v in zip(self.layers, self.vectors[0], strict=True)
        ]

    def changes(
        self, points: DecisionPoints, doses: Sequence[float]
    ) -> Float[np.ndarray, "direction dose behavior point"]:
        """Change of every behavior's probability at the points, for every direction and dose."""
        vectors = self.vectors.to(points.resid[0].device)
        amounts = torch.tensor(doses, dtype=vectors.dtype, device=vectors.device)
        edits = (vectors[:, None] * amounts[:, None, None]).flatten(0, 1)
        first, found = self.layers[0], []
        for part in edits.split(EDITS_PER_BATCH):
            by_layer = dict(zip(self.layers, part.unbind(1), strict=True))

            def above(k: int, resid: Tensor, by_layer=by_layer) -> Tensor:
                return resid + by_layer[k][:, None] if k in by_layer else resid

            resid = points.resid[first] + by_layer[first][:, None]
            several = above if len(self.layers) > 1 else None
            found.append(points.probabilities(first, resid, several) - points.clean)
        rows = torch.cat(found).unflatten(0, (len(vectors), len(doses)))
        return rows.transpose(-1, -2).cpu().numpy()

    def traces(
        self,
        model: Model,
        problems: Sequence[Problem],
        doses: Sequence[float],
        grade: Callable[[Problem, str], bool],
        seed: int,
        max_new_tokens: int,
    ) -> tuple[list[list[Trace]], Audit]:
        """Traces under every direction at its dose, on the same problems with the same draws."""
        found, audit, n = [], Audit(), len(problems)
        per_batch = max(1, ROWS_PER_BATCH // n)
        for begin in range(0, len(self.vectors), per_batch):
            part = self.vectors[begin : begin + per_batch]
            dose = torch.tensor(doses[begin : begin + per_batch], dtype=part.dtype)
            edits = [
                Add(
                    v.repeat_interleave(n, 0),
                    layer,
                    (v.norm(dim=-1) * dose).repeat_interleave(n),
                    1.0,
                )
                for layer, v in zip(self.layers, part.unbind(1), strict=True)
            ]
            traces, audit = generate_under(
                model, edits, problems, len(part), grade, seed, max_new_tokens
            )
            found += traces
        return found, audit
