"""What the figures of a divergence share: reading its dict, model text, legends below panels."""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from figures import theme
from figures._parts import GRAY, Number, check_schema, note, part, safe

SCHEMA = "whenlens.divergence/1"
COMPONENTS = {
    "resid_post": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
}
_TITLE = 58
"""Pixels that an axis with its title takes below a panel."""
MISSING = "–"
"""Stands where a number was not measured."""
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}


def check(results: Mapping[str, Any]) -> None:
    """Raise ValueError when `results` is no dict of the schema that the figures read."""
    check_schema(results, SCHEMA, "divergence.json")


def entries(found: Mapping[str, Any], *keys: str) -> list[Mapping[str, Any]]:
    """The objects of an array at a path of keys; none where it is missing or null."""
    value = part(found, *keys)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def by_layer(found: Mapping[str, Any], *keys: str) -> list[Mapping[str, Any]]:
    """The objects of an array that say their layer, from the lowest layer up."""
    known = [one for one in entries(found, *keys) if one.get("layer") is not None]
    return sorted(known, key=lambda one: one["layer"])


def by_behavior(found: Mapping[str, Any], *keys: str) -> dict[str, Mapping[str, Any]]:
    """The objects by behavior at a path of keys; an empty one for a behavior that has null."""
    return {
        name: one if isinstance(one, Mapping) else {} for name, one in table(found, *keys).items()
    }


def table(found: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The object at a path of keys; an empty one where it is missing or null."""
    value = part(found, *keys)
    return value if isinstance(value, Mapping) else {}


def measured(values: Sequence[Number]) -> list[float | int]:
    """The numbers that are not null."""
    return [value for value in values if value is not None]


def number(value: Number, spec: str = ",") -> str:
    """A number to read, with a true minus; a dash where there is none."""
    if value is None:
        return MISSING
    text = f"{value:{spec}}"
    return text.replace("-", "−") if any(digit in text for digit in "123456789") else f"{0:{spec}}"


def behavior_label(name: str) -> str:
    """Display label of the behavior of a segment, which may have none."""
    return "No behavior" if name == "none" else theme.label(name)


def broken(text: str, width: int, most: int = 2) -> str:
    """Words over at most `most` lines of `width` characters, escaped; what is left is cut."""
    lines = textwrap.wrap(text, width, max_lines=most, placeholder="…")
    return "<br>".join(safe(line) for line in lines)


def visible(text: str, longest: int | None = None) -> str:
    """Text of a token with signs for white space and for what has no width, escaped.

    Args:
        longest: characters after which the text is cut; a cut is shown as `…`.
    """
    if not text:
        return "(empty)"
    signs = [_sign(character) for character in text]
    if longest is not None and len("".join(signs)) > longest:
        kept: list[str] = []
        for sign in signs:
            if len("".join(kept)) + len(sign) > longest - 1:
                break
            kept.append(sign)
        signs = [*kept, "…"]
    return safe("".join(signs))


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    # controls, marks of direction, lone surrogates and spaces of other widths
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"):
        return f"\\u{ord(character):04x}"
    return character


def lay_out(fig: go.Figure, width: int, height: int, bottom: int, top: int = 40) -> None:
    """Template, size and margins; titles of panels in the house size."""
    fig.update_layout(
        template=theme.TEMPLATE,
        width=width,
        height=height,
        margin={"t": top, "b": bottom},
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    fig.update_annotations(font_size=14)


def legend_below(fig: go.Figure, name: str, left: float | int, **settings: Any) -> None:
    """Put the legend `name` below a panel, an entry a line, from `left` in paper coordinates."""
    layout: Any = fig.layout
    top = (layout.margin.b - _TITLE) / layout.height
    place = {"x": left, "y": top, "yref": "container", "xanchor": "left", "yanchor": "top"}
    fig.update_layout(
        {name: {**place, "orientation": "v", "font": {"size": 13}, "tracegroupgap": 0, **settings}}
    )


def say_missing(fig: go.Figure, col: int, values: Sequence[Number], row: int = 1) -> None:
    """Say in a panel that it is empty because none of `values` was measured."""
    if not measured(values):
        place = {"x": 0.5, "y": 0.5, "xref": "x domain", "yref": "y domain"}
        note(fig, "not measured", row=row, col=col, **place)


def small(text: str) -> str:
    """A second line under the title of a panel."""
    return f'<br><span style="font-size:12px;color:{GRAY}">{text}</span>'
