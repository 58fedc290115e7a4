"""Whether the two models write a behavior along the same direction."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._grid import grid
from figures._parts import behavior_names, curve, is_alone, layer_axis, nothing, shared_range


def model_cosine(results: Mapping[str, Any]) -> go.Figure:
    """Cosine between the base and the thinking model's direction by layer, one panel a behavior.

    Bars are 95% intervals over problems.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    names = behavior_names(results)
    if not names:
        return nothing("No behavior was measured.")
    if is_alone(results):
        return nothing("One model alone: there is no other direction to compare with.")
    fig, cells = grid(names, "Layer", "Cosine (95% CI)")
    rows = {name: results["behaviors"][name].get("cosine") or [] for name in names}
    for name, (row, col) in cells.items():
        fig.add_trace(curve(rows[name], "layer", "value", "ci", name, ".3f"), row=row, col=col)
    every = [point for points in rows.values() for point in points]
    fig.update_yaxes(range=shared_range(every, ("value", "ci"), (0.0, 1.0)))
    fig.update_xaxes(**layer_axis({point["layer"] for point in every}))
    fig.add_hline(y=0, line={"width": 1, "color": theme.INK})
    fig.update_layout(height=fig.layout.height - 30, margin={"b": 55})  # pyright: ignore[reportAttributeAccessIssue]
    return fig
