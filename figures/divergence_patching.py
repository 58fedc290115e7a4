"""What patching restores: by component, layer and token, and beside the change of the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures._divergence_parts import COMPONENTS, by_layer, check, lay_out, measured, number, table
from figures._parts import Number, cell_text, color_bar, ink, nothing, part

_DIRECTIONS = {
    "thinking_into_base": "thinking into base",
    "base_into_thinking": "base into thinking",
}
_LIMIT = 1.2
"""Restored shares beyond it have the color of the limit; their text stays true."""
_MOST_ROWS = 16
"""Up to this many layers, a cell has room for its number."""
_MOST_COLUMNS = 8
"""Up to this many offsets, a cell has room for its number."""


def patching_heatmap(results: Mapping[str, Any]) -> go.Figure:
    """Restored share by layer (rows) and token offset (columns), a panel a component and direction.

    0 is the clean run, 1 the model from which the activations come. Colors end at 1.2 on both
    sides; the numbers in the cells (where there is room) and under the mouse are not cut.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    patching = table(results, "patching")
    offsets = patching.get("offsets") or []
    order = sorted(range(len(offsets)), key=lambda i: offsets[i])
    panels = {
        (direction, component): [
            [_at(row, i) for i in order]
            for row in part(patching, "heatmap", direction, component) or []
        ]
        for direction in _DIRECTIONS
        for component in COMPONENTS
    }
    n_layers = max(len(rows) for rows in panels.values())
    if not measured([v for rows in panels.values() for row in rows for v in row]):
        return nothing("No patch was measured.")
    with_text = n_layers <= _MOST_ROWS and len(order) <= _MOST_COLUMNS
    height = 170 + 2 * max(130, n_layers * (24 if with_text else 10))
    fig = make_subplots(
        rows=len(_DIRECTIONS),
        cols=len(COMPONENTS),
        shared_xaxes="all",  # pyright: ignore[reportArgumentType]
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]
        horizontal_spacing=0.035,
        vertical_spacing=40 / height,
        subplot_titles=[
            f"{words[:1].upper()}{words[1:]}, {way}"
            for way in _DIRECTIONS.values()
            for words in COMPONENTS.values()
        ],
    )
    places, layers = list(range(len(order))), list(range(n_layers))
    for (direction, component), rows in panels.items():
        row = list(_DIRECTIONS).index(direction) + 1
        col = list(COMPONENTS).index(component) + 1
        z = [*rows, *[[None] * len(order)] * (n_layers - len(rows))]
        ends = _intervals(patching, direction, component)
        fig.add_trace(
            go.Heatmap(
                z=[
                    [None if v is None else max(-_LIMIT, min(_LIMIT, v)) for v in line]
                    for line in z
                ],
                x=places,
                y=layers,
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                customdata=[
                    [
                        [
                            number(v, "+.3f"),
                            offsets[i],
                            ends.get(layer, "") if offsets[i] == 0 else "",
                        ]
                        for i, v in zip(order, line, strict=True)
                    ]
                    for layer, line in enumerate(z)
                ],
                hovertemplate="layer %{y}, offset %{customdata[1]}: restored %{customdata[0]}"
                "%{customdata[2]}<extra></extra>",
                hoverongaps=False,
            ),
            row=row,
            col=col,
        )
        if with_text:
            texts = [[number(v, ".2f") for v in line] for line in z]
            inks = [[ink(v, _LIMIT) for v in line] for line in z]
            fig.add_trace(cell_text(places, layers, texts, inks, 12), row=row, col=col)
    step = -(-n_layers // 9)
    bare = {"showgrid": False, "showline": False, "tickcolor": "white"}
    every = -(-len(order) // 10)
    shown = [at for at in places if (len(order) - 1 - at) % every == 0]
    fig.update_xaxes(
        tickvals=shown,
        ticktext=[number(offsets[order[at]]) for at in shown],
        range=[-0.52, len(order) - 0.48],
        **bare,
    )
    fig.update_xaxes(title_text="Token offset from the last read", row=2)
    fig.update_yaxes(
        tickvals=layers[::step],
        ticktext=[str(at) for at in layers[::step]],
        range=[-0.52, n_layers - 0.48],
        **bare,
    )
    count = patching.get("n")
    fig.update_yaxes(title_text="Layer", col=1)
    lay_out(
        fig,
        width=max(940, 200 + 3 * 44 * min(len(order), _MOST_COLUMNS)),
        height=height,
        bottom=70,
    )
    fig.update_annotations(font_size=13)
    title = "Restored share" + ("" if count is None else f" (mean of {number(count)})")
    ticks = [-_LIMIT, -1, -0.5, 0, 0.5, 1, _LIMIT]
    names = [f"≤ −{_LIMIT}", "−1", "−0.5", "0, clean", "0.5", "1, source", f"≥ {_LIMIT}"]
    fig.update_layout(
        coloraxis={
            "colorscale": "RdBu",
            "cmin": -_LIMIT,
            "cmid": 0,
            "cmax": _LIMIT,
            "colorbar": {**color_bar(title), "tickvals": ticks, "ticktext": names},
        }
    )
    return fig


def _at(row: Sequence[Number] | None, i: int) -> Number:
    """The number at a place of a row that may be null or short."""
    return row[i] if row and i < len(row) else None


def _intervals(patching: Mapping[str, Any], direction: str, component: str) -> dict[int, str]:
    """Intervals at offset 0 by layer, in words."""
    found = {}
    for one in by_layer(patching, "at_last", direction, component):
        if one.get("ci"):
            low, high = (number(end, "+.3f") for end in one["ci"])
            found[one["layer"]] = f" [{low}, {high}]"
    return found
