"""Every figure by name."""

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from figures.cosine import model_cosine
from figures.dose import dose_response
from figures.effects import causal_effects
from figures.frequency import behavior_frequency
from figures.specificity import specificity_heatmap
from figures.sweep import layer_sweep

FIGURES: dict[str, Callable[[Mapping[str, Any]], go.Figure]] = {
    "causal_effects": causal_effects,
    "layer_sweep": layer_sweep,
    "dose_response": dose_response,
    "specificity_heatmap": specificity_heatmap,
    "behavior_frequency": behavior_frequency,
    "model_cosine": model_cosine,
}
"""Every figure by name, in the order in which a report shows them."""
