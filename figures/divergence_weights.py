"""How far training moved each weight matrix, beside what its component restores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._divergence_parts import (
    COMPONENTS,
    check,
    entries,
    lay_out,
    measured,
    number,
    visible,
)
from figures._parts import layer_axis, legend_once, nothing, percent, wide_range

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
_CLEAR = (30, 15)
"""Pixels across and down that a label keeps to itself."""
_NOT_PATCHED = "not patched (embeddings, norms)"
_WIDTH, _HEIGHT, _LEFT, _STRIP = 1000, 560, 0.56, 0.1
Row = Mapping[str, Any]


def weight_changes(results: Mapping[str, Any]) -> go.Figure:
    """Relative change of every weight matrix against what patching its component restores.

    Color is the component, symbol the matrix; layers are named where there is room. Weights whose
    component was not patched lie in the strip below. Right, the stable rank of the change by layer.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    rows = entries(results, "weights")
    if not measured([one.get(key) for one in rows for key in ("relative_change", "stable_rank")]):
        return nothing("No change of weights was measured.")
    strip = any(one.get("restored") is None for one in rows)
    fig = make_subplots(
        rows=2,
        cols=2,
        specs=[[{} if strip else {"rowspan": 2}, {"rowspan": 2}], [{} if strip else None, None]],
        row_heights=[1 - _STRIP, _STRIP],
        column_widths=[_LEFT, 1 - _LEFT],
        horizontal_spacing=0.1,
        vertical_spacing=0.03,
        subplot_titles=["Change, and what patching restores", "Stable rank of the change"],
    )
    kinds = list(dict.fromkeys(map(_kind, rows)))
    kinds.sort(key=lambda kind: list(COMPONENTS).index(kind[0]) if kind[0] in COMPONENTS else 9)
    for i, kind in enumerate(kinds):
        _points(fig, [one for one in rows if _kind(one) == kind], kind, _SYMBOLS[i % 8], strip)
    legend_once(fig)
    x_range = wide_range([0.0, *(percent(one.get("relative_change")) for one in rows)])
    x_range[1] *= 1.04  # room for the name of the outermost layer
    y_range = wide_range([0.0, *(one.get("restored") for one in rows)], 0.1)
    margin = {"t": 40, "b": 85 + 21 * -(-len(kinds) // 4)}
    across = 0.9 * _LEFT * (_WIDTH - 100) / (x_range[1] - x_range[0])
    down = (0.87 if strip else 1) * (_HEIGHT - sum(margin.values())) / (y_range[1] - y_range[0])
    _name_layers(fig, rows, across, down)
    if strip:
        _name_strip(fig, rows, across, x_range[1])
        fig.update_xaxes(range=x_range, showticklabels=False, row=1, col=1)
        words = {"tickvals": [0], "ticktext": ["not<br>patched"]}
        fig.update_yaxes(showgrid=False, range=[-1, 1], row=2, col=1, **words)
    fig.update_xaxes(
        range=x_range,
        title_text="Relative change of the weights (%)",
        row=2 if strip else 1,
        col=1,
    )
    fig.update_yaxes(title_text="Restored share", range=y_range, row=1, col=1)
    fig.update_yaxes(zeroline=True, zerolinewidth=1, zerolinecolor=theme.INK, row=1, col=1)
    layers = [one["layer"] for one in rows if one.get("layer") is not None]
    fig.update_xaxes(title_text="Layer", **layer_axis(layers), col=2)
    fig.update_yaxes(title_text="Stable rank (log scale)", type="log", **_log_ticks(rows), col=2)
    lay_out(fig, _WIDTH, _HEIGHT, margin["b"])
    return fig


def _kind(one: Row) -> tuple[str | None, str]:
    """Component and name of a matrix without its layer: what all layers share."""
    component = one.get("component")
    if component is None:
        return None, _NOT_PATCHED
    return component, _stem(one)


def _stem(one: Row) -> str:
    """Last part of a matrix's name that tells it: `lm_head` of `lm_head.weight`."""
    parts = [part for part in str(one.get("module")).split(".") if part != "weight"]
    return parts[-1] if parts else ""


def _points(
    fig: go.Figure, group: Sequence[Row], kind: tuple[str | None, str], symbol: str, strip: bool
) -> None:
    """Matrices of one kind: in the large panel or its strip, and by layer."""
    component, name = kind
    hue = theme.COMPONENT_COLORS.get(component or "", theme.UNKNOWN)
    words = name if component is None else f"{visible(name)}, {_component(component)}"
    marker = {"color": hue, "symbol": symbol, "size": 9 if len(group) <= 12 else 7, "opacity": 0.85}
    layered = sorted(
        (one for one in group if one.get("layer") is not None), key=lambda one: one["layer"]
    )
    patched = [one for one in group if one.get("restored") is not None]
    rest = [one for one in group if one.get("restored") is None]
    panels = [
        (patched, "relative_change", [one.get("restored") for one in patched], 1, 1),
        (layered, "layer", [one.get("stable_rank") or None for one in layered], 1, 2),
    ]
    if strip:
        known = [None if one.get("relative_change") is None else 0 for one in rest]
        panels.insert(1, (rest, "relative_change", known, 2, 1))
    for members, x, y, row, col in panels:
        if members:
            across = [one.get(x) for one in members]
            fig.add_trace(
                go.Scatter(
                    x=across if x == "layer" else [percent(value) for value in across],
                    y=y,
                    text=[_about(one) for one in members],
                    mode="lines+markers" if x == "layer" and component else "markers",
                    line={"color": hue, "width": 1},
                    marker=marker,
                    name=words,
                    legendgroup=words,
                    showlegend=False,
                    hovertemplate="%{text}<extra></extra>",
                ),
                row=row,
                col=col,
            )


def _component(component: str) -> str:
    return COMPONENTS.get(component) or visible(component)


def _about(one: Row) -> str:
    """What is known of a matrix, for the mouse."""
    return (
        f"{visible(str(one.get('module')))}: change {number(percent(one.get('relative_change')), '.2f')}%"
        f", stable rank {number(one.get('stable_rank'), '.3g')} of {number(one.get('full_rank'))}"
        f", {number(percent(one.get('unchanged')), '.0f')}% of entries unchanged"
        f", restored {number(one.get('restored'), '.2f')}"
    )


def _name_layers(fig: go.Figure, rows: Sequence[Row], across: float, down: float) -> None:
    """Name the layer once a component, at its rightmost matrix; the strongest layers first.

    A name is left out where it would touch another name or a point.

    Args:
        across, down: pixels a unit of each axis.
    """
    points, last = [], {}
    for one in rows:
        x, y, layer = percent(one.get("relative_change")), one.get("restored"), one.get("layer")
        if x is None or y is None:
            continue
        points.append((x * across, y * down))
        key = (one.get("component"), layer)
        if layer is not None and (key not in last or x > last[key][0]):
            last[key] = (x, y)
    taken: list[tuple[float, float]] = []
    for (component, layer), (x, y) in sorted(last.items(), key=lambda one: -abs(one[1][1])):
        # the middle of the name, right of its point
        at = (x * across + 20, y * down)
        near = [abs(at[0] - a) < _CLEAR[0] and abs(at[1] - b) < _CLEAR[1] for a, b in taken]
        hit = [abs(at[0] - a) < 16 and abs(at[1] - b) < 9 for a, b in points]
        if not any(near) and not any(hit):
            taken.append(at)
            fig.add_annotation(
                text=f"L{layer}",
                x=x,
                y=y,
                xanchor="left",
                xshift=6,
                yanchor="middle",
                showarrow=False,
                font={"color": theme.COMPONENT_COLORS.get(component, theme.UNKNOWN)},
                row=1,
                col=1,
            )


def _name_strip(fig: go.Figure, rows: Sequence[Row], across: float, end: float) -> None:
    """Names of the matrices that belong to no layer, one text for those that would touch.

    Left of its points where it would run past the panel's `end`.
    """
    found = sorted(
        (one["relative_change"] * 100, visible(_stem(one), 14))
        for one in rows
        if one.get("restored") is None
        and one.get("layer") is None
        and one.get("relative_change") is not None
    )
    groups: list[tuple[float, float, str]] = []
    for x, name in found:
        if groups and x * across < groups[-1][1] * across + 8 * len(groups[-1][2]) + 20:
            groups[-1] = (groups[-1][0], x, f"{groups[-1][2]}, {name}")
        else:
            groups.append((x, x, name))
    for first, last, names in groups:
        fits = last * across + 8 * len(names) + 9 < end * across
        fig.add_annotation(
            text=names,
            x=last if fits else first,
            y=0,
            xanchor="left" if fits else "right",
            xshift=9 if fits else -9,
            yanchor="middle",
            showarrow=False,
            row=2,
            col=1,
        )


def _log_ticks(rows: Sequence[Row]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 of every power of ten in the range of the stable ranks."""
    ranks = [rank for one in rows if (rank := one.get("stable_rank"))] or [1.0]
    powers = range(math.floor(math.log10(min(ranks))), math.ceil(math.log10(max(ranks))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}
