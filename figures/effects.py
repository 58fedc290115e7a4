"""The evidence of a verdict: what adding and what removing a direction does."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._parts import behavior_names, error_bars, is_alone, nothing, part


def causal_effects(results: Mapping[str, Any]) -> go.Figure:
    """Change of each behavior's rate: direction added (left) and ablated (right).

    Dots are effects in full generations of the report split, in percentage points, with 95%
    intervals over problems. Diamonds are specific effects, beyond the largest change of another
    behavior the same way, on the problems that the nulls ran on; the gray bar reaches to the 95%
    quantile of the null directions' specific effects, so a diamond beyond it beats the null.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    names = behavior_names(results)
    if not names:
        return nothing("No behavior was measured.")
    labels = [theme.label(name) for name in names]
    fig = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=["Added to the model", "Ablated in the model"]
        if is_alone(results)
        else ["Added to the base model", "Ablated in the thinking model"],
    )
    for col, (kind, sign) in enumerate((("addition", 1), ("ablation", -1)), 1):
        found = [part(results["behaviors"][name], kind) for name in names]
        values = [_points(part(one, "effect")) for one in found]
        intervals = [[_points(end) for end in part(one, "ci") or (None, None)] for one in found]
        fig.add_trace(
            go.Bar(
                x=[_points(part(one, "specific_null_q95"), sign) for one in found],
                y=labels,
                orientation="h",
                width=0.7,
                marker={"color": theme.NULL},
                name="null directions' specific effects, up to their 95% quantile",
                showlegend=col == 1,
                hovertemplate="null quantile %{x:+.1f} points<extra></extra>",
            ),
            row=1,
            col=col,
        )
        fig.add_trace(
            go.Scatter(
                x=values,
                y=labels,
                error_x={**error_bars(values, intervals), "color": theme.INK},
                mode="markers",
                marker={"size": 10, "color": [theme.color(name) for name in names]},
                showlegend=False,
                hovertemplate="%{y}: %{x:+.1f} points<extra></extra>",
            ),
            row=1,
            col=col,
        )
        fig.add_trace(
            go.Scatter(
                x=[_points(part(one, "specific_effect"), sign) for one in found],
                y=labels,
                mode="markers",
                marker={
                    "size": 10,
                    "symbol": "diamond-open",
                    "color": theme.INK,
                    "line": {"width": 2},
                },
                name="specific effect, beyond any other behavior's",
                showlegend=col == 1,
                hovertemplate="%{y}: specific %{x:+.1f} points<extra></extra>",
            ),
            row=1,
            col=col,
        )
    fig.add_vline(x=0, line={"width": 1, "color": theme.INK}, layer="below")
    fig.update_xaxes(title_text="Change of rate (percentage points, 95% CI)")
    fig.update_yaxes(autorange="reversed", showgrid=False, tickcolor="white")
    fig.update_layout(
        template=theme.TEMPLATE,
        width=860,
        height=150 + 44 * len(names),
        margin={"t": 40, "b": 85},
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    fig.update_annotations(font_size=14)
    return fig


def _points(share: float | None, sign: int = 1) -> float | None:
    """A change of share in percentage points."""
    return None if share is None else sign * share * 100
