"""What else a direction does: the change of every behavior when one direction is added."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._parts import behavior_names, cell_text, color_bar, ink, nothing, outline, part

_VEILED = "#7A7A7A"
"""Color of the numbers in veiled cells."""


def specificity_heatmap(results: Mapping[str, Any]) -> go.Figure:
    """Change in the rate of each behavior (columns) when each direction (rows) is added.

    Percentage points, base model; the diagonal is outlined, and a cell whose interval spans 0 (or
    has none) is veiled.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    names = behavior_names(results)
    if not names:
        return nothing("No behavior was measured.")
    maps = {name: results["behaviors"][name].get("specificity") or {} for name in names}
    seen = {column for cells in maps.values() for column in cells}
    columns = behavior_names({**results, "behaviors": dict.fromkeys([*names, *sorted(seen)])})

    effects = [[part(maps[row], column, "effect") for column in columns] for row in names]
    firm = [[_excludes_zero(part(maps[row], column, "ci")) for column in columns] for row in names]
    z = [[None if effect is None else effect * 100 for effect in row] for row in effects]
    limit = max((abs(value) for row in z for value in row if value is not None), default=0.0) or 1.0
    x = [theme.wrapped(column) for column in columns]
    y = [theme.label(row) for row in names]

    fig = go.Figure()
    fig.add_trace(
        go.Heatmap(
            z=z,
            x=x,
            y=y,
            colorscale="RdBu",
            zmid=0,
            zmin=-limit,
            zmax=limit,
            colorbar=color_bar("Change in rate<br>(percentage points)"),
            hovertemplate="%{y} added: %{x} %{z:+.1f} points<extra></extra>",
        )
    )
    fig.add_trace(
        go.Heatmap(
            z=[
                [None if sure or value is None else 1 for sure, value in zip(*pair, strict=True)]
                for pair in zip(firm, z, strict=True)
            ],
            x=x,
            y=y,
            colorscale=[[0, "white"], [1, "white"]],
            opacity=0.65,
            showscale=False,
            hoverinfo="skip",
        )
    )
    texts = [[_number(value) for value in row] for row in z]
    inks = [
        [ink(value, limit) if sure else _VEILED for value, sure in zip(*pair, strict=True)]
        for pair in zip(z, firm, strict=True)
    ]
    fig.add_trace(cell_text(x, y, texts, inks))
    for i, row in enumerate(names):
        j = columns.index(row)
        outline(fig, i, j)
    edge = 0.52  # a little beyond the cells, so that their outline is not cut
    fig.update_xaxes(
        title_text="Behavior measured",
        range=[-edge, len(columns) - 1 + edge],
        showgrid=False,
        showline=False,
        tickcolor="white",
    )
    fig.update_yaxes(
        title_text="Direction added",
        range=[len(names) - 1 + edge, -edge],
        showgrid=False,
        showline=False,
        tickcolor="white",
    )
    fig.update_layout(
        template=theme.TEMPLATE,
        width=330 + 95 * len(columns),
        height=max(300, 140 + 58 * len(names)),
        margin={"t": 20, "b": 80},
    )
    return fig


def _excludes_zero(interval: list[float | None] | None) -> bool:
    """Whether an interval is known and lies on one side of 0."""
    low, high = interval or (None, None)
    return low is not None and high is not None and (low > 0 or high < 0)


def _number(value: float | None) -> str:
    """Signed number of a cell; no sign for a zero, a dash where nothing was measured."""
    if value is None:
        return "–"
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text
