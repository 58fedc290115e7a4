"""Every figure by name."""

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from figures import _divergence_parts, _hybrid_parts, _parts
from figures.cosine import model_cosine
from figures.divergence import divergence_along_trace, divergence_by_segment
from figures.divergence_explained import explained_divergences
from figures.divergence_layers import layer_curves, patching_factorial
from figures.divergence_patching import patching_heatmap
from figures.divergence_tokens import promoted_tokens
from figures.divergence_weights import weight_changes
from figures.dose import dose_response
from figures.effects import causal_effects
from figures.frequency import behavior_frequency
from figures.hybrid import recovery_by_arm, recovery_by_share
from figures.hybrid_factorial import factorial_heatmap
from figures.hybrid_traces import firing_positions, side_by_side
from figures.specificity import specificity_heatmap
from figures.sweep import layer_sweep

Catalog = dict[str, Callable[[Mapping[str, Any]], go.Figure]]

FIGURES: Catalog = {
    "causal_effects": causal_effects,
    "layer_sweep": layer_sweep,
    "dose_response": dose_response,
    "specificity_heatmap": specificity_heatmap,
    "behavior_frequency": behavior_frequency,
    "model_cosine": model_cosine,
}
"""Every figure of the main job by name, in the order in which a report shows them."""

HYBRID_FIGURES: Catalog = {
    "recovery_by_arm": recovery_by_arm,
    "recovery_by_share": recovery_by_share,
    "firing_positions": firing_positions,
    "side_by_side": side_by_side,
    "factorial_heatmap": factorial_heatmap,
}
"""Every figure of a hybrid run by name, in the order in which a report shows them."""

DIVERGENCE_FIGURES: Catalog = {
    "divergence_along_trace": divergence_along_trace,
    "divergence_by_segment": divergence_by_segment,
    "promoted_tokens": promoted_tokens,
    "layer_curves": layer_curves,
    "patching_heatmap": patching_heatmap,
    "patching_factorial": patching_factorial,
    "explained_divergences": explained_divergences,
    "weight_changes": weight_changes,
}
"""Every figure of a divergence by name, in the order in which a report shows them."""

_BY_SCHEMA = {
    _parts.SCHEMA: FIGURES,
    _hybrid_parts.SCHEMA: HYBRID_FIGURES,
    _divergence_parts.SCHEMA: DIVERGENCE_FIGURES,
}


def figures_of(results: Mapping[str, Any]) -> Catalog:
    """The figures that are drawn from results of this schema.

    Raises:
        ValueError: when the results are of no known schema.
    """
    schema = results.get("schema")
    if schema not in _BY_SCHEMA:
        known = " or ".join(repr(name) for name in _BY_SCHEMA)
        raise ValueError(
            f"These results have schema {schema!r}, expected {known}: pass the dict read from the "
            "results.json, hybrid.json or divergence.json of a run."
        )
    return _BY_SCHEMA[schema]
