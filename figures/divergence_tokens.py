"""Which tokens the thinking model promotes over those of the base."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._divergence_parts import MISSING, check, entries, lay_out, measured, number, visible
from figures._parts import GRAY, Number, nothing, safe

_LONGEST = 18
"""Characters of a token that are shown; the mouse shows all."""
_COLUMNS = (
    ("js", "Mean JS<br>(nats)", ".3f"),
    ("median_rank", "Median rank<br>in base", ",.1f"),
    ("probability_base", "Probability,<br>base", ".3f"),
    ("probability_thinking", "Probability,<br>thinking", ".3f"),
)


def promoted_tokens(results: Mapping[str, Any]) -> go.Figure:
    """The commonest pairs at disagreements: base token, thinking token, count and what is known.

    White space is shown by signs. Rank and probabilities are those of the thinking model's token.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    found = entries(results, "promoted")
    if not found:
        return nothing("No promoted token was found.")
    rows = list(range(len(found)))
    fig = make_subplots(
        rows=1,
        cols=3,
        shared_yaxes=True,
        column_widths=[0.35, 0.25, 0.4],
        horizontal_spacing=0.02,
    )
    mono = {"family": theme.MONO, "size": 13}
    for key, position, x in (("base_token", "middle left", -0.07), ("token", "middle right", 0.07)):
        texts = [one.get(key) for one in found]
        fig.add_trace(
            go.Scatter(
                x=[x] * len(rows),
                y=rows,
                text=[MISSING if text is None else visible(text, _LONGEST) for text in texts],
                hovertext=[MISSING if text is None else visible(text) for text in texts],
                mode="text",
                textposition=position,
                textfont={**mono, "color": GRAY if key == "base_token" else theme.INK},
                hoverinfo="text",
                name=key,
                showlegend=False,
            ),
            row=1,
            col=1,
        )
    fig.add_trace(
        go.Scatter(
            x=[0] * len(rows),
            y=rows,
            text=["→"] * len(rows),
            mode="text",
            textfont={"color": GRAY},
            hoverinfo="skip",
            name="arrow",
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    counts = [one.get("count") for one in found]
    most = max(measured(counts), default=0) or 1
    fig.add_trace(
        go.Bar(
            x=counts,
            y=rows,
            orientation="h",
            width=0.7,
            marker={"color": theme.SOURCE_COLORS["hybrid"]},
            name="count",
            showlegend=False,
            hovertemplate="%{x} disagreements<extra></extra>",
        ),
        row=1,
        col=2,
    )
    fig.add_trace(
        go.Scatter(
            x=[(count or 0) + 0.02 * most for count in counts],
            y=rows,
            text=[number(count) for count in counts],
            mode="text",
            textposition="middle right",
            hoverinfo="skip",
            name="count in words",
            showlegend=False,
        ),
        row=1,
        col=2,
    )
    heads = [(1, -0.07, "Base token", "right"), (1, 0.07, "Thinking token", "left")]
    heads += [(2, 0, "Disagreements (tokens)", "left")]
    for i, (key, head, spec) in enumerate(_COLUMNS):
        heads.append((3, i, head, "center"))
        fig.add_trace(
            go.Scatter(
                x=[i] * len(rows),
                y=rows,
                text=[_value(one.get(key), spec) for one in found],
                mode="text",
                hoverinfo="skip",
                name=key,
                showlegend=False,
            ),
            row=1,
            col=3,
        )
    for col, x, text, anchor in heads:
        fig.add_annotation(
            text=text,
            x=x,
            y=1,
            yref="paper",
            xanchor=anchor,
            yanchor="bottom",
            yshift=4,
            align=anchor,
            showarrow=False,
            xref=f"x{col}" if col > 1 else "x",
        )
    bare = {"showgrid": False, "showline": False, "showticklabels": False, "ticks": ""}
    fig.update_yaxes(range=[len(rows) - 0.4, -0.6], **bare)
    fig.update_xaxes(**bare)
    fig.update_xaxes(range=[-1, 1], col=1)
    fig.update_xaxes(range=[0, 1.25 * most], col=2)
    fig.update_xaxes(range=[-0.5, len(_COLUMNS) - 0.5], col=3)
    for row in rows[1:]:
        fig.add_shape(
            type="line",
            xref="paper",
            x0=0,
            x1=1,
            y0=row - 0.5,
            y1=row - 0.5,
            line={"color": "#EEEEEE", "width": 1},
            layer="below",
        )
    lay_out(fig, 960, 85 + 25 * len(rows), bottom=20, top=60)
    fig.update_layout(margin={"l": 20})
    return fig


def _value(value: Number, spec: str) -> str:
    """A number of a column; one that is not 0 but would be rounded to it keeps its size."""
    if spec == ".3f" and value and 0 < value < 0.0005:
        return safe("<0.001")
    return number(value, spec)
