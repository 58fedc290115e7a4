"""What every use of a direction does at decision points: what selection goes by, for nulls as well."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.causal import DOSES, effects, over_choices, sizes
from interp.decisions import DecisionPoints
from interp.engine import HERE, Engine

DIRECTIONS_PER_SHARD = 8

Asked = tuple[Float[Tensor, "_direction reading tried d_model"], float | None]
"""Directions, and how much ablations of them change (None: as much as a reset takes)."""
Scanned = tuple[
    Float[np.ndarray, "_direction reading tried use behavior"],
    Float[Tensor, "_direction reading tried use"],
]
"""Mean effects where each behavior is a choice, and the amounts of the edits."""


@dataclass(frozen=True)
class Scan:
    """The places and the edits: additions in `units`, or ablations to `means`; `at` says what is a choice.

    `layers` are those in which edits are tried; `units` and `means` have an entry for every layer of the model.
    """

    points: DecisionPoints
    layers: Sequence[int]
    units: Sequence[float]
    means: Float[Tensor, "layer d_model"] | None
    at: Bool[np.ndarray, "behavior point"]

    def effects(
        self, vectors: Float[Tensor, "direction reading tried d_model"], dose: float | None = None
    ) -> tuple[
        Float[np.ndarray, "direction reading tried use behavior point"],
        Float[Tensor, "direction reading tried use"],
    ]:
        """Change of every behavior's probability at the points for every use, and amounts.

        Additions are scored at every one of `DOSES`. Ablations reset their component, or change as
        much as `dose` says.
        """
        vectors = vectors.to(self.points.model.device)
        shape = (*vectors.shape[:3], 1)
        if self.means is None:
            units = torch.tensor([self.units[layer] for layer in self.layers])
            lengths = torch.tensor(DOSES) * units[:, None]
            amounts = lengths.expand(*shape[:2], -1, -1)
        elif dose is None:
            amounts = torch.ones(shape)
        else:
            found = sizes(self.points, self.layers, vectors, self.units, self.means)
            amounts = dose / found[..., None]
        amounts = amounts.to(vectors)
        return effects(self.points, self.layers, vectors, amounts, self.means), amounts

    def shard(self, asked: Asked) -> Scanned:
        """Mean effects of some directions."""
        found, amounts = self.effects(*asked)
        return over_choices(found, self.at), amounts

    def every(
        self,
        asked: Sequence[Asked],
        engine: Engine = HERE,
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[Scanned]:
        """`shard` of many directions, a few at a time."""
        parts = [(v.split(DIRECTIONS_PER_SHARD), dose) for v, dose in asked]
        made = engine.map_shards(self.shard, [(v, dose) for split, dose in parts for v in split])
        scanned = []
        for split, _ in parts:
            found, amounts = [], []
            for part, (change, used) in zip(split, islice(made, len(split)), strict=True):
                found.append(change)
                amounts.append(used)
                advance(len(part))
            scanned.append((np.concatenate(found), torch.cat(amounts)))
        return scanned
