"""What steering recovers: arm by arm, and against the tokens that are steered."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._hybrid_parts import (
    AXIS,
    CEILING,
    CHOSEN,
    KIND_NAMES,
    SYMBOLS,
    arms_in_order,
    by_kind,
    check,
    kind_of,
    measure,
    reference_lines,
    references,
)
from figures._parts import (
    ends,
    error_bars,
    label,
    legend_once,
    note,
    nothing,
    part,
    percent,
    percents,
    safe,
    wide_range,
)

_NAMED = (CHOSEN, CEILING, "random-vectors", "random-positions")
"""Arms that are labeled in the crowded `recovery_by_share`; the others answer to the mouse."""


def recovery_by_arm(results: Mapping[str, Any]) -> go.Figure:
    """Recovery of every arm with its 95% interval, grouped by kind, the chosen arm first.

    Solid lines stand where the base and the thinking model are, the dashed one at the ceiling;
    small gray dots are the single sets of random vectors. Where the gap was refused the axis is
    accuracy.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    arms = arms_in_order(results)
    if not arms:
        return nothing("No arm was measured.")
    key = measure(results)
    rows = _rows(arms)
    fig = go.Figure()
    first = rows[next(iter(arms))]
    if CHOSEN in arms:
        fig.add_hrect(
            y0=first - 0.5, y1=first + 0.5, fillcolor="#FBEADF", line={"width": 0}, layer="below"
        )
    sets = [] if key == "accuracy" else _sets(arms)
    if sets:
        fig.add_trace(
            go.Scatter(
                x=[value for _, value in sets],
                # a fixed zigzag, so that sets of equal recovery do not hide each other
                y=[
                    rows[name] + (0.12, -0.2, 0.24, -0.08)[i % 4]
                    for i, (name, _) in enumerate(sets)
                ],
                mode="markers",
                marker={"size": 5, "color": "#B5B5B5"},
                name="one set of random vectors",
                legendrank=1001,  # after the kinds
                hovertemplate="one set: %{x:.1f}%<extra></extra>",
            )
        )
    for kind, names in by_kind(arms).items():
        found = [part(arms[name], key) for name in names]
        values = [percent(part(one, "value")) for one in found]
        hue = theme.KIND_COLORS.get(kind, theme.UNKNOWN)
        fig.add_trace(
            go.Scatter(
                x=values,
                y=[rows[name] for name in names],
                error_x={
                    **error_bars(values, [percents(part(one, "ci")) for one in found]),
                    "color": hue,
                    "thickness": 3 if kind == CHOSEN else 1.5,
                },
                mode="markers",
                marker={
                    "color": hue,
                    "size": 14 if kind == CHOSEN else 10,
                    "symbol": SYMBOLS.get(kind, "circle"),
                },
                name=KIND_NAMES.get(kind, safe(kind)),
                text=[label(name) for name in names],
                hovertemplate="%{text}: %{x:.1f}%<extra></extra>",
            )
        )
        for name, value in zip(names, values, strict=True):
            if value is None:
                note(fig, "not measured", x=0.01, y=rows[name], xref="x domain", xanchor="left")
    traces: list[Any] = list(fig.select_traces())
    drawn = [x for t in traces for x in [*(t.x or ()), *ends(t.error_x, t.x)]]
    marks = references(results)
    ceiling = percent(part(arms.get(CEILING), key, "value"))
    reference_lines(fig, marks, "x", [-0.7, first + 0.7], ceiling)
    fig.update_xaxes(title_text=AXIS[key], range=wide_range([*drawn, *marks.values()]))
    fig.update_yaxes(
        tickvals=list(rows.values()),
        ticktext=[f"<b>{label(name)}</b>" if name == CHOSEN else label(name) for name in rows],
        range=[-0.7, first + 0.7],
        showgrid=False,
        tickcolor="white",
    )
    height = 170 + 30 * (first + 1)
    fig.update_layout(
        template=theme.TEMPLATE,
        width=860,
        height=round(height),
        margin={"t": 40, "b": 105, "r": 40},
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    return fig


def recovery_by_share(results: Mapping[str, Any]) -> go.Figure:
    """Recovery against the share of tokens steered: every arm, and the two budget curves.

    Along a curve the margin rises that the thinking model must have for its own token before a
    token is steered. Labeled arms are drawn full, the others pale. Bars are 95% intervals. Where
    the gap was refused the axis is accuracy, and the curves are left out.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    arms = arms_in_order(results)
    if not arms:
        return nothing("No arm was measured.")
    key = measure(results)
    fig = go.Figure()
    budget: Mapping[str, Any] = (results.get("budget") or {}) if key == "gap_recovery" else {}
    for name in budget:
        fig.add_trace(_curve(name, budget[name] or []))
    # pale ones first, so that the named arms lie on top of them
    for named, opacity in ((False, 0.4), (True, 1.0)):
        for kind, names in by_kind(arms).items():
            group = {name: arms[name] for name in names if _is_named(name, arms[name]) == named}
            if group:
                fig.add_trace(_points(kind, group, key, opacity))
    legend_once(fig)
    traces: list[Any] = list(fig.select_traces())
    marks = references(results)
    heights = [y for t in traces for y in [*(t.y or ()), *ends(t.error_y, t.y)]]
    y_range = wide_range([*heights, *marks.values()])
    widest = max((x for t in traces for x in t.x or () if x is not None), default=0.0) or 1.0
    x_range = [-0.03 * widest, 1.5 * widest]
    height, margin = 540, {"t": 20, "b": 105, "r": 80}
    unit = (y_range[1] - y_range[0]) / (height - margin["t"] - margin["b"])
    reference_lines(fig, marks, "y", x_range)
    _name_points(fig, arms, key, 1.12 * widest, 19 * unit)
    fig.update_xaxes(title_text="Share of generated tokens steered (%)", range=x_range)
    fig.update_yaxes(title_text=AXIS[key].replace(" from", "<br>from", 1), range=y_range)
    fig.update_layout(
        template=theme.TEMPLATE,
        width=860,
        height=height,
        margin=margin,
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    return fig


def _rows(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Height of each arm, the last one at 0; half a row of air between kinds."""
    heights: dict[str, float] = {}
    at, below = 0.0, None
    for name in reversed(list(arms)):
        kind = kind_of(name, arms[name])
        at += 0.0 if below is None else 1.0 if kind == below else 1.5
        heights[name], below = at, kind
    return dict(reversed(list(heights.items())))


def _sets(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Arm and recovery in percent of every single random set that was measured."""
    return [
        (name, value * 100)
        for name, arm in arms.items()
        for value in arm.get("sets") or ()
        if value is not None
    ]


def _points(
    kind: str, arms: Mapping[str, Mapping[str, Any]], key: str, opacity: float
) -> go.Scatter:
    """Arms of one kind, recovery (or accuracy) against tokens steered."""
    hue = theme.KIND_COLORS.get(kind, theme.UNKNOWN)
    values = [percent(part(arm, key, "value")) for arm in arms.values()]
    bars = error_bars(values, [percents(part(arm, key, "ci")) for arm in arms.values()])
    return go.Scatter(
        x=[percent(arm.get("tokens_steered")) for arm in arms.values()],
        y=values,
        error_y={**bars, "color": hue, "thickness": 1.2},
        mode="markers",
        opacity=opacity,
        marker={
            "color": hue,
            "size": 13 if kind == CHOSEN else 9,
            "symbol": SYMBOLS.get(kind, "circle"),
        },
        name=KIND_NAMES.get(kind, safe(kind)),
        legendgroup=kind,
        legendrank=1001 + list(KIND_NAMES).index(kind) if kind in KIND_NAMES else 1100,
        showlegend=False,
        text=[label(name) for name in arms],
        hovertemplate="%{text}: %{y:.1f}% with %{x:.1f}% of tokens steered<extra></extra>",
    )


def _is_named(name: str, arm: Mapping[str, Any]) -> bool:
    """Whether an arm is labeled in `recovery_by_share`: baselines only where they steer."""
    return name in _NAMED or bool(arm.get("kind") == "baseline" and arm.get("tokens_steered"))


def _curve(name: str, points: Sequence[Mapping[str, Any]]) -> go.Scatter:
    """Recovery against tokens steered as the margin that is asked for rises."""
    hue = theme.KIND_COLORS["ceiling" if name == CEILING else "hybrid"]
    values = [percent(part(point, "gap_recovery", "value")) for point in points]
    intervals = [percents(part(point, "gap_recovery", "ci")) for point in points]
    return go.Scatter(
        x=[percent(point.get("tokens_steered")) for point in points],
        y=values,
        error_y={**error_bars(values, intervals), "color": hue, "thickness": 1, "width": 0},
        customdata=[point.get("margin") for point in points],
        mode="lines+markers",
        line={"color": hue, "width": 2, "dash": "dot" if name == CEILING else "solid"},
        marker={"color": "white", "size": 7, "line": {"color": hue, "width": 1.5}},
        name=f"{label(name).lower()}, larger margins",
        hovertemplate="margin %{customdata}: %{y:.1f}% with %{x:.1f}% of tokens steered<extra></extra>",
    )


def _name_points(
    fig: go.Figure, arms: Mapping[str, Mapping[str, Any]], key: str, x: float, gap: float
) -> None:
    """Labels in a column at `x`, at least `gap` apart, each led to its point by a line."""
    points = []
    for name, arm in arms.items():
        share, value = percent(arm.get("tokens_steered")), percent(part(arm, key, "value"))
        if _is_named(name, arm) and share is not None and value is not None:
            points.append((value, share, name))
    points.sort()
    heights = _apart([value for value, _, _ in points], gap)
    for (value, share, name), height in zip(points, heights, strict=True):
        hue = theme.KIND_COLORS.get(kind_of(name, arms[name]), theme.UNKNOWN)
        fig.add_annotation(
            text=f"<b>{label(name)}</b>" if name == CHOSEN else label(name),
            x=share,
            y=value,
            ax=x,
            ay=height,
            axref="x",
            ayref="y",
            xanchor="left",
            standoff=7,
            arrowhead=0,
            arrowwidth=1,
            arrowcolor="#A0A0A0",
            bgcolor="white",
            borderpad=1,
            font={"size": 13, "color": hue},
        )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values moved as little as needed (least squares) to lie `gap` apart."""
    blocks: list[tuple[float, int]] = []
    for i, value in enumerate(values):
        mean, count = value - i * gap, 1
        while blocks and blocks[-1][0] > mean:  # pool adjacent violators
            before, many = blocks.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    return [mean + i * gap for i, mean in enumerate(flat)]
