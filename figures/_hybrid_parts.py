"""What the figures of a hybrid run share: its arms in order, and lines at the two models."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._parts import Number, check_schema, note, part, percent

SCHEMA = "whenlens.hybrid/1"
KINDS = tuple(theme.KIND_COLORS)
CHOSEN = "hybrid"
"""Name of the arm that the select split chose."""
CEILING = "thinking-token"
KIND_NAMES = {
    "hybrid": "hybrid (chosen)",
    "method": "other methods",
    "control": "controls",
    "ceiling": "ceiling (thinking token)",
    "baseline": "baselines",
}
SYMBOLS = {
    "hybrid": "circle",
    "method": "circle",
    "control": "square",
    "ceiling": "diamond",
    "baseline": "triangle-up",
}
AXIS = {
    "gap_recovery": "Recovery of the gap from base to thinking (%, 95% CI)",
    "accuracy": "Accuracy (%, 95% CI); the gap was refused",
}


def check(results: Mapping[str, Any]) -> None:
    """Raise ValueError when `results` is no dict of the schema that the figures read."""
    check_schema(results, SCHEMA, "hybrid.json")


def kind_of(name: str, arm: Mapping[str, Any]) -> str:
    """Kind under which an arm is shown: the chosen arm is a kind of its own."""
    return CHOSEN if name == CHOSEN else arm.get("kind") or "method"


def arms_in_order(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The arms of a run: the chosen one, then kind by kind, each as it stands in the dict."""
    arms: Mapping[str, Mapping[str, Any]] = results.get("arms") or {}

    def rank(name: str) -> int:
        kind = kind_of(name, arms[name])
        return KINDS.index(kind) if kind in KINDS else len(KINDS)

    return {name: arms[name] for name in sorted(arms, key=rank)}


def measure(results: Mapping[str, Any]) -> str:
    """What compares the arms: recovery of the gap, or accuracy where the gap was refused."""
    return "gap_recovery" if results.get("gap_refused") is None else "accuracy"


def references(results: Mapping[str, Any]) -> dict[str, Number]:
    """Where the base and the thinking model stand on the axis of `measure`, in percent."""
    if measure(results) == "gap_recovery":
        return {"base": 0.0, "thinking": 100.0}
    return {
        model: percent(part(results.get("accuracy"), model, "value"))
        for model in ("base", "thinking")
    }


def by_kind(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the arms of each kind; the order of `theme.KIND_COLORS`, then unknown kinds."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, arm in arms.items():
        found.setdefault(kind_of(name, arm), []).append(name)
    return {kind: names for kind, names in found.items() if names}


def reference_lines(
    fig: go.Figure,
    marks: Mapping[str, Number],
    axis: str,
    span: Sequence[float],
    ceiling: Number = None,
) -> None:
    """Lines at the base and the thinking model, named outside the plot; a dashed one at a ceiling.

    They are traces behind all others: plotly draws a shape on every point or under the grid.

    Args:
        axis: the axis that `marks` and `ceiling` are on, x or y.
        span: from where to where the lines go on the other axis.
    """
    other, before = "y" if axis == "x" else "x", len(list(fig.select_traces()))

    def line(value: float, **style: Any) -> None:
        corners = {axis: [value, value], other: list(span)}
        fig.add_trace(go.Scatter(**corners, mode="lines", hoverinfo="skip", **style))

    known = sorted((value, name) for name, value in marks.items() if value is not None)
    for i, (value, name) in enumerate(known):
        thin = {"width": 1, "color": theme.INK}
        line(value, line=thin, name=f"{name} model", showlegend=False)
        lower = i == 0 and len(known) == 2  # the two names point away from each other
        if axis == "x":
            side = "right" if lower else "left"
            place = {"x": value, "y": 1, "yref": "y domain", "yanchor": "bottom", "xanchor": side}
        else:
            side = "top" if lower else "bottom"
            place = {"y": value, "x": 1, "xref": "x domain", "xanchor": "left", "yanchor": side}
        note(fig, name, **place)
    if ceiling is not None:
        dashed = {"width": 1.5, "color": theme.INK, "dash": "dash"}
        line(ceiling, line=dashed, name="where the ceiling is", legendrank=1002)
    traces = tuple(fig.select_traces())
    fig.data = traces[before:] + traces[:before]
