"""Where a behavior can be read and where it can be caused, layer by layer."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._parts import (
    behavior_names,
    curve,
    layer_axis,
    legend_once,
    nothing,
    null_band,
    part,
    ring,
    shared_range,
)

_ONE_LINE = 5
"""Up to this many columns are wide enough for a behavior's name on one line."""


def layer_sweep(results: Mapping[str, Any]) -> go.Figure:
    """Probe AUROC (top) and causal effect (bottom) by layer, one column a behavior.

    AUROC is that of the behavior's chosen read position; the causal effect is the change of the
    behavior's probability at decision points when its direction is added to the base model.
    Bars are 95% intervals over problems, the gray band is the null's 5-95% range, a ring marks
    the layer that the select split chose.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    names = behavior_names(results)
    if not names:
        return nothing("No behavior was measured.")
    entries = {name: results["behaviors"][name] for name in names}
    reads = {name: _chosen_read(entry) for name, entry in entries.items()}
    causes = {name: entry.get("causal_sweep") or [] for name, entry in entries.items()}

    fig = make_subplots(
        rows=2,
        cols=len(names),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.07,
        horizontal_spacing=0.12 / len(names),
        column_titles=[_title(name, reads[name], len(names)) for name in names],
    )
    for col, name in enumerate(names, start=1):
        chosen = part(entries[name], "layer")
        fig.add_trace(curve(reads[name], "layer", "auroc", "auroc_ci", name, ".3f"), row=1, col=col)
        fig.add_trace(null_band(causes[name], "layer", 0.5), row=2, col=col)
        fig.add_trace(curve(causes[name], "layer", "effect", "ci", name, "+.3f"), row=2, col=col)
        for row, (points, key) in enumerate(
            ((reads[name], "auroc"), (causes[name], "effect")), start=1
        ):
            height = next((p.get(key) for p in points if p["layer"] == chosen), None)
            fig.add_trace(ring(chosen, height, "chosen layer"), row=row, col=col)

    every_read = [point for name in names for point in reads[name]]
    every_cause = [point for name in names for point in causes[name]]
    effect_keys = ("effect", "ci", "null_q05", "null_q95")
    for col in range(1, len(names) + 1):
        fig.add_hline(
            y=0.5,
            line={"dash": "dot", "width": 1.5, "color": theme.INK},
            name="chance",
            showlegend=col == 1,
            row=1,  # pyright: ignore[reportArgumentType]
            col=col,  # pyright: ignore[reportArgumentType]
        )
        fig.add_hline(
            y=0,
            line={"width": 1, "color": theme.INK},
            row=2,  # pyright: ignore[reportArgumentType]
            col=col,  # pyright: ignore[reportArgumentType]
        )
    fig.update_yaxes(range=shared_range(every_read, ("auroc", "auroc_ci"), (0.5, 1.0)), row=1)
    fig.update_yaxes(range=shared_range(every_cause, effect_keys, (0.0,)), row=2)
    layers = {point["layer"] for point in every_read + every_cause}
    fig.update_xaxes(**layer_axis(layers))
    fig.update_xaxes(title_text="Layer", row=2)
    fig.update_yaxes(title_text="Probe AUROC<br>(95% CI)", row=1, col=1)
    fig.update_yaxes(title_text="Change of<br>probability (95% CI)", row=2, col=1)
    fig.update_layout(
        template=theme.TEMPLATE,
        width=max(460, 130 + 150 * len(names)),
        height=500,
        margin={"t": 75 if len(names) > _ONE_LINE else 55, "b": 85},
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    fig.update_annotations(font_size=14)
    legend_once(fig)
    return fig


def _title(name: str, rows: list[Mapping[str, Any]], columns: int) -> str:
    """Column title: the behavior, and where the probe reads it."""
    shown = theme.label(name) if columns <= _ONE_LINE else theme.wrapped(name)
    if not rows:
        return shown
    return f'{shown}<br><span style="font-size:12px">read: {rows[0]["read"]}</span>'


def _chosen_read(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of the layer sweep at the chosen read position (the first one where none is chosen)."""
    rows = entry.get("layer_sweep") or []
    position = entry.get("position")
    if position is None and rows:
        position = rows[0]["read"]
    return [row for row in rows if row["read"] == position]
