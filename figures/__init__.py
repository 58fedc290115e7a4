"""One function a figure: a results dict in (`results.json` of a run), a plotly figure out."""

from figures.catalog import FIGURES
from figures.cosine import model_cosine
from figures.dose import dose_response
from figures.effects import causal_effects
from figures.export import FORMATS, NoBrowser, export
from figures.frequency import behavior_frequency
from figures.specificity import specificity_heatmap
from figures.sweep import layer_sweep

__all__ = [
    "FIGURES",
    "FORMATS",
    "NoBrowser",
    "behavior_frequency",
    "causal_effects",
    "dose_response",
    "export",
    "layer_sweep",
    "model_cosine",
    "specificity_heatmap",
]
