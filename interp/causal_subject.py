"""A model on trial: its traces, and the places in them at which each behavior is a choice."""

from collections.abc import Set

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import ActivationStore, hook_name
from interp.config import Config, Material
from interp.decisions import DecisionPoints, first_token_shares
from interp.models import Model
from interp.readings import choices, layer_units
from interp.types import Trace


class Subject:
    """What a causal test of one model stands on; `store` holds its fit activations.

    `units[layer]` and `centers` [layer, d_model] are mean norm and mean of the residual stream at `before`
    positions, `select` and `report` decision points, `after[behavior]` the kinds of segment after which a
    behavior is a choice, and `select_at` and `report_at` [behavior, point] where that is so.
    """

    def __init__(
        self, model: Model, name: str, config: Config, material: Material, store: ActivationStore
    ) -> None:
        self.model, self.config = model, config
        self.behaviors = list(config.behaviors)
        self.units = layer_units(store, model.n_layers)
        befores = [
            torch.from_numpy(store[hook_name("resid_post", layer), "before"]).mean(0)
            for layer in range(model.n_layers)
        ]
        self.centers: Float[Tensor, "layer d_model"] = torch.stack(befores).to(model.device)
        self.clean_traces: list[Trace] = material.traces[name, "report"]
        # Both models' traces: a base that never shows a behavior cannot tell how one begins.
        traces = material.traces["base", "fit"] + material.traces["thinking", "fit"]
        segments = material.segments["base", "fit"] + material.segments["thinking", "fit"]
        shares = first_token_shares(traces, segments, self.behaviors, model.bridge.cfg.d_vocab)
        self.select, self.report = (
            DecisionPoints(
                model,
                material.traces[name, split],
                material.segments[name, split],
                shares,
                config.n_points,
                config.seed,
            )
            for split in ("select", "report")
        )
        # Where this model never comes to a place of choice, any place is as good.
        own = {str(kind) for points in (self.select, self.report) for kind in points.previous}
        self.after: dict[str, Set[str]] = {
            b: kinds if all(kinds & {*p.previous} for p in (self.select, self.report)) else own
            for b, kinds in choices(store, self.behaviors).items()
        }
        self.select_at, self.report_at = (self._choices_at(p) for p in (self.select, self.report))

    def _choices_at(self, points: DecisionPoints) -> Bool[np.ndarray, "behavior point"]:
        return np.array([np.isin(points.previous, list(kinds)) for kinds in self.after.values()])
