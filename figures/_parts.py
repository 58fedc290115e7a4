"""What the figures share: reading the results dict, and the marks drawn from it."""

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from figures import theme

SCHEMA = "whenlens.results/1"
Number = float | int | None
GRAY = "#6B6B6B"
"""Color of words that explain."""
_DENSE = 12
"""Beyond this many points in a panel, markers shrink and error bars lose their caps."""


def behavior_names(results: Mapping[str, Any]) -> list[str]:
    """Behaviors of a results dict in the taxonomy's order, then any others as they stand.

    Raises:
        ValueError: when `results` is no results dict of the schema that the figures read.
    """
    schema = results.get("schema")
    if schema != SCHEMA or not isinstance(results.get("behaviors"), Mapping):
        raise ValueError(
            f"These results have schema {schema!r}, expected {SCHEMA!r} with a 'behaviors' entry: "
            "pass the dict read from the results.json of a run."
        )
    return in_order(results["behaviors"])


def is_alone(results: Mapping[str, Any]) -> bool:
    """Whether the results are of one model, and not of a pair."""
    accuracy = results.get("accuracy")
    return bool(accuracy) and "thinking" not in accuracy


def in_order(names: Iterable[str]) -> list[str]:
    """Behaviors in the taxonomy's order, then any others as they stand."""
    given = list(names)
    known = [name for name in theme.BEHAVIOR_COLORS if name in given]
    return known + [name for name in given if name not in known]


def check_schema(results: Mapping[str, Any], expected: str, file: str) -> None:
    """Raise ValueError when `results` is no dict of the schema that is expected of `file`."""
    schema = results.get("schema")
    if schema != expected:
        raise ValueError(
            f"These results have schema {schema!r}, expected {expected!r}: "
            f"pass the dict read from the {file} of a run."
        )


def part(entry: Mapping[str, Any] | None, *keys: str) -> Any:
    """Value at a path of keys, or None where any of them is missing or null."""
    found: Any = entry
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def error_bars(
    values: Sequence[Number], intervals: Sequence[Sequence[Number] | None]
) -> dict[str, Any]:
    """Plotly error bars that end at the interval's bounds; none where a number is missing."""
    above: list[Number] = []
    below: list[Number] = []
    for value, interval in zip(values, intervals, strict=True):
        low, high = interval if interval else (None, None)
        above.append(None if value is None or high is None else high - value)
        below.append(None if value is None or low is None else value - low)
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.5,
        "width": 3 if len(values) <= _DENSE else 0,
    }


def curve(
    entries: Sequence[Mapping[str, Any]], x: str, y: str, ci: str, behavior: str, number: str
) -> go.Scatter:
    """Line through `entries` with intervals; a missing number leaves a gap.

    Args:
        x, y, ci: keys of the position, the value and its interval.
        number: d3 format of the value in the hover text.
    """
    values = [entry.get(y) for entry in entries]
    ends = [entry.get(ci) or (None, None) for entry in entries]
    hue = theme.color(behavior)
    return go.Scatter(
        x=[entry[x] for entry in entries],
        y=values,
        error_y=error_bars(values, [entry.get(ci) for entry in entries]),
        customdata=[list(pair) for pair in ends],
        mode="lines+markers",
        line={"color": hue, "width": 2},
        marker={"color": hue, "size": 6 if len(values) <= _DENSE else 4},
        name=theme.label(behavior),
        showlegend=False,
        hovertemplate=f"{x} %{{x}}: %{{y:{number}}} [%{{customdata[0]:{number}}}, "
        f"%{{customdata[1]:{number}}}]",
    )


def null_band(entries: Sequence[Mapping[str, Any]], x: str, lone_width: float) -> go.Scatter:
    """Shaded 5-95% range of the null; a run of entries without a gap is one polygon.

    A polygon over a single position would have no width, so it is drawn `lone_width` wide.
    """
    runs: list[list[tuple[float, float, float]]] = [[]]
    for entry in entries:
        at, low, high = entry[x], entry.get("null_q05"), entry.get("null_q95")
        if low is None or high is None:
            runs.append([])
        else:
            runs[-1].append((at, low, high))
    xs: list[Number] = []
    ys: list[Number] = []
    for run in filter(None, runs):
        if len(run) == 1:
            ((at, low, high),) = run
            run = [(at - lone_width / 2, low, high), (at + lone_width / 2, low, high)]
        xs += [at for at, _, _ in run] + [at for at, _, _ in reversed(run)] + [None]
        ys += [high for _, _, high in run] + [low for _, low, _ in reversed(run)] + [None]
    return go.Scatter(
        x=xs[:-1],
        y=ys[:-1],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=theme.NULL,
        name="null directions, 5–95%",
        legendgroup="null",
        showlegend=False,
        hoverinfo="skip",
    )


def ring(x: Number, y: Number, name: str) -> go.Scatter:
    """Open circle around the point that the select split chose."""
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        marker={
            "symbol": "circle-open",
            "size": 14,
            "color": theme.INK,
            "line": {"width": 1.5},
        },
        name=name,
        legendgroup="chosen",
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )


def legend_once(fig: go.Figure) -> None:
    """Show each legend group by its first trace that has a number: plotly skips empty ones."""
    shown: set[str] = set()
    traces: list[Any] = list(fig.select_traces())
    for trace in traces:
        if trace.legendgroup not in {None, *shown} and any(y is not None for y in trace.y):
            trace.showlegend = True
            shown.add(trace.legendgroup)


def shared_range(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], include: Sequence[float]
) -> list[float]:
    """Axis range that holds every number under `keys` (intervals too), with a 6% margin."""
    found = list(include)
    for row in rows:
        for key in keys:
            value = row.get(key)
            numbers = value if isinstance(value, Sequence) else [value]
            found += [number for number in numbers if number is not None]
    low, high = min(found), max(found)
    margin = 0.06 * ((high - low) or 1.0)
    return [low - margin, high + margin]


def color_bar(title: str) -> dict[str, Any]:
    """A color bar with its title along the side."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 14}},
        "thickness": 14,
        "outlinewidth": 0,
    }


def layer_axis(layers: Collection[int]) -> dict[str, Any]:
    """Settings of an axis over layers: at most about five ticks, all on whole numbers."""
    first, last = min(layers, default=0), max(layers, default=0)
    margin = max(0.5, 0.04 * (last - first))
    return {
        "tick0": 0,
        "dtick": -(-(last - first + 1) // 5),
        "range": [first - margin, last + margin],
    }


def outline(fig: go.Figure, down: int, along: int, width: float = 2, **more: Any) -> None:
    """Draw a frame around the cell of a heatmap that is `down` rows and `along` columns in.

    `more` goes to the shape.
    """
    fig.add_shape(
        type="rect",
        x0=along - 0.5,
        x1=along + 0.5,
        y0=down - 0.5,
        y1=down + 0.5,
        line={"color": theme.INK, "width": width},
        **more,
    )


def nothing(message: str) -> go.Figure:
    """A figure that says why it is empty."""
    fig = go.Figure()
    fig.update_layout(template=theme.TEMPLATE, width=600, height=200)
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    fig.add_annotation(text=message, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return fig


def percent(share: Number) -> Number:
    """A share in percent."""
    return None if share is None else share * 100


def percents(interval: Sequence[Number] | None) -> list[Number]:
    """Both ends of an interval of shares, in percent."""
    low, high = interval or (None, None)
    return [percent(low), percent(high)]


def safe(text: str) -> str:
    """Text from the dict as plotly shows it: its tags (<b>, <a href>) are text, not markup."""
    return html.escape(text, quote=False)


def label(name: str) -> str:
    """Display label of an arm, a factor or a behavior, escaped."""
    return safe(theme.label(name))


def wide_range(values: Sequence[Number], margin: float = 0.06) -> list[float]:
    """Axis range that holds every number given, with a margin on both sides."""
    found = [value for value in values if value is not None] or [0.0, 1.0]
    low, high = min(found), max(found)
    room = margin * ((high - low) or 1.0)
    return [low - room, high + room]


def ends(bars: Any, values: Sequence[Number] | None) -> list[float]:
    """Where error bars end."""
    found = []
    for sign, lengths in ((1, bars.array), (-1, bars.arrayminus)):
        pairs = zip(values or (), lengths if lengths is not None else (), strict=False)
        found += [v + sign * n for v, n in pairs if v is not None and n is not None]
    return found


def note(fig: go.Figure, text: str, **place: Any) -> None:
    """Add gray words at a place."""
    fig.add_annotation(text=text, showarrow=False, font={"size": 13, "color": GRAY}, **place)


def ink(value: Number, limit: float | int) -> str:
    """Color of the text in a heatmap's cell: dark on pale cells, white on strong ones."""
    return "white" if value is not None and abs(value) > 0.55 * limit else theme.INK


def cell_text(
    x: Sequence[Any],
    y: Sequence[Any],
    texts: Sequence[Sequence[str]],
    inks: Sequence[Sequence[str]],
    size: int = 14,
) -> go.Scatter:
    """Text of a heatmap's cells, each in its own color; `texts` and `inks` are by row, by column."""
    return go.Scatter(
        x=[at for _ in y for at in x],
        y=[at for at in y for _ in x],
        text=[text for row in texts for text in row],
        mode="text",
        textfont={"size": size, "color": [color for row in inks for color in row]},
        hoverinfo="skip",
        showlegend=False,
    )
