"""Where in its trace a hybrid is steered: over all traces, and in one of them to read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._hybrid_parts import check
from figures._parts import in_order, label, nothing, part, safe

_SIZE = 13
_CHAR = 0.602 * _SIZE
_LINE = 22
_COLUMN = 40
"""Characters in a line of a column."""
_GAP = 30
_MOST = 45
"""Lines of a column that are shown."""
_MODELS = ("base", "hybrid", "thinking")
Token = Mapping[str, Any]


def firing_positions(results: Mapping[str, Any]) -> go.Figure:
    """Share of the generated tokens that are steered over the place in the trace, by behavior.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    firing = results.get("firing") or {}
    edges = firing.get("bins") or []
    tokens = firing.get("tokens") or []
    steered: Mapping[str, Sequence[float | None]] = firing.get("steered") or {}
    if len(edges) < 2 or not steered:
        return nothing("No token was steered.")
    fig = go.Figure()
    for name in in_order(steered):
        fig.add_trace(
            go.Bar(
                x=[50 * (low + high) for low, high in zip(edges, edges[1:], strict=False)],
                y=[
                    100 * count / total if count is not None and total else None
                    for count, total in zip(steered[name], tokens, strict=True)
                ],
                width=[100 * (high - low) for low, high in zip(edges, edges[1:], strict=False)],
                customdata=[
                    [count, total] for count, total in zip(steered[name], tokens, strict=True)
                ],
                marker={"color": theme.color(name), "line": {"color": "white", "width": 1}},
                name=label(name),
                hovertemplate="%{y:.1f}% (%{customdata[0]} of %{customdata[1]} tokens)",
            )
        )
    fig.update_xaxes(
        title_text="Place in the trace (% of its tokens)",
        range=[100 * edges[0], 100 * edges[-1]],
        showgrid=False,
    )
    fig.update_yaxes(title_text="Tokens steered<br>(% of generated tokens)", rangemode="tozero")
    fig.update_layout(
        template=theme.TEMPLATE,
        barmode="stack",
        width=860,
        height=430,
        margin={"t": 20, "b": 80 + 22 * -(-len(steered) // 5)},
        legend={
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "traceorder": "normal",
            "title": {"text": "Sentence of   ", "font": {"size": 13}},
        },
    )
    return fig


def side_by_side(results: Mapping[str, Any]) -> go.Figure:
    """The first example as the base, the hybrid and the thinking model wrote it, in columns.

    A token that steering changed is bold on a mark in its behavior's color; one that was steered
    to what the base model says anyway is underlined. Long traces are cut off.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    examples: Sequence[Mapping[str, Any]] = results.get("examples") or []
    if not examples:
        return nothing("No example was kept.")
    example = examples[0]
    fig = go.Figure()
    step = _COLUMN * _CHAR + _GAP
    width = len(_MODELS) * step - _GAP
    prompt = [
        runs for runs in _wrapped([{"text": example.get("problem") or ""}], int(width / _CHAR))
    ]
    prompt = prompt[:4]
    for i, runs in enumerate(prompt):
        _write(fig, "".join(safe(text) for text, _ in runs), 0.0, (i + 0.5) * _LINE, theme.MONO)
    top = (len(prompt) + 0.6) * _LINE
    deepest = top
    marked: dict[str, None] = {}
    for i, model in enumerate(_MODELS):
        entry = example.get(model) or {}
        correct = part(entry, "correct")
        verdict = {True: "✓ correct", False: "✗ wrong"}.get(correct, "not graded")
        hue = {True: "#00684C", False: "#A33B00"}.get(correct, theme.UNKNOWN)
        head = f'<b>{label(model)}</b>   <span style="color:{hue}">{verdict}</span>'
        _write(fig, head, i * step, top + 0.5 * _LINE, None, 15)
        fig.add_shape(
            type="line",
            x0=i * step,
            x1=i * step + _COLUMN * _CHAR,
            y0=top + 1.2 * _LINE,
            y1=top + 1.2 * _LINE,
            line={"color": theme.INK, "width": 1},
        )
        lines = _wrapped(entry.get("tokens") or [], _COLUMN)
        cut = len(lines) > _MOST
        for j, runs in enumerate(lines[:_MOST]):
            deepest = max(deepest, top + (j + 2.2) * _LINE)
            _trace_line(fig, runs, i * step, top + (j + 1.9) * _LINE, marked)
        if cut:
            note = f"… {len(lines) - _MOST} more lines"
            _write(fig, note, i * step, top + (_MOST + 1.9) * _LINE, None)
            deepest = max(deepest, top + (_MOST + 2.2) * _LINE)
    entries = _legend(fig, marked)
    bottom = 40 + 20 * -(-entries // 3)  # three entries a row, where they are long
    margin = {"l": 20, "r": 20, "t": 15, "b": bottom, "pad": 0, "autoexpand": False}
    fig.update_xaxes(visible=False, range=[0, width], fixedrange=True)
    fig.update_yaxes(visible=False, range=[deepest, 0], fixedrange=True)
    fig.update_layout(
        template=theme.TEMPLATE,
        # one unit of the axes is one pixel
        width=round(width) + margin["l"] + margin["r"],
        height=round(deepest) + margin["t"] + margin["b"],
        margin=margin,
        legend={
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )
    return fig


def _wrapped(tokens: Sequence[Token], width: int) -> list[list[tuple[str, Token]]]:
    """Tokens in lines of at most `width` characters, broken between words; runs of (text, token)."""
    text = "".join(_plain(token) for token in tokens)
    owner = [i for i, token in enumerate(tokens) for _ in _plain(token)]
    lines: list[list[int]] = [[]]
    for found in re.finditer(r"\n|[^\S\n]+|\S+", text):
        places = list(range(found.start(), found.end()))
        if found.group() == "\n":
            lines.append([])
            continue
        if len(lines[-1]) + len(places) > width and lines[-1]:
            lines.append([])
            if found.group().isspace():
                continue
        while len(places) > width:
            lines[-1] += places[:width]
            places = places[width:]
            lines.append([])
        lines[-1] += places
    return [
        [
            ("".join(text[at] for at in run), tokens[i])
            for i, run in groupby(line, key=lambda at: owner[at])
        ]
        for line in lines
    ]


def _plain(token: Token) -> str:
    """Text of a token; tabs and control characters, which have no width, become spaces."""
    return re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f]", " ", token.get("text") or "")


def _trace_line(
    fig: go.Figure, runs: Sequence[tuple[str, Token]], x: float, y: float, marked: dict[str, None]
) -> None:
    """One line of a trace, its steered tokens marked; enters their behaviors in `marked`."""
    shown = []
    for (text, token), start in zip(runs, _starts(runs), strict=True):
        word = safe(text)
        if token.get("steered") and text.strip():
            name = token.get("label") or ""
            marked[name] = None
            left = x + (start + len(text) - len(text.lstrip())) * _CHAR
            right = x + (start + len(text.rstrip())) * _CHAR
            if token.get("changed"):
                word = f"<b>{word}</b>"
                fig.add_shape(
                    type="rect",
                    x0=left - 1.5,
                    x1=right + 1.5,
                    y0=y - 9,
                    y1=y + 9,
                    fillcolor=theme.color(name),
                    opacity=0.35,
                    line={"width": 0},
                    layer="below",
                )
            else:
                fig.add_shape(
                    type="line",
                    x0=left,
                    x1=right,
                    y0=y + 9,
                    y1=y + 9,
                    line={"width": 2, "color": theme.color(name)},
                )
        shown.append(word)
    _write(fig, "".join(shown), x, y, theme.MONO)


def _starts(runs: Sequence[tuple[str, Token]]) -> Iterator[int]:
    """Column at which each run of a line starts."""
    at = 0
    for text, _ in runs:
        yield at
        at += len(text)


def _write(
    fig: go.Figure, text: str, x: float, y: float, family: str | None, size: int = _SIZE
) -> None:
    fig.add_annotation(
        text=text,
        x=x,
        y=y,
        xanchor="left",
        yanchor="middle",
        align="left",
        showarrow=False,
        borderpad=0,
        font={"size": size, "family": family},
    )


def _legend(fig: go.Figure, marked: Mapping[str, None]) -> int:
    """What the marks mean, a square a behavior and the two ways of being steered; how many."""
    behaviors = {name: label(name) if name else "no behavior" for name in in_order(marked)}
    signs = [("square", theme.color(name), text) for name, text in behaviors.items()]
    if marked:
        signs += [
            ("square", "#C4C4C4", "<b>bold on a mark</b>: steered to another token"),
            ("line-ew-open", "#8C8C8C", "underlined: steered, same token"),
        ]
    for symbol, color, text in signs:
        fig.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="markers",
                marker={
                    "symbol": symbol,
                    "size": 11,
                    "color": color,
                    "line": {"width": 2, "color": color},
                },
                name=text,
                showlegend=True,
            )
        )
    return len(signs)
