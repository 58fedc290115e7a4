"""At which layer two models part, where it can be foreseen, and what a half of a model carries."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme
from figures._divergence_parts import (
    by_layer,
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
    curve,
    layer_axis,
    nothing,
    part,
    percent,
    percents,
    ring,
    safe,
    shared_range,
)

_PLACES = {
    "disagreement": "disagreements",
    "first": "first disagreements",
    "agreement": "matched agreements",
}
_EFFECTS = {"upstream": "upstream effect", "late": "late effect", "interaction": "interaction"}
Row = Mapping[str, Any]


def layer_curves(results: Mapping[str, Any]) -> go.Figure:
    """KL(thinking||base) of logit lenses (left) and prediction of disagreement (right) by layer.

    Left, at disagreements, at first disagreements and at agreements matched by the base's entropy
    and by place. Right, AUROC of a probe of the base's activations for whether the next token will
    differ; lines at the base's entropy as the score and at a probe of shuffled labels, a ring
    around the layer that the select split chose. Bars are 95% intervals.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    lens = {name: by_layer(results, "layers", "lens", name) for name in _PLACES}
    predict = table(results, "predict_disagreement")
    probe = by_layer(predict, "by_layer")
    known = [one.get("kl") for rows in lens.values() for one in rows]
    known += [one.get("auroc") for one in probe]
    if not measured(known):
        return nothing("No layer was measured.")
    fig = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=[
            "Logit lenses of both models" + small("KL(thinking||base)"),
            "Can disagreement be foreseen?" + small(_against_entropy(predict)),
        ],
    )
    counts = table(results, "layers", "n")
    for name, rows in lens.items():
        count = counts.get(name)
        words = _PLACES[name] + ("" if count is None else f" (n = {number(count)})")
        _add(fig, 1, rows, "kl", "ci", theme.PLACE_COLORS[name], words, ".3f", "legend")
    _add(
        fig, 2, probe, "auroc", "ci", theme.INK, "probe of the base's activations", ".3f", "legend2"
    )
    layers = [one["layer"] for rows in (*lens.values(), probe) for one in rows]
    axis = layer_axis(layers)
    chosen = predict.get("layer")
    height = next((one.get("auroc") for one in probe if one["layer"] == chosen), None)
    if height is not None:
        circle = ring(chosen, height, "layer chosen on select")
        fig.add_trace(circle.update(legend="legend2", showlegend=True), row=1, col=2)
    for key, words, hue, dash in (
        ("base_entropy_auroc", "the base's entropy", theme.PLACE_COLORS["first"], "dash"),
        ("shuffled_auroc", "probe of shuffled labels", theme.UNKNOWN, "dot"),
    ):
        _level(fig, predict.get(key), axis["range"], words, hue, dash)
    interval = predict.get("base_entropy_ci")
    if interval and None not in interval and predict.get("base_entropy_auroc") is not None:
        _band(fig, interval)
    fig.update_xaxes(title_text="Layer", **axis)
    keys = [row for rows in lens.values() for row in rows]
    say_missing(fig, 1, [one.get("kl") for one in keys])
    say_missing(fig, 2, [one.get("auroc") for one in probe])
    fig.update_yaxes(
        title_text="KL (nats, 95% CI)", range=shared_range(keys, ("kl", "ci"), (0.0,)), col=1
    )
    levels = ("base_entropy_auroc", "base_entropy_ci", "shuffled_auroc", "auroc", "ci")
    fig.update_yaxes(
        title_text="AUROC (95% CI)",
        range=shared_range([*probe, predict], levels, (0.5,)),
        col=2,
    )
    lay_out(fig, 900, 470, bottom=155, top=60)
    legend_below(fig, "legend", 0)
    legend_below(fig, "legend2", fig.layout.xaxis2.domain[0])  # pyright: ignore
    return fig


def patching_factorial(results: Mapping[str, Any]) -> go.Figure:
    """Effects of the residual stream up to a layer and of the blocks above it, by layer.

    Left, effects on the logit of the thinking model's token minus that of the base's. Right, the
    part of the whole that the upstream effect has in the base's late stack. Bars are 95% intervals.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    check(results)
    rows = by_layer(results, "patching", "factorial")
    if not measured([one.get(key) for one in rows for key in (*_EFFECTS, "portable")]):
        return nothing("No factorial patch was measured.")
    count = part(results, "patching", "n")
    fig = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=["Effects on the logit difference", "What is portable"],
    )
    for name, words in _EFFECTS.items():
        hue = theme.EFFECT_COLORS[name]
        _add(fig, 1, rows, name, f"{name}_ci", hue, words, "+.3f", "legend")
    shares = [
        {
            "layer": one["layer"],
            "portable": percent(one.get("portable")),
            "ci": percents(one.get("portable_ci")),
        }
        for one in rows
    ]
    words = "upstream effect in the base's late stack"
    _add(fig, 2, shares, "portable", "ci", theme.INK, words, ".1f", "legend2")
    axis = layer_axis([one["layer"] for one in rows])
    say_missing(fig, 1, [one.get(name) for one in rows for name in _EFFECTS])
    say_missing(fig, 2, [one["portable"] for one in shares])
    fig.update_yaxes(zeroline=True, zerolinewidth=1, zerolinecolor=theme.INK)
    fig.update_xaxes(title_text="Layer at which the models are joined", **axis)
    effects = [*_EFFECTS, *(f"{name}_ci" for name in _EFFECTS)]
    fig.update_yaxes(title_text="Effect (logits)", range=shared_range(rows, effects, (0.0,)), col=1)
    fig.update_yaxes(
        title_text="Portable share<br>(% of the whole, 95% CI)",
        range=shared_range(shares, ("portable", "ci"), (0.0, 100.0)),
        col=2,
    )
    lay_out(fig, 900, 450, bottom=150)
    legend_below(fig, "legend", 0)
    legend_below(fig, "legend2", fig.layout.xaxis2.domain[0])  # pyright: ignore
    if count is not None:
        fig.update_layout(
            legend={"title": {"text": f"n = {number(count)} divergences", "font": {"size": 13}}}
        )
    return fig


def _add(
    fig: go.Figure,
    col: int,
    rows: Sequence[Row],
    key: str,
    ci: str,
    hue: str,
    words: str,
    spec: str,
    legend: str,
) -> None:
    """A curve over layers in a panel, named in a legend where it has a number."""
    line = curve(rows, "layer", key, ci, "", spec)
    line.update(line_color=hue, marker_color=hue, error_y_color=hue, name=safe(words))
    if not any(one.get(ci) for one in rows):
        line.hovertemplate = f"layer %{{x}}: %{{y:{spec}}}"
    line.update(legend=legend, showlegend=bool(measured([one.get(key) for one in rows])))
    fig.add_trace(line, row=1, col=col)


def _level(
    fig: go.Figure, value: Number, span: Sequence[float], words: str, hue: str, dash: str
) -> None:
    """A horizontal line through the right panel at `value`."""
    if value is not None:
        fig.add_trace(
            go.Scatter(
                x=list(span),
                y=[value, value],
                mode="lines",
                line={"color": hue, "width": 2, "dash": dash},
                name=f"{words} ({value:.3f})",
                legend="legend2",
                hoverinfo="skip",
            ),
            row=1,
            col=2,
        )


def _band(fig: go.Figure, interval: Sequence[Number]) -> None:
    """The interval of the entropy's AUROC, behind everything."""
    fig.add_hrect(
        y0=interval[0],
        y1=interval[1],
        fillcolor=theme.PLACE_COLORS["first"],
        opacity=0.12,
        line={"width": 0},
        layer="below",
        row=1,  # pyright: ignore[reportArgumentType]
        col=2,  # pyright: ignore[reportArgumentType]
    )


def _against_entropy(predict: Mapping[str, Any]) -> str:
    """What the probe adds to the base's entropy, in words."""
    value, interval = part(predict, "difference", "value"), part(predict, "difference", "ci")
    if value is None:
        return "probe of the base's activations"
    low, high = (number(end, "+.3f") for end in interval or (None, None))
    return f"probe minus entropy: {number(value, '+.3f')} [{low}, {high}]"
