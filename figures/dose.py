"""How strongly a behavior answers to the dose of its direction."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._grid import grid
from figures._parts import (
    behavior_names,
    curve,
    legend_once,
    nothing,
    null_band,
    part,
    ring,
    shared_range,
)


def dose_response(results: Mapping[str, Any]) -> go.Figure:
    """Causal effect against dose at the chosen layer, one panel a behavior, one y axis for all.

    The dose counts mean residual norms; the effect is the change of the behavior's probability at
    decision points of the base model. Bars are 95% intervals over problems, the gray band is the
    null's 5-95% range, a ring marks the dose that the select split chose.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    names = behavior_names(results)
    if not names:
        return nothing("No behavior was measured.")
    fig, cells = grid(names, "Dose (mean residual norms)", "Change of<br>probability (95% CI)")
    rows = {name: results["behaviors"][name].get("dose_response") or [] for name in names}
    for name, (row, col) in cells.items():
        points = rows[name]
        chosen = part(results["behaviors"][name], "dose")
        height = next((p.get("effect") for p in points if p["dose"] == chosen), None)
        fig.add_trace(null_band(points, "dose", 0.1), row=row, col=col)
        fig.add_trace(curve(points, "dose", "effect", "ci", name, "+.3f"), row=row, col=col)
        fig.add_trace(ring(chosen, height, "chosen dose"), row=row, col=col)
    every = [point for points in rows.values() for point in points]
    fig.update_yaxes(range=shared_range(every, ("effect", "ci", "null_q05", "null_q95"), (0.0,)))
    fig.update_xaxes(range=shared_range(every, ("dose",), (0.0,)))
    fig.add_hline(y=0, line={"width": 1, "color": theme.INK})
    legend_once(fig)
    return fig
