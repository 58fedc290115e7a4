"""The report of a run: one HTML file that needs nothing beside it, verdicts first."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from figures import FIGURES, theme
from interp.verdicts import VERDICTS, too_few_nulls

CAPTIONS = {
    "causal_effects": (
        "What the directions do",
        "Change of each behavior's rate, the share of its chances that are taken, in full "
        "generations on the report split (dots). The test asks for more: the change beyond the "
        "largest change of any other behavior in the same direction (diamonds). A diamond beyond "
        "the gray bar beats 95% of the null directions.",
    ),
    "layer_sweep": (
        "Where a behavior is read and where it is caused",
        "Top: probe AUROC at the read position that the select split chose. Bottom: change of the "
        "behavior's probability at decision points of the base model when its direction is added.",
    ),
    "dose_response": (
        "How much it takes",
        "Change of the behavior's probability at decision points against the dose, at the chosen "
        "layer. One dose unit is the mean norm of the residual stream there.",
    ),
    "specificity_heatmap": (
        "What else a direction does",
        "Change in the rate of every behavior when one direction is added to the base model. "
        "Outlined: the behavior it is meant for. Pale: the 95% interval spans 0.",
    ),
    "behavior_frequency": (
        "How often each model does it",
        "Share of segments in sampled traces on the report split.",
    ),
    "model_cosine": (
        "Whether both models use the same direction",
        "Cosine between the direction fitted on the base and on the thinking model, by layer.",
    ),
}
"""Heading and caption of every figure in `figures.FIGURES`."""


def render_report(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> str:
    """Render the results of a run as one self-contained HTML page.

    Args:
        results: dict of schema `whenlens.results/1` (the run's results.json).
        examples: traces to show, each with its prompt, model and labeled segments (examples.json).

    Returns:
        The page. It loads nothing from outside (plotly.js, about 5 MB, is inside), and every
        text of a model passes through jinja2's autoescape.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    figures = [drawn(name, FIGURES[name](results), *CAPTIONS[name]) for name in FIGURES]
    ranks = list(VERDICTS)
    given: Mapping[str, Any] = results["behaviors"]

    def strongest_first(name: str) -> int:
        verdict = given[name].get("verdict")
        return ranks.index(verdict) if verdict in ranks else len(ranks)

    shown = {segment["behavior"] for one in examples for segment in one["segments"]} - {None}
    page = environment().get_template("report.html.j2")
    return page.render(
        results=results,
        names=sorted(in_order(given), key=strongest_first),
        examples=examples,
        legend=in_order(sorted(shown)),
        verdicts=VERDICTS,
        reading=reading(results),
        figures=figures,
        # inside a <script>, where plotly.js must not be escaped; it comes with plotly itself
        plotlyjs=Markup(get_plotlyjs()),
    )


def reading(results: Mapping[str, Any]) -> str:
    """One sentence: which behaviors of the base model are causal, readable or absent."""
    entries: Mapping[str, Any] = results["behaviors"]
    if not entries:
        return "No behavior was frequent enough to be measured."
    pair = "thinking" in (results.get("accuracy") or {"thinking": None})
    model = "the base model" if pair else "the model"
    few = too_few_nulls(entries)
    unscored = {name for name, entry in entries.items() if not _scored(entry)}
    verdicts = {name: entry.get("verdict") for name, entry in entries.items()}
    clauses = []
    for verdict, names, meaning in (
        (
            "causal",
            entries,
            f"{model} already carries a direction for {{them}}"
            + (", which favors “when”" if pair else ""),
        ),
        (
            "readable",
            entries,
            f"{model} represents {{them}}, but "
            + (few or "adding or removing the direction does not beat its null"),
        ),
        (
            "absent",
            entries.keys() - unscored,
            f"no direction for {{them}} was found in {model}"
            + (", which favors “how”" if pair else ""),
        ),
        (
            "absent",
            unscored,
            "too few problems of the report split show {them}, or lack {them}, for a probe to be scored, which is "
            "no evidence either way",
        ),
    ):
        found = [
            theme.label(name).lower()
            for name in in_order(verdicts)
            if verdicts[name] == verdict and name in names
        ]
        if found:
            verb, them = ("is", "it") if len(found) == 1 else ("are", "them")
            reason = meaning.format(them=them)
            clauses.append(f"{len(found)} {verb} {verdict} ({', '.join(found)}: {reason})")
    open_ones = sum(verdict not in VERDICTS for verdict in verdicts.values())
    if open_ones:
        clauses.append(f"{open_ones} without a verdict")
    noun = "behavior" if len(verdicts) == 1 else "behaviors"
    return f"Of {len(verdicts)} {noun}, {'; '.join(clauses)}."


def _scored(entry: Mapping[str, Any]) -> bool:
    return (entry.get("probe") or {}).get("auroc_ci") is not None


def in_order(names: Iterable[str]) -> list[str]:
    """Behaviors in the taxonomy's order, then any others as they come."""
    given = list(names)
    known = [name for name in theme.BEHAVIOR_COLORS if name in given]
    return known + [name for name in given if name not in known]


def drawn(name: str, figure: go.Figure, heading: str, caption: str) -> dict[str, Any]:
    """A figure as an HTML fragment that follows the width of the page, up to its own width."""
    width = figure.layout.width  # pyright: ignore[reportAttributeAccessIssue]
    figure.update_layout(width=None, autosize=True)
    fragment = to_html(
        figure,
        include_plotlyjs=False,
        full_html=False,
        div_id=f"plot-{name}",  # plotly's random id would change the page from run to run
        default_height=f"{figure.layout.height}px",  # pyright: ignore[reportAttributeAccessIssue]
        config={"responsive": True, "displayModeBar": False},
    )
    # to_html writes <, > and / of every string as escapes, so no label can end the script
    return {
        "name": name,
        "heading": heading,
        "caption": caption,
        "width": width,
        "plot": Markup(fragment),
    }


def environment() -> Environment:
    """The templates of all reports: text is escaped, numbers have their filters."""
    found = Environment(
        loader=PackageLoader("interp", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {"share": share, "points": _points, "decimal": _decimal}
    found.globals.update(shown)  # as arguments of a macro
    found.filters.update(
        **shown,
        p_value=_p_value,
        label=theme.label,
        color=theme.color,
        slug=_slug,
        seconds=_seconds,
    )
    return found


_MISSING = "–"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def share(value: float | None) -> str:
    """Share as a percentage: 0.312 becomes 31.2%."""
    if value is None:
        return _MISSING
    text = f"{value * 100:.1f}%"
    return "0.0%" if text == "-0.0%" else _minus(text)


def _points(value: float | None) -> str:
    """Signed change of a share in percentage points: 0.331 becomes +33.1."""
    if value is None:
        return _MISSING
    text = f"{value * 100:+.1f}"
    return "0.0" if text[1:] == "0.0" else _minus(text)


def _decimal(value: float | None) -> str:
    return _MISSING if value is None else _minus(f"{value:.3f}")


def _p_value(value: float | None) -> str:
    if value is None:
        return _MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    """Duration: seconds below two minutes, minutes above."""
    if value is None:
        return _MISSING
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _slug(behavior: str | None) -> str:
    """CSS class of a behavior: letters, digits and hyphens only."""
    return "b-" + re.sub(r"[^a-z0-9]+", "-", (behavior or "none").lower())
