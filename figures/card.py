"""Dose and response of one direction, with the window in which it works and the model holds."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._parts import check_schema, nothing
from figures._parts import percent as as_percent

SCHEMA = "whenlens.card/1"


def dose_window(card: Mapping[str, Any]) -> go.Figure:
    """Left, the behavior's rise by dose; right, accuracy and broken traces; the window is shaded.

    The window reaches from the dose at which the fitted Hill curve has the least effect that counts to that
    at which the model collapses, or to the largest where it never does; the dashed line is the dose to deploy.

    Raises:
        ValueError: when `card` is not of the schema that the figures read.
    """
    check_schema(card, SCHEMA, "card.json")
    gate = (card.get("gates") or {}).get("dose_response")
    found = (gate or {}).get("details")
    if not found:
        return nothing("No dose-response was measured.")
    doses, last = [0.0, *found["doses"]], found["doses"][-1]
    fig = make_subplots(1, 2, horizontal_spacing=0.13)
    fig.add_trace(
        go.Scatter(
            x=doses, y=[0.0, *(as_percent(v) for v in found["mean"])], mode="lines+markers",
            line={"color": theme.color(str(card["behavior"])), "width": 2.5},
            name="rise of the behavior's probability",
        ),
        row=1, col=1,
    )  # fmt: skip
    for key, name, ink in (
        ("accuracy", "accuracy", theme.THINKING), ("broken", "traces that loop or never end", "#D55E00"),
    ):  # fmt: skip
        fig.add_trace(
            go.Scatter(
                x=doses, y=[as_percent(v) for v in found[key]], name=name, mode="lines+markers",
                line={"color": ink, "width": 2.5},
            ),
            row=1, col=2,
        )  # fmt: skip
    low, high = found["onset"]["value"], found["collapse"]["value"]
    for axis in ("", "2"):
        if low is not None and low < (high or last):
            fig.add_shape(
                type="rect", x0=low, x1=high or last, y0=0, y1=1, xref=f"x{axis}",
                yref=f"y{axis} domain", fillcolor="#009E73", opacity=0.12, line_width=0,
            )  # fmt: skip
        fig.add_shape(
            type="line", x0=card["dose"], x1=card["dose"], y0=0, y1=1, xref=f"x{axis}",
            yref=f"y{axis} domain", line={"dash": "dash", "color": theme.INK, "width": 1.5},
        )  # fmt: skip
    fig.update_xaxes(title_text="Dose (mean residual norms)", range=[0, last * 1.02])
    fig.update_yaxes(title_text="Rise of probability (points)", col=1)
    fig.update_yaxes(title_text="Share of traces (%)", range=[-2, 102], col=2)
    fig.update_layout(
        template=theme.TEMPLATE, width=980, height=400, margin={"l": 70, "r": 20, "t": 30, "b": 110},
        legend={"orientation": "h", "y": -0.28, "x": 0, "yanchor": "top"},
    )  # fmt: skip
    return fig
