"""The report of a hybrid run: one HTML file that needs nothing beside it, the verdict first."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from figures import HYBRID_FIGURES
from interp.report import drawn, environment, in_order, share

HYBRID_CAPTIONS = {
    "recovery_by_arm": (
        "What each arm recovers",
        "0% is the base model alone, 100% the thinking model; negative is worse than the base. "
        "Controls differ from the hybrid in what their name says. The dashed line is the ceiling: "
        "the thinking model’s own token at the positions that the hybrid steers. Small dots are "
        "single sets of random vectors. Where the gap was refused, the axis is accuracy.",
    ),
    "recovery_by_share": (
        "How much steering it takes",
        "Recovery against the share of generated tokens that are steered. Lines: steered only "
        "where the thinking model’s margin for its own token over the base’s is at least so much, "
        "which rises from right to left. Unlabeled arms are pale; point at one for its name.",
    ),
    "firing_positions": (
        "Where in the trace it steers",
        "Steered tokens as a share of all generated tokens at that place, by the behavior of the "
        "sentence that the token is part of.",
    ),
    "factorial_heatmap": (
        "Which combination was chosen",
        "Recovery on the select split of every combination, one seed. The best full hybrids ran "
        "again with every seed on all select problems; outlined is the one with the simplest "
        "coefficients of those about as far above random vectors as any, which was measured on the "
        "report split. Blank: not measured, or the gap was refused.",
    ),
}
"""Heading and caption of the figures of the page; `side_by_side` is there as HTML instead."""

ANSWERS = {
    "when": ("causal", "Mostly when"),
    "how": ("readable", "Mostly how"),
    "cannot-tell": ("absent", "Cannot tell"),
}
"""CSS class and plain words of each answer."""

KIND_HEADINGS = {
    "method": "Methods",
    "control": "Controls",
    "ceiling": "Ceiling",
    "baseline": "Baselines",
}


def write_hybrid_report(results: dict, path: Path) -> None:
    """Write the page of `render_hybrid_report` to `path`."""
    path.write_text(render_hybrid_report(results), encoding="utf-8")


def render_hybrid_report(results: Mapping[str, Any]) -> str:
    """Render a hybrid run as one self-contained HTML page.

    Args:
        results: dict of schema `whenlens.hybrid/1` (the run's hybrid.json).

    Returns:
        The page. It loads nothing from outside (plotly.js, about 5 MB, is inside), and every
        text of a model passes through jinja2's autoescape.

    Raises:
        ValueError: when `results` is not of the schema that the figures read.
    """
    figures = [
        drawn(name, HYBRID_FIGURES[name](results), *caption)
        for name, caption in HYBRID_CAPTIONS.items()
    ]
    examples = [_example(one) for one in results.get("examples") or ()]
    templates = environment()
    templates.filters.update(count=_count, two=_two)
    return templates.get_template("hybrid_report.html.j2").render(
        results=results,
        sentence=verdict_sentence(results),
        answer=ANSWERS.get(
            (results.get("verdict") or {}).get("answer") or "", ("open", "No answer")
        ),
        groups=_groups(results),
        examples=examples,
        legend=in_order(_labels(examples)),
        figures=figures,
        config=json.dumps(results.get("config"), indent=1),
        # inside a <script>, where plotly.js must not be escaped; it comes with plotly itself
        plotlyjs=Markup(get_plotlyjs()),
    )


def verdict_sentence(results: Mapping[str, Any]) -> str:
    """One sentence in plain words: the answer, its value with the interval, and the reason."""
    verdict = results.get("verdict") or {}
    lead = {
        "when": "The base model mostly lacks when, not how",
        "how": "The base model mostly lacks how, not only when",
        "cannot-tell": "This run cannot tell when from how",
    }.get(verdict.get("answer") or "", "This run gives no answer")
    clauses = []
    if verdict.get("value") is not None:
        low, high = verdict.get("ci") or (None, None)
        interval = "" if low is None or high is None else f" [{share(low)}, {share(high)}]"
        clauses.append(
            f"steered, it reaches by itself {share(verdict['value'])}{interval} of what the thinking "
            "model’s own tokens add at the same positions, beyond the strongest control"
        )
    if verdict.get("reason"):
        clauses.append(str(verdict["reason"]).strip().rstrip("."))
    return f"{lead}{': ' if clauses else ''}{'; '.join(clauses)}."


def _groups(results: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Arms under the heading of their kind, the chosen one first."""
    arms: Mapping[str, Mapping[str, Any]] = results.get("arms") or {}
    found: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in KIND_HEADINGS.values()}
    for name in sorted(arms, key=lambda name: name != "hybrid"):
        kind = arms[name].get("kind") or "method"
        found.setdefault(KIND_HEADINGS.get(kind, kind), {})[name] = arms[name]
    return {heading: group for heading, group in found.items() if group}


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its tokens as runs: plain text, or one steered token."""
    models = {}
    for model in ("base", "hybrid", "thinking"):
        entry = example.get(model) or {}
        models[model] = {
            "correct": entry.get("correct"),
            "runs": _runs(entry.get("tokens") or ()),
        }
    return {"problem": example.get("problem") or "", "models": models}


def _runs(tokens: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens as runs of text; the space before a steered token is not part of its mark."""
    runs: list[dict[str, Any]] = []

    def plain(text: str) -> None:
        if text and runs and not runs[-1]["steered"]:
            runs[-1]["text"] += text
        elif text:
            runs.append({"text": text, "steered": False})

    for token in tokens:
        text = token.get("text") or ""
        word = text.lstrip() if token.get("steered") else ""
        plain(text[: len(text) - len(word)])
        if word:
            mark = {"changed": bool(token.get("changed")), "label": token.get("label")}
            runs.append({"text": word, "steered": True, **mark})
    return runs


def _labels(examples: Iterable[Mapping[str, Any]]) -> list[str]:
    """Behaviors of the marks that the examples show."""
    runs = [run for one in examples for entry in one["models"].values() for run in entry["runs"]]
    return sorted({run["label"] for run in runs if run["steered"]} - {None})


def _count(value: float | int | None) -> str:
    """A number of things: 152034 becomes 152,034."""
    return "–" if value is None else f"{value:,.0f}"


def _two(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.2f}"
