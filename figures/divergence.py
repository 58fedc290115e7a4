"""Where two models part: along the trace, and by the segment that a token is part of."""

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
    entries,
    lay_out,
    legend_below,
    measured,
    say_missing,
    table,
)
from figures._parts import Number, in_order, label, legend_once, nothing, percent

_SYMBOLS = {"thinking": "circle", "base": "square", "hybrid": "diamond"}
_JS = "JS divergence (nats)"


def divergence_along_trace(results: Mapping[str, Any]) -> go.Figure:
    """Mean JS divergence (left) and share of disagreement (right) by tenth of the trace.

    One line for each source of traces: those of the thinking model, of the base, of the hybrid.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    sources = table(results, "sources")
    known = [name for name in theme.SOURCE_COLORS if name in sources]
    tenths = {
        name: [
            one
            for one in entries(sources, name, "by_position")
            if one.get("from") is not None and one.get("to") is not None
        ]
        for name in known + [name for name in sources if name not in known]
    }
    rows = [one for found in tenths.values() for one in found]
    if not measured([one.get(key) for one in rows for key in ("js", "disagreement")]):
        return nothing("No divergence along the trace was measured.")
    fig = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=["How much the models differ", "How often they choose another token"],
    )
    for name, found in tenths.items():
        for col, (values, hover) in enumerate(
            (
                ([one.get("js") for one in found], "%{y:.4f} nats"),
                ([percent(one.get("disagreement")) for one in found], "%{y:.1f}%"),
            ),
            start=1,
        ):
            hue = theme.SOURCE_COLORS.get(name, theme.UNKNOWN)
            fig.add_trace(
                go.Scatter(
                    x=[50 * (one["from"] + one["to"]) for one in found],
                    y=values,
                    customdata=[one.get("tokens") for one in found],
                    mode="lines+markers",
                    line={"color": hue, "width": 2},
                    marker={"color": hue, "size": 8, "symbol": _SYMBOLS.get(name, "cross")},
                    name=f"{label(name)} traces",
                    legendgroup=label(name),
                    showlegend=False,
                    hovertemplate=f"{hover} at %{{x:.0f}}% of the trace (%{{customdata}} tokens)",
                ),
                row=1,
                col=col,
            )
    legend_once(fig)
    for col, key in ((1, "js"), (2, "disagreement")):
        say_missing(fig, col, [one.get(key) for one in rows])
    fig.update_xaxes(title_text="Place in the trace (% of its tokens)", range=[0, 100], dtick=20)
    fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text=f"Mean {_JS}", col=1)
    fig.update_yaxes(title_text="Tokens that differ (%)", col=2)
    lay_out(fig, 900, 400, bottom=95)
    return fig


def divergence_by_segment(results: Mapping[str, Any]) -> go.Figure:
    """JS divergence by behavior of the segment and by distance to the next one, thinking traces.

    Left, a behavior's mean at the first tokens of its segments (diamond) and over all of their
    tokens (dot). Middle, its share of the divergence of all tokens (bar) beside its share of the
    tokens (line): a bar beyond its line diverges more than the average token. Right, divergence
    and disagreement by the tokens left until the next segment starts, read toward the start.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    found = by_behavior(results, "sources", "thinking", "by_behavior")
    near = [
        one
        for one in entries(results, "sources", "thinking", "by_distance")
        if one.get("distance") is not None
    ]
    numbers = [one.get(key) for one in found.values() for key in ("js", "js_at_start", "js_share")]
    numbers += [one.get(key) for one in near for key in ("js", "disagreement")]
    if not measured(numbers):
        return nothing("No divergence by segment was measured.")
    fig = make_subplots(
        rows=2,
        cols=3,
        specs=[[{"rowspan": 2}, {"rowspan": 2}, {}], [None, None, {}]],
        column_widths=[0.36, 0.26, 0.38],
        horizontal_spacing=0.09,
        vertical_spacing=0.08,
        subplot_titles=[
            "By behavior of the segment",
            "Share of the whole",
            "Toward the next segment",
        ],
    )
    names = in_order(found)
    _behaviors(fig, {name: found[name] for name in names})
    _distances(fig, sorted(near, key=lambda one: one["distance"]))
    for row, col, key, group in (
        (1, 3, "js", near),
        (2, 3, "disagreement", near),
    ):
        say_missing(fig, col, [one.get(key) for one in group], row)
    shares = [one.get(key) for one in found.values() for key in ("js_share", "tokens")]
    say_missing(fig, 2, shares)
    dots = [one.get(key) for one in found.values() for key in ("js", "js_at_start")]
    say_missing(fig, 1, dots)
    rows = {"range": [len(names) - 0.5, -0.5], "tickvals": list(range(len(names)))}
    fig.update_yaxes(**rows, showgrid=False, tickcolor="white", col=1)
    fig.update_yaxes(ticktext=[broken(behavior_label(name), 24) for name in names], col=1)
    fig.update_yaxes(**rows, showgrid=False, showticklabels=False, tickcolor="white", col=2)
    fig.update_xaxes(title_text=_JS, rangemode="tozero", col=1)
    fig.update_xaxes(title_text="Share (%)", rangemode="tozero", col=2)
    # the middle panel shares the left one's rows and needs no room for their names
    fig.update_xaxes(domain=[0, 0.3], col=1)
    fig.update_xaxes(domain=[0.34, 0.57], col=2)
    titles: list[Any] = list(fig.select_annotations())
    titles[0].x, titles[1].x = 0.15, 0.455
    lay_out(fig, 1080, max(400, 190 + 40 * len(names)), bottom=120)
    left, right = fig.layout.xaxis.domain[0], fig.layout.xaxis2.domain[0]  # pyright: ignore
    legend_below(fig, "legend", left)
    legend_below(fig, "legend2", right)
    return fig


def _behaviors(fig: go.Figure, found: Mapping[str, Mapping[str, Any]]) -> None:
    """The panels by behavior: dots with diamonds, and shares."""
    rows, hues = list(range(len(found))), [theme.color(name) for name in found]
    names = [label(behavior_label(name)) for name in found]
    all_over = [one.get("js") for one in found.values()]
    at_start = [one.get("js_at_start") for one in found.values()]
    ties: list[tuple[Number, Number]] = []
    for row, *pair in zip(rows, all_over, at_start, strict=True):
        if None not in pair:
            ties += [(pair[0], row), (pair[1], row), (None, None)]
    fig.add_trace(
        go.Scatter(
            x=[x for x, _ in ties],
            y=[y for _, y in ties],
            mode="lines",
            line={"color": "#B5B5B5", "width": 2},
            hoverinfo="skip",
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    for values, symbol, what in (
        (at_start, "diamond", "mean at the first tokens of segments"),
        (all_over, "circle", "mean over all tokens"),
    ):
        fig.add_trace(
            go.Scatter(
                x=values,
                y=rows,
                text=names,
                mode="markers",
                marker={
                    "color": hues if symbol == "circle" else "white",
                    "size": 11,
                    "symbol": symbol,
                    "line": {"width": 2, "color": hues},
                },
                name=what,
                showlegend=False,
                hovertemplate=f"%{{text}}, {what}: %{{x:.4f}} nats<extra></extra>",
            ),
            row=1,
            col=1,
        )
        edge = {"width": 2, "color": theme.UNKNOWN}
        inside = theme.UNKNOWN if symbol == "circle" else "white"
        _key(fig, 1, what, "legend", symbol=symbol, line=edge, color=inside)
    shares = [percent(one.get("js_share")) for one in found.values()]
    total = sum(measured([one.get("tokens") for one in found.values()]))
    of_tokens = [
        None if one.get("tokens") is None or not total else 100 * one["tokens"] / total
        for one in found.values()
    ]
    fig.add_trace(
        go.Bar(
            x=shares,
            y=rows,
            text=names,
            textposition="none",
            orientation="h",
            width=0.6,
            marker={"color": hues},
            showlegend=False,
            hovertemplate="%{text}: %{x:.1f}% of the divergence<extra></extra>",
        ),
        row=1,
        col=2,
    )
    ticks = {"symbol": "line-ns", "size": 22, "line": {"color": theme.INK, "width": 2.5}}
    fig.add_trace(
        go.Scatter(
            x=of_tokens,
            y=rows,
            text=names,
            mode="markers",
            marker={"color": theme.INK, **ticks},
            name="share of the tokens",
            showlegend=False,
            hovertemplate="%{text}: %{x:.1f}% of the tokens<extra></extra>",
        ),
        row=1,
        col=2,
    )
    _key(fig, 2, "share of divergence", "legend2", symbol="square")
    _key(fig, 2, "share of tokens", "legend2", **{**ticks, "size": 11})


def _key(fig: go.Figure, col: int, name: str, legend: str, **marker: Any) -> None:
    """A gray mark in the legend: in the panels, marks have the colors of behaviors."""
    fig.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"color": theme.UNKNOWN, "size": 10, **marker},
            name=name,
            legend=legend,
            showlegend=True,
        ),
        row=1,
        col=col,
    )


def _distances(fig: go.Figure, near: Sequence[Mapping[str, Any]]) -> None:
    """The panels by distance: divergence above, disagreement below."""
    distances = [one["distance"] for one in near]
    for row, (values, hover) in enumerate(
        (
            ([one.get("js") for one in near], "%{y:.4f} nats"),
            ([percent(one.get("disagreement")) for one in near], "%{y:.1f}%"),
        ),
        start=1,
    ):
        fig.add_trace(
            go.Scatter(
                x=distances,
                y=values,
                customdata=[one.get("tokens") for one in near],
                mode="lines+markers",
                line={"color": theme.INK, "width": 2},
                marker={"color": theme.INK, "size": 7},
                showlegend=False,
                hovertemplate=f"{hover} (%{{customdata}} tokens)<extra></extra>",
            ),
            row=row,
            col=3,
        )
    last = max(distances, default=0)
    step = -(-(last + 1) // 9)
    # the farthest entry holds all beyond it too, and keeps its tick
    ticks = [at for at in range(0, last, step) if last - at >= step] + [last]
    fig.update_xaxes(
        range=[last + 0.5, -0.5],
        tickvals=ticks,
        ticktext=[f"≥{at}" if at == last and last else str(at) for at in ticks],
        col=3,
    )
    fig.update_xaxes(showticklabels=False, row=1, col=3)
    fig.update_xaxes(title_text="Tokens to the next segment's start", row=2, col=3)
    fig.update_yaxes(rangemode="tozero", col=3)
    fig.update_yaxes(title_text="Mean JS (nats)", row=1, col=3)
    fig.update_yaxes(title_text="Tokens that<br>differ (%)", row=2, col=3)
