"""One function a figure: the dict of a run in (`results.json` and the like), a plotly figure out."""

from figures.catalog import DIVERGENCE_FIGURES, FIGURES, HYBRID_FIGURES, figures_of
from figures.cosine import model_cosine
from figures.divergence import divergence_along_trace, divergence_by_segment
from figures.divergence_explained import explained_divergences
from figures.divergence_layers import layer_curves, patching_factorial
from figures.divergence_patching import patching_heatmap
from figures.divergence_tokens import promoted_tokens
from figures.divergence_weights import weight_changes
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
    "DIVERGENCE_FIGURES",
    "FIGURES",
    "FORMATS",
    "HYBRID_FIGURES",
    "NoBrowser",
    "behavior_frequency",
    "causal_effects",
    "divergence_along_trace",
    "divergence_by_segment",
    "dose_response",
    "explained_divergences",
    "export",
    "factorial_heatmap",
    "figures_of",
    "firing_positions",
    "layer_curves",
    "layer_sweep",
    "model_cosine",
    "patching_factorial",
    "patching_heatmap",
    "promoted_tokens",
    "recovery_by_arm",
    "recovery_by_share",
    "side_by_side",
    "specificity_heatmap",
    "weight_changes",
]
