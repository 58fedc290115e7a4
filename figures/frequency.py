"""How often each model shows each behavior."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._parts import behavior_names, error_bars, is_alone, nothing, part

_OFFSET = {"base": 0.14, "thinking": -0.14}
"""Rows are one unit apart; the two models sit beside each other so that intervals never overlap."""


def behavior_frequency(results: Mapping[str, Any]) -> go.Figure:
    """Share of segments with each behavior in sampled traces, base and thinking model.

    Bars are 95% intervals over problems.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    names = behavior_names(results)
    if not names:
        return nothing("No behavior was measured.")
    fig, alone = go.Figure(), is_alone(results)
    rows = [float(len(names) - 1 - i) for i in range(len(names))]
    for model, color, fill in (
        ("base", theme.BASE, "white"),
        ("thinking", theme.THINKING, theme.THINKING),
    )[: 1 if alone else 2]:
        found = [part(results["behaviors"][name], "frequency", model) for name in names]
        values = [part(one, "value") for one in found]
        fig.add_trace(
            go.Scatter(
                x=values,
                y=[row + _OFFSET[model] for row in rows],
                error_x={
                    **error_bars(values, [part(one, "ci") for one in found]),
                    "color": color,
                },
                mode="markers",
                marker={
                    "color": fill,
                    "size": 10,
                    "line": {"width": 2, "color": color},
                    "opacity": 1,
                },
                name="the model" if alone else f"{model} model",
                text=[theme.label(name) for name in names],
                hovertemplate="%{text}: %{x:.1%}",
            )
        )
    fig.update_xaxes(title_text="Share of segments (95% CI)", tickformat=".0%", rangemode="tozero")
    fig.update_yaxes(
        tickvals=rows,
        ticktext=[theme.label(name) for name in names],
        range=[-0.6, len(names) - 0.4],
        showgrid=False,
        tickcolor="white",
    )
    fig.update_layout(
        template=theme.TEMPLATE,
        width=680,
        height=130 + 48 * len(names),
        margin={"t": 40, "b": 60},
        legend={"x": 0, "y": 1, "yanchor": "bottom"},
    )
    return fig
