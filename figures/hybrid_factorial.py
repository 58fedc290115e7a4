"""What the arm is made of: every combination of controller, vectors and coefficients on select."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._hybrid_parts import check
from figures._parts import (
    Number,
    cell_text,
    color_bar,
    ink,
    label,
    note,
    nothing,
    outline,
    part,
    percent,
    safe,
)


def factorial_heatmap(results: Mapping[str, Any]) -> go.Figure:
    """Recovery on select of every controller (rows) with every vectors (columns).

    One panel a kind of coefficients, percent of the gap, diverging around 0; the chosen
    combination is outlined; a cell without a recovery is blank.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    entries: Sequence[Mapping[str, Any]] = results.get("factorial") or []
    if not entries:
        return nothing("No combination was measured on select.")
    panels, rows, columns = (
        list(dict.fromkeys(str(one.get(factor)) for one in entries))
        for factor in ("coefficients", "controller", "vectors")
    )
    found = {
        (str(one.get("coefficients")), str(one.get("controller")), str(one.get("vectors"))): one
        for one in entries
    }
    limit = max((abs(v) for one in entries if (v := _cell(one)) is not None), default=0.0) or 100.0
    fig = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.1 / len(panels),
        subplot_titles=[f"Coefficients: {safe(_words(name))}" for name in panels],
    )
    x, y = [label(name).replace(" ", "<br>", 1) for name in columns], [label(n) for n in rows]
    chosen = tuple(
        str(part(results.get("chosen"), factor))
        for factor in ("coefficients", "controller", "vectors")
    )
    for col, panel in enumerate(panels, start=1):
        cells = [[found.get((panel, row, column)) for column in columns] for row in rows]
        z = [[_cell(one) for one in row] for row in cells]
        fig.add_trace(
            go.Heatmap(
                z=z,
                x=x,
                y=y,
                coloraxis="coloraxis",
                xgap=2,
                ygap=2,
                customdata=[[percent(part(one, "accuracy")) for one in row] for row in cells],
                hovertemplate="%{y}, %{x}: %{z:+.1f}%, accuracy %{customdata:.1f}%<extra></extra>",
            ),
            row=1,
            col=col,
        )
        texts = [[_number(value) for value in row] for row in z]
        inks = [[ink(value, limit) for value in row] for row in z]
        fig.add_trace(cell_text(x, y, texts, inks), row=1, col=col)
        if chosen in found and chosen[0] == panel:
            i, j = rows.index(chosen[1]), columns.index(chosen[2])
            outline(fig, i, j, 2.5, name="chosen on select", showlegend=True, row=1, col=col)
    if not any(_cell(one) is not None for one in entries):
        note(fig, "No recovery: the gap was refused.", x=0.5, y=0.5, xref="paper", yref="paper")
    edge = 0.53
    bare = {"showgrid": False, "showline": False, "tickcolor": "white"}
    fig.update_xaxes(
        title_text="Vectors", tickangle=0, range=[-edge, len(columns) - 1 + edge], **bare
    )
    fig.update_yaxes(range=[len(rows) - 1 + edge, -edge], **bare)
    fig.update_yaxes(title_text="Controller", col=1)
    fig.update_layout(
        template=theme.TEMPLATE,
        width=max(560, 250 + 115 * len(columns) * len(panels)),
        height=190 + 56 * len(rows),
        margin={"t": 40, "b": 110},
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        coloraxis={
            "colorscale": "RdBu",
            "cmin": -limit,
            "cmid": 0,
            "cmax": limit,
            "colorbar": color_bar("Recovery (% of gap)"),
        },
    )
    fig.update_annotations(font_size=14)
    return fig


def _words(name: str) -> str:
    return theme.label(name).lower()


def _cell(entry: Mapping[str, Any] | None) -> Number:
    return percent(part(entry, "gap_recovery"))


def _number(value: Number) -> str:
    return "" if value is None else f"{value:.0f}%".replace("-", "−").replace("−0%", "0%")
