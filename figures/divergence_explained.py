"""How many divergences a direction explains, and those of which segments."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._divergence_parts import (
    behavior_label,
    broken,
    by_behavior,
    check,
    lay_out,
    legend_below,
    measured,
    number,
    say_missing,
    small,
    table,
)
from figures._parts import (
    Number,
    cell_text,
    color_bar,
    error_bars,
    in_order,
    ink,
    label,
    nothing,
    outline,
    percent,
    percents,
)

_CELL, _NARROW = 90, 78
"""Pixels of a column of the heatmap, and of one where they are many."""
_DOTS = 330
"""Pixels of the panel with dots."""
_NULLS = ("random", "random_q95", "matched_q95")
_MARKS = {
    "random_q95": ("random directions, 95th percentile", "line-ns", 20),
    "matched_q95": ("with the activations' covariance, 95th percentile", "diamond-open", 10),
}
"""Name, symbol and size of what chance is shown by."""


def explained_divergences(results: Mapping[str, Any]) -> go.Figure:
    """Share of divergences explained by all directions and by each, beside random ones.

    Left, dots with 95% intervals; the gray bar is the mean of isotropic random directions of the
    same lengths, the thin line their 95th percentile, the open diamond that of random directions with
    the activations' covariance: a dot beyond both beats chance. Right,
    by the behavior of the segment (rows) and the direction (columns); a direction's own segments
    are outlined.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    explained = table(results, "explained")
    found = by_behavior(explained, "by_behavior")
    cells = by_behavior(explained, "table")
    names = in_order(found)
    union = {
        "share": explained.get("directions"),
        **{key: explained.get(key) for key in ("ci", *_NULLS)},
    }
    rows = [union, *(found[name] for name in names)]
    shares = [one.get(key) for one in rows for key in ("share", *_NULLS)]
    if not measured([*shares, *(v for one in cells.values() for v in one.values())]):
        return nothing("No explained divergence was measured.")
    segments = in_order(cells)
    columns = in_order(dict.fromkeys([*names, *(d for one in cells.values() for d in one)]))
    cell = _CELL if len(columns) <= 5 else _NARROW
    width = _DOTS + cell * max(3, len(columns))
    gap = 190
    fig = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=gap / (width + gap),
        column_widths=[_DOTS / width, 1 - _DOTS / width],
        subplot_titles=[
            "Explained by directions" + small(_setting(explained)),
            "By segment and direction" + small("one direction at a time"),
        ],
    )
    say_missing(fig, 1, shares)
    say_missing(fig, 2, [v for one in cells.values() for v in one.values()])
    _dots(fig, names, rows)
    _cells(fig, segments, columns, cells)
    several = f"All {len(explained['deployed'])} deployed" if explained.get("deployed") else "All"
    fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"<b>{several}</b>", *(broken(behavior_label(name), 24) for name in names)],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        tickcolor="white",
        col=1,
    )
    fig.update_xaxes(title_text="Divergences explained (%, 95% CI)", rangemode="tozero", col=1)
    tall = 34 * max(len(rows), len(segments), 5)
    lay_out(fig, 260 + width + gap, 60 + tall + 175, bottom=165, top=60)
    legend_below(fig, "legend", 0)
    return fig


def _dots(fig: go.Figure, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Shares with intervals, all directions first, beside those of random directions."""
    heights = list(range(len(rows)))
    words = ["all directions", *(label(behavior_label(name)) for name in names)]
    hues = [theme.INK, *(theme.color(name) for name in names)]
    values = [percent(one.get("share")) for one in rows]
    fig.add_trace(
        go.Bar(
            x=[percent(one.get("random")) for one in rows],
            y=heights,
            orientation="h",
            width=0.66,
            marker={"color": theme.NULL},
            name="random directions, mean",
            hovertemplate="random directions, mean: %{x:.1f}%<extra></extra>",
        ),
        row=1,
        col=1,
    )
    for key, (name, symbol, size) in _MARKS.items():
        fig.add_trace(
            go.Scatter(
                x=[percent(one.get(key)) for one in rows],
                y=heights,
                mode="markers",
                marker={
                    "symbol": symbol,
                    "size": size,
                    "color": theme.BASE,
                    "line": {"color": theme.BASE, "width": 2.5},
                },
                name=name,
                hovertemplate=name + ": %{x:.1f}%<extra></extra>",
            ),
            row=1,
            col=1,
        )
    fig.add_trace(
        go.Scatter(
            x=values,
            y=heights,
            error_x={
                **error_bars(values, [percents(one.get("ci")) for one in rows]),
                "color": theme.INK,
            },
            text=words,
            customdata=[number(one.get("p_value"), ".2g") for one in rows],
            mode="markers",
            marker={"size": 11, "color": hues},
            name="directions of the behaviors",
            hovertemplate="%{text}: %{x:.1f}%, p = %{customdata}<extra></extra>",
        ),
        row=1,
        col=1,
    )


def _cells(
    fig: go.Figure,
    segments: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[str, Mapping[str, Number]],
) -> None:
    """Heatmap of the shares by segment and direction, in percent."""
    z = [[percent(cells[row].get(column)) for column in columns] for row in segments]
    top = max(measured([v for line in z for v in line]), default=0.0) or 100.0
    x, y = list(range(len(columns))), list(range(len(segments)))
    fig.add_trace(
        go.Heatmap(
            z=z,
            x=x,
            y=y,
            colorscale="Blues",
            zmin=0,
            zmax=top,
            xgap=2,
            ygap=2,
            colorbar=color_bar("Explained (%)"),
            customdata=[
                [
                    f"{label(behavior_label(row))}, direction {label(behavior_label(column))}"
                    for column in columns
                ]
                for row in segments
            ],
            hovertemplate="%{customdata}: %{z:.1f}%<extra></extra>",
            hoverongaps=False,
        ),
        row=1,
        col=2,
    )
    texts = [[number(v, ".0f") for v in line] for line in z]
    inks = [[ink(v, top) for v in line] for line in z]
    fig.add_trace(cell_text(x, y, texts, inks), row=1, col=2)
    for i, name in enumerate(segments):
        if name in columns:
            j = columns.index(name)
            outline(fig, i, j, row=1, col=2)
    bare = {"showgrid": False, "showline": False, "tickcolor": "white"}
    fig.update_xaxes(
        title_text="Direction added",
        tickvals=x,
        ticktext=[broken(behavior_label(name), 12, 3) for name in columns],
        tickangle=0,
        tickfont={"size": 11},
        range=[-0.53, len(columns) - 0.47],
        col=2,
        **bare,
    )
    fig.update_yaxes(
        title_text="Behavior of the segment",
        tickvals=y,
        ticktext=[broken(behavior_label(name), 18) for name in segments],
        range=[len(segments) - 0.47, -0.53],
        col=2,
        **bare,
    )


def _setting(explained: Mapping[str, Any]) -> str:
    """How many divergences, and how the directions are added."""
    count, layer, dose = (explained.get(key) for key in ("n", "layer", "dose"))
    words = (
        f"{number(count)} high divergences",
        f"layer {number(layer)}",
        f"dose {number(dose, '.3g')}",
    )
    known = zip(words, (count, layer, dose), strict=True)
    return ", ".join(text for text, value in known if value is not None) or "one by one"
