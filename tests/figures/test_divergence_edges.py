"""Figures of a divergence with gaps, hostile text and long names: nothing breaks or overlaps."""

import copy
import json
import re
import runpy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from figures import DIVERGENCE_FIGURES, FIGURES, HYBRID_FIGURES, export, figures_of

_HERE = Path(__file__).parent
_MADE = runpy.run_path(str(_HERE / "synthetic_divergence.py"))
_OTHERS = runpy.run_path(str(_HERE / "synthetic.py"))
_PAGES = runpy.run_path(str(_HERE / "pages.py"))
LONG = [
    "uncertainty-estimation", "an-unsupervised-category-of-many-words-with-incomprehensibility",
    "deduction", "backtracking", "verification", "subgoal-setting", "final-answer", "none",
    "example-testing", "adding-knowledge", "initializing",
]  # fmt: skip
PLACES = ("layer", "from", "to", "distance", "offsets")
"""Where something is, which is known also where nothing was measured."""


@pytest.fixture
def results() -> dict[str, Any]:
    return _MADE["make_divergence"]()


def draw(name: str, results: dict[str, Any]) -> Any:
    """A figure by name (typed as anything, because plotly types its traces too loosely)."""
    return DIVERGENCE_FIGURES[name](results)


def without_numbers(value: Any, every: int = 1, seen: list[int] | None = None) -> Any:
    """The same tree with null for every number, or for every so-and-so-many-th one."""
    seen = [0] if seen is None else seen
    if isinstance(value, dict):
        return {k: v if k in PLACES else without_numbers(v, every, seen) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(item, every, seen) for item in value]
    if isinstance(value, str) or value is None:
        return value
    seen[0] += 1
    return None if seen[0] % every == 0 else value


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
def test_figures_of_nothing_but_nulls_say_so_or_show_dashes(name, results):
    fig = draw(name, without_numbers(results))
    if name == "promoted_tokens":  # its texts are known
        counts = next(t for t in fig.data if t.name == "count in words")
        assert set(counts.text) == {"–"}
    else:
        assert not fig.data and fig.layout.annotations[0].text.startswith("No ")


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
@pytest.mark.parametrize("every", [2, 3, 5, 7])
def test_figures_draw_what_is_left_where_some_numbers_are_null(name, every, results):
    fig = draw(name, without_numbers(results, every))
    assert fig.data
    assert "NaN" not in fig.to_json()


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
@pytest.mark.parametrize("empty", [None, [], {}])
def test_figures_of_an_empty_run_say_so(name, empty):
    keys = ("sources", "promoted", "predict_disagreement", "layers", "patching", "explained")
    bare = {"schema": "whenlens.divergence/1"}
    for case in (bare, bare | {key: empty for key in (*keys, "weights")}):
        fig = draw(name, case)
        assert not fig.data and fig.layout.annotations[0].text.startswith("No ")


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key of the tree, by its path, into the first item of every array."""
    items = value.items() if isinstance(value, dict) else []
    items = [(0, value[0])] if isinstance(value, list) and value else items
    found = []
    for key, inner in items:
        found += [(*at, key), *paths(inner, (*at, key))]
    return found


READS = {
    "divergence_along_trace": [
        ("sources", "thinking", "by_position"),
        ("sources", "hybrid", "by_position"),
    ],
    "divergence_by_segment": [
        ("sources", "thinking", "by_behavior"),
        ("sources", "thinking", "by_distance"),
    ],
    "promoted_tokens": [("promoted",)],
    "layer_curves": [("layers",), ("predict_disagreement",)],
    "patching_heatmap": [("patching", "heatmap"), ("patching", "offsets"), ("patching", "at_last")],
    "patching_factorial": [("patching", "factorial"), ("patching", "n")],
    "explained_divergences": [("explained",)],
    "weight_changes": [("weights",)],
}
"""What each figure reads; its other keys are those that every figure ignores."""


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
@pytest.mark.parametrize("gone", [False, True], ids=["null", "missing"])
def test_figures_draw_without_any_one_key(name, gone, results):
    read = [p for p in paths(results) if any(p[: len(start)] == start for start in READS[name])]
    # an array of numbers keeps its length
    shown = [path for path in read if not isinstance(path[-1], int)]
    assert len(shown) >= 8
    for path in shown:
        case = copy.deepcopy(results)
        holder = case
        for key in path[:-1]:
            holder = holder[key]
        if gone:
            del holder[path[-1]]
        else:
            holder[path[-1]] = None
        draw(name, case)


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
@pytest.mark.parametrize("wrong", [{}, {"schema": "whenlens.hybrid/1"}, {"schema": None}])
def test_figures_refuse_another_schema(name, wrong):
    with pytest.raises(ValueError, match=r"expected 'whenlens\.divergence/1': pass .*divergence"):
        draw(name, wrong)


def test_the_schema_chooses_the_catalog(results):
    assert figures_of(results) is DIVERGENCE_FIGURES
    assert figures_of(_OTHERS["make_hybrid"]()) is HYBRID_FIGURES
    assert figures_of(_OTHERS["make_results"]()) is FIGURES
    with pytest.raises(ValueError, match=r"or 'whenlens\.divergence/1'.*divergence\.json"):
        figures_of({"schema": "other/3"})


LINK = '<a href="https://example.com">b</a><b>&amp;'
SCRIPT = "<script>x</script>"


def hostile(results: dict[str, Any]) -> dict[str, Any]:
    results["promoted"][0] |= {"token": LINK, "base_token": SCRIPT}
    results["sources"][LINK] = results["sources"]["base"]
    found = results["sources"]["thinking"]["by_behavior"]
    found[LINK] = found["deduction"]
    explained = results["explained"]
    explained["by_behavior"][LINK] = explained["by_behavior"]["verification"]
    explained["table"][LINK] = {LINK: 0.2}
    results["weights"][0]["module"] = LINK
    results["weights"][5] |= {"module": LINK, "component": LINK}
    return results


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
def test_no_text_of_the_dict_opens_a_tag(name, results):
    shown = draw(name, hostile(results)).to_json()
    if name not in ("layer_curves", "patching_heatmap", "patching_factorial"):
        assert "example.com" in shown.lower()
    for opening in (r"\u003ca href", "<a href", r"\u003cscript", "<script"):
        assert opening not in shown.lower()


def test_export_writes_every_figure_with_hostile_text_as_text(results, tmp_path):
    export(hostile(results), tmp_path, ["svg", "html"])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in DIVERGENCE_FIGURES for kind in ("svg", "html")
    }
    shown = (tmp_path / "promoted_tokens.svg").read_text(encoding="utf-8")
    assert "<script" not in shown and "example" not in shown and "␣check" in shown
    for path in tmp_path.glob("*.svg"):
        code = re.sub(">[^<]*<", "><", path.read_text(encoding="utf-8"))
        links = re.findall(r"""(?:href|src)\s*=\s*["']([^"']*)""", code)
        assert not [link for link in links if not link.startswith(("#", "data:"))]
    for path in tmp_path.glob("*.html"):
        assert _PAGES["links"](path.read_text(encoding="utf-8")) == []


_MEASURE = """
const figure = document.getElementById("{plot_id}"), frame = figure.getBoundingClientRect();
const texts = [...figure.querySelectorAll("text")].filter(t => t.textContent.trim()).map(t => {
  const box = t.getBoundingClientRect();
  return [t.textContent, box.left - frame.left, box.top - frame.top,
          box.right - frame.left, box.bottom - frame.top];
});
const note = document.createElement("pre");
note.className = "boxes";
note.textContent = JSON.stringify({name: "{plot_id}", texts: texts});
document.body.appendChild(note);
"""


def boxes(figures: dict[str, Any], folder: Path) -> dict[str, list[Any]]:
    """Every text of every figure and where a browser draws it: text, left, top, right, bottom."""
    body = "".join(
        fig.to_html(full_html=False, include_plotlyjs=i == 0, div_id=name, post_script=_MEASURE)
        for i, (name, fig) in enumerate(figures.items())
    )
    page = folder / "page.html"
    page.write_text(f'<html><meta charset="utf-8"><body>{body}</body></html>', encoding="utf-8")
    drawn = _PAGES["run_in_chromium"](page)
    found = re.findall(r'<pre class="boxes">(.*?)</pre>', drawn, flags=re.S)
    measured = [json.loads(re.sub("&lt;", "<", text).replace("&amp;", "&")) for text in found]
    assert {one["name"] for one in measured} == set(figures)
    return {one["name"]: one["texts"] for one in measured}


def overlapping(texts: list[Any], slack: float = 2.0) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than `slack` pixels both across and down."""
    return [
        (one[0], other[0])
        for one, other in combinations(texts, 2)
        if min(one[3], other[3]) - max(one[1], other[1]) > slack
        and min(one[4], other[4]) - max(one[2], other[2]) > slack
    ]


def test_a_browser_draws_every_text_whole_and_apart_from_the_others(tmp_path):
    long = [("an incomprehensibly long token", "\n" * 30), *_MADE["PAIRS"]] * 2
    cases = {
        "small": _MADE["make_divergence"](),
        "large": _MADE["make_divergence"](26, LONG, long[:20]),
        "gaps": without_numbers(_MADE["make_divergence"](12), 3),
    }
    drawn = {
        f"{name}_{case}": figure(copy.deepcopy(results))
        for case, results in cases.items()
        for name, figure in DIVERGENCE_FIGURES.items()
    }
    crowded = copy.deepcopy(drawn["layer_curves_small"])
    crowded.add_annotation(text="a text on another", x=0.5, y=0, yshift=-40, yref="paper")
    crowded.add_annotation(text="a text on this one", x=0.5, y=0, yshift=-40, yref="paper")
    found = boxes({**drawn, "crowded": crowded}, tmp_path)
    assert overlapping(found.pop("crowded"))  # the measurement sees what it is to see
    for name, texts in found.items():
        layout = drawn[name].layout
        assert len(texts) > 10
        assert overlapping(texts) == [], name
        cut = [t for t in texts if t[1] < -1 or t[2] < -1 or t[3] > layout.width + 1]
        assert cut + [t for t in texts if t[4] > layout.height + 1] == [], name
