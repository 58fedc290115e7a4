"""A model on trial: its traces, and the places in them at which each behavior is a choice."""

from collections.abc import Sequence, Set

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import ActivationStore
from interp.causal import ArmResult, count
from interp.config import Config, Material
from interp.decisions import DecisionPoints, first_token_shares
from interp.models import Model
from interp.pooling import hook_name
from interp.readings import choices, layer_units
from interp.types import Segment, Trace


class Subject:
    """What a causal test of one model stands on; `store` holds its fit activations, of `fit_segments`.

    `units[layer]` and `centers` [layer, d_model] are mean norm and mean of the residual stream at `before`
    positions, `select` and `report` decision points, `after[behavior]` the kinds of segment after which a
    behavior is a choice, and `select_at` and `report_at` [behavior, point] where that is so.
    """

    def __init__(
        self, model: Model, name: str, config: Config, material: Material, store: ActivationStore
    ) -> None:
        self.model, self.config, self.store = model, config, store
        self.behaviors = list(config.behaviors or ())
        self.units = layer_units(store, model.n_layers)
        befores = [
            torch.from_numpy(store[hook_name("resid_post", layer), "before"]).mean(0)
            for layer in range(model.n_layers)
        ]
        self.centers: Float[Tensor, "layer d_model"] = torch.stack(befores).to(model.device)
        self.clean_traces: list[Trace] = material.traces[name, "report"]
        # Both models' traces: a base that never shows a behavior cannot tell how one begins.
        traces, segments = material.pooled("fit")
        self._shares = first_token_shares(
            traces, segments, self.behaviors, model.bridge.cfg.d_vocab
        )
        self.fit_segments = segments
        self.select, self.report = (
            self.points(material.traces[name, split], material.segments[name, split])
            for split in ("select", "report")
        )
        # Where this model never comes to a place of choice, any place is as good.
        own = {str(kind) for points in (self.select, self.report) for kind in points.previous}
        self.after: dict[str, Set[str]] = {
            b: kinds if all(kinds & {*p.previous} for p in (self.select, self.report)) else own
            for b, kinds in choices(store, self.behaviors).items()
        }
        self.select_at, self.report_at = (self.choices_at(p) for p in (self.select, self.report))

    def points(
        self, traces: Sequence[Trace], segments: Sequence[Sequence[Segment]]
    ) -> DecisionPoints:
        """A sample of places in these traces at which a segment may start."""
        n, seed = self.config.n_points, self.config.seed
        return DecisionPoints(self.model, traces, segments, self._shares, n, seed)

    def choices_at(self, points: DecisionPoints) -> Bool[np.ndarray, "behavior point"]:
        """At which of the points each behavior is a choice."""
        return np.array([np.isin(points.previous, list(kinds)) for kinds in self.after.values()])

    def count(self, traces: Sequence[Trace]) -> ArmResult:
        """What these traces of the model show."""
        return count(self.model, traces, self.config.annotator, self.after)
