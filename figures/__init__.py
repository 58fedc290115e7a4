"""One function a figure: the dict of a run in (`results.json`, `hybrid.json`), a plotly figure out."""

from figures.catalog import FIGURES, HYBRID_FIGURES, figures_of
from figures.cosine import model_cosine
from figures.dose import dose_response
from figures.effects import causal_effects
from figures.export import FORMATS, NoBrowser, export
from figures.frequency import behavior_frequency
from figures.hybrid import recovery_by_arm, recovery_by_share
from figures.hybrid_factorial import factorial_heatmap
from figures.hybrid_traces import firing_positions, side_by_side
from figures.specificity import specificity_heatmap
from figures.sweep import layer_sweep

__all__ = [
    "FIGURES",
    "FORMATS",
    "HYBRID_FIGURES",
    "NoBrowser",
    "behavior_frequency",
    "causal_effects",
    "dose_response",
    "export",
    "factorial_heatmap",
    "figures_of",
    "firing_positions",
    "layer_sweep",
    "model_cosine",
    "recovery_by_arm",
    "recovery_by_share",
    "side_by_side",
    "specificity_heatmap",
]
