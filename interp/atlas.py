"""The atlas: traces token by token, shaded by how far two models part, as one HTML page."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from figures import theme
from interp.errors import UserError
from interp.report import environment, in_order, share

SCHEMA = "whenlens.atlas/1"

SCALE = ("#ffffff", "#fdd0a2", "#fd8d3c", "#d94801", "#7f2704")
"""Colors of JS divergence from 0 to ln 2 nats, at equal steps and linear between them
(ColorBrewer's Oranges: one hue, darker is more, safe for color-blind readers)."""

DIVERGING = ("#b2182b", "#ef8a62", "#ffffff", "#67a9cf", "#2166ac")
"""Colors of restored shares from -1 to 1 (ColorBrewer's RdBu); beyond, the end's color."""

_HEIGHT = 760
"""Pixels of the page inside a notebook."""

_SOURCES = ("thinking", "base", "hybrid")
_BY_TOKEN = ("tokens", "js", "kl", "h_base", "h_thinking", "rank", "top_base", "top_thinking")


class Atlas:
    """An atlas that a notebook shows as the page itself.

    Args:
        atlas: dict of schema `whenlens.atlas/1` (a run's atlas.json).

    Raises:
        UserError: when `atlas` is not of that schema.
    """

    def __init__(self, atlas: Mapping[str, Any]) -> None:
        self.page = render_atlas(atlas)

    def _repr_html_(self) -> str:
        # sandboxed: scripts run, but reach neither the notebook nor anything else
        return (
            f'<iframe srcdoc="{escape(self.page)}" sandbox="allow-scripts" '
            f'title="Atlas" width="100%" height="{_HEIGHT}" style="border:0"></iframe>'
        )


def write_atlas(atlas: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of `render_atlas` to `path`.

    Raises:
        UserError: when `atlas` is not of schema `whenlens.atlas/1`.
    """
    Path(path).write_text(render_atlas(atlas), encoding="utf-8")


def render_atlas(atlas: Mapping[str, Any]) -> str:
    """Render traces as one self-contained HTML page to read, sort and filter.

    Each trace is a JSON script of its own, which the page parses when the trace comes into view,
    so many traces open as fast as few. Numbers keep six significant digits; what is null,
    missing or not finite is shown as not measured.

    Args:
        atlas: dict of schema `whenlens.atlas/1` (a run's atlas.json).

    Returns:
        The page. It loads nothing from outside. Text of a model stands in JSON alone, where `<`,
        `>`, `&` and all but ASCII are escapes, and becomes text nodes, never markup.

    Raises:
        UserError: when `atlas` is not of that schema.
    """
    given = atlas.get("schema")
    if given != SCHEMA:
        raise UserError(
            f"This atlas has schema {given!r}, expected {SCHEMA!r}: "
            "pass the dict read from the atlas.json of a run."
        )
    traces: Sequence[Mapping[str, Any]] = atlas.get("traces") or ()
    summaries = [_summary(trace) for trace in traces]
    behaviors = _behaviors(atlas.get("behaviors") or (), summaries)
    meta = {
        "components": atlas.get("components") or [],
        "offsets": atlas.get("offsets") or [],
        "behaviors": behaviors,
        "scale": SCALE,
        "diverging": DIVERGING,
        "traces": summaries,
    }
    sources = Counter(one["source"] for one in summaries)
    ordered = sorted(sources, key=lambda name: _SOURCES.index(name) if name in _SOURCES else 9)
    return (
        environment()
        .get_template("atlas.html.j2")
        .render(
            pair=atlas.get("pair") or "unnamed pair",
            n_layers=atlas.get("n_layers"),
            counts=_counts(summaries, {name: sources[name] for name in ordered}),
            sources=[name for name in ordered if name is not None],
            behaviors=behaviors,
            legend=[one["name"] for one in behaviors if one["name"] is not None],
            scale=SCALE,
            meta=_embedded(meta),
            bodies=map(_embedded, map(_body, traces)),
        )
    )


def _summary(trace: Mapping[str, Any]) -> dict[str, Any]:
    """What the list of traces needs of one before its tokens are shown."""
    tokens = trace.get("tokens") or ()
    js = [value for value in trace.get("js") or () if value is not None and math.isfinite(value)]
    return {
        "id": trace.get("id"),
        "problem": trace.get("problem"),
        "source": trace.get("source"),
        "correct": trace.get("correct"),
        "tokens": len(tokens),
        "characters": sum(map(len, tokens)),
        "lines": sum(text.count("\n") for text in tokens),
        "mean_js": _rounded(math.fsum(js) / len(js)) if js else None,
        "max_js": _rounded(max(js)) if js else None,
        "disagree": sorted(
            {place for place in trace.get("disagree") or () if 0 <= place < len(tokens)}
        ),
        "segments": [
            {key: one.get(key) for key in ("start", "end", "behavior")}
            for one in trace.get("segments") or ()
        ],
    }


def _body(trace: Mapping[str, Any]) -> dict[str, Any]:
    """What a trace shows of its tokens and of what was measured inside the models."""
    body = {name: _rounded(trace.get(name) or []) for name in _BY_TOKEN}
    return body | {name: _rounded(trace.get(name) or {}) for name in ("lens", "patching")}


def _behaviors(
    listed: Iterable[str], summaries: Iterable[Mapping[str, Any]]
) -> list[dict[str, str | None]]:
    """Listed behaviors and those of segments, in the taxonomy's order; last, if any, none."""
    found = [segment["behavior"] for one in summaries for segment in one["segments"]]
    filters = environment().filters
    names = in_order(dict.fromkeys([*listed, *(name for name in found if name is not None)]))
    shown = [
        {"name": name, "label": theme.label(name), "slug": filters["slug"](name)} for name in names
    ]
    nameless = [{"name": None, "label": "No behavior", "slug": filters["slug"](None)}]
    return shown + nameless * (None in found)


def _counts(summaries: Sequence[Mapping[str, Any]], sources: Mapping[str | None, int]) -> str:
    """One line: how many traces of whom, tokens and disagreements."""
    tokens = sum(one["tokens"] for one in summaries)
    apart = sum(len(one["disagree"]) for one in summaries)
    of = ", ".join(f"{count:,} {name or 'of unknown source'}" for name, count in sources.items())
    if not tokens:
        return f"Traces: {of}, without tokens." if of else "No traces."
    return f"Traces: {of}. {tokens:,} tokens, {apart:,} disagreements ({share(apart / tokens)})."


def _rounded(value: Any) -> Any:
    """The same tree with floats to six significant digits, and null for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def _embedded(value: Any) -> Markup:
    """JSON for a script element, in which no text can end the element."""
    return htmlsafe_json_dumps(value, separators=(",", ":"))
