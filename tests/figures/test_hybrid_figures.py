"""The figures of a hybrid run show the numbers of its dict, and never its text as markup."""

import copy
import html
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from figures import FIGURES, HYBRID_FIGURES, export, figures_of, theme

_HERE = Path(__file__).parent
_MADE = runpy.run_path(str(_HERE / "synthetic.py"))
_PAGES = runpy.run_path(str(_HERE / "pages.py"))
CONTROLS = [
    "random-vectors", "random-category", "least-similar-category", "random-positions",
    "magnitude-only", "bias-only", "logit-bias",
]  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    return _MADE["make_hybrid"]()


@pytest.fixture
def refused() -> dict[str, Any]:
    return _MADE["make_hybrid"](refused=True)


def draw(name: str, results: dict[str, Any]) -> Any:
    """A figure by name (typed as anything, because plotly types its traces too loosely)."""
    return HYBRID_FIGURES[name](results)


def title(name: str) -> str:
    return name.replace("-", " ").capitalize()


def bounds(trace: Any, axis: str, i: int) -> tuple[float, float] | None:
    """Where the error bar of a trace's point `i` ends."""
    bars = getattr(trace, f"error_{axis}")
    if bars.array[i] is None:
        return None
    at = getattr(trace, axis)[i]
    return at - bars.arrayminus[i], at + bars.array[i]


def points(fig: Any) -> dict[str, tuple[Any, int]]:
    """The trace and the place in it of every arm, by its display name."""
    return {
        name: (trace, i)
        for trace in fig.data
        if trace.type == "scatter" and trace.mode == "markers" and trace.text
        for i, name in enumerate(trace.text)
    }


@pytest.mark.parametrize("name", HYBRID_FIGURES)
@pytest.mark.parametrize("made", ["results", "refused"])
def test_every_figure_is_a_figure_in_the_house_template(name, made, request):
    given = request.getfixturevalue(made)
    before = copy.deepcopy(given)
    fig = draw(name, given)
    assert isinstance(fig, go.Figure)
    assert fig.layout.template.layout.plot_bgcolor == "white"
    assert fig.layout.width and fig.layout.height
    assert any(trace.showlegend is not False for trace in fig.data)
    assert given == before


@pytest.mark.parametrize("figure, axis", [("recovery_by_arm", "x"), ("recovery_by_share", "y")])
@pytest.mark.parametrize(
    "made, key", [("results", "gap_recovery"), ("refused", "accuracy")], ids=["gap", "refused"]
)
def test_every_arm_stands_at_its_percent_with_its_interval(figure, axis, made, key, request):
    given = request.getfixturevalue(made)
    fig = draw(figure, given)
    shown = points(fig)
    assert set(shown) == {title(name) for name in given["arms"]}
    for name, arm in given["arms"].items():
        trace, i = shown[title(name)]
        assert getattr(trace, axis)[i] == pytest.approx(100 * arm[key]["value"])
        ends = bounds(trace, axis, i)
        if arm[key]["ci"] is None:
            assert ends is None
        else:
            assert ends == pytest.approx([100 * end for end in arm[key]["ci"]])
        if figure == "recovery_by_share":
            assert trace.x[i] == pytest.approx(100 * arm["tokens_steered"])


def test_arms_are_grouped_by_kind_below_the_chosen_one(results):
    fig = draw("recovery_by_arm", results)
    rows = dict(zip(fig.layout.yaxis.ticktext, fig.layout.yaxis.tickvals, strict=True))
    order = [re.sub("</?b>", "", name) for name in sorted(rows, key=rows.get, reverse=True)]
    assert order[0] == "Hybrid" and "<b>Hybrid</b>" in rows
    kinds = [next(a["kind"] for n, a in results["arms"].items() if title(n) == o) for o in order]
    assert kinds == ["method"] * 4 + ["control"] * 7 + ["ceiling"] + ["baseline"] * 2
    for name, (trace, i) in points(fig).items():
        assert trace.y[i] == rows.get(name, rows["<b>Hybrid</b>"])
    legend = {t.name: t.marker.color for t in fig.data if t.mode == "markers"}
    assert legend["hybrid (chosen)"] == theme.KIND_COLORS["hybrid"]
    assert len(set(theme.KIND_COLORS.values())) == 5
    assert {"other methods", "controls", "ceiling (thinking token)", "baselines"} < set(legend)


def test_the_twenty_random_sets_lie_around_their_row(results):
    fig = draw("recovery_by_arm", results)
    (dots,) = [t for t in fig.data if t.name == "one set of random vectors"]
    assert list(dots.x) == pytest.approx(
        [100 * v for v in results["arms"]["random-vectors"]["sets"]]
    )
    assert len(dots.x) == 20
    trace, i = points(fig)["Random vectors"]
    assert max(abs(y - trace.y[i]) for y in dots.y) < 0.5


def lines(fig: Any, axis: str) -> dict[str, float]:
    """Where the reference lines stand."""
    return {
        t.name: getattr(t, axis)[0]
        for t in fig.data
        if t.mode == "lines" and len(set(getattr(t, axis))) == 1
    }


def test_reference_lines_stand_at_base_thinking_and_ceiling(results, refused):
    ceiling = 100 * results["arms"]["thinking-token"]["gap_recovery"]["value"]
    expected = {"base model": 0, "thinking model": 100}
    assert lines(draw("recovery_by_share", results), "y") == expected
    shown = lines(draw("recovery_by_arm", results), "x")
    assert shown == pytest.approx(expected | {"where the ceiling is": ceiling})
    expected = {"base model": 31, "thinking model": 33, "where the ceiling is": 71}
    assert lines(draw("recovery_by_arm", refused), "x") == pytest.approx(expected)
    assert "Accuracy" in draw("recovery_by_arm", refused).layout.xaxis.title.text
    assert "%" in draw("recovery_by_arm", results).layout.xaxis.title.text


def test_axes_hold_every_end_of_every_interval(results):
    results["arms"]["prompt"]["gap_recovery"]["ci"] = [-1.4, 2.3]
    low, high = draw("recovery_by_arm", results).layout.xaxis.range
    assert low < -140 and high > 230
    low, high = draw("recovery_by_share", results).layout.yaxis.range
    assert low < -140 and high > 230


def test_budget_curves_are_their_points(results, refused):
    fig = draw("recovery_by_share", results)
    curves = {t.name.split(",")[0]: t for t in fig.data if t.mode == "lines+markers"}
    for name, entries in results["budget"].items():
        curve = curves[name.replace("-", " ")]
        assert list(curve.x) == pytest.approx([100 * e["tokens_steered"] for e in entries])
        assert list(curve.y) == pytest.approx([100 * e["gap_recovery"]["value"] for e in entries])
        for i, entry in enumerate(entries):
            ends = [100 * end for end in entry["gap_recovery"]["ci"]]
            assert bounds(curve, "y", i) == pytest.approx(ends)
    assert not [t for t in draw("recovery_by_share", refused).data if t.mode == "lines+markers"]


def named(fig: Any) -> dict[str, Any]:
    return {
        re.sub("</?b>", "", n.text): n for n in fig.layout.annotations if n.showarrow is not False
    }


def test_only_the_arms_that_matter_are_labeled(results):
    four = {"Hybrid", "Thinking token", "Random vectors", "Random positions"}
    assert set(named(draw("recovery_by_share", results))) == four
    results["arms"]["prompt"]["tokens_steered"] = 0.2
    assert set(named(draw("recovery_by_share", results))) == four | {"Prompt"}


def test_labels_keep_their_distance_and_point_at_their_arm(results):
    for name in ("random-vectors", "random-positions", "thinking-token"):
        results["arms"][name]["gap_recovery"] = results["arms"]["hybrid"]["gap_recovery"]
    fig = draw("recovery_by_share", results)
    labels = named(fig)
    heights = sorted(note.ay for note in labels.values())
    margin = fig.layout.margin
    pixel = np.ptp(fig.layout.yaxis.range) / (fig.layout.height - margin.t - margin.b)
    assert min(np.diff(heights)) > 16 * pixel
    # all four belong to one point, so they are spread evenly around it
    assert np.mean(heights) == pytest.approx(labels["Hybrid"].y)
    for name, note in labels.items():
        trace, i = points(fig)[name]
        assert (note.x, note.y) == (trace.x[i], trace.y[i])


def test_firing_bars_are_percent_of_the_tokens_of_their_bin(results):
    firing = results["firing"]
    firing["tokens"][3] = 0
    firing["steered"]["verification"][0] = None
    fig = draw("firing_positions", results)
    assert fig.layout.barmode == "stack"
    assert {t.name for t in fig.data} == {title(name) for name in firing["steered"]}
    for name, counts in firing["steered"].items():
        (bars,) = [t for t in fig.data if t.name == title(name)]
        assert bars.marker.color == theme.BEHAVIOR_COLORS[name]
        assert list(bars.x) == pytest.approx([5, 15, 25, 35, 45, 55, 65, 75, 85, 95])
        assert list(bars.width) == pytest.approx([10] * 10)
        for count, total, height in zip(counts, firing["tokens"], bars.y, strict=True):
            if count is None or total == 0:
                assert height is None
            else:
                assert height * total / 100 == pytest.approx(count)


def test_factorial_panels_hold_the_recoveries_and_outline_the_chosen(results):
    fig = draw("factorial_heatmap", results)
    seen = {}
    heats = [t for t in fig.data if t.type == "heatmap"]
    texts = [t for t in fig.data if t.type == "scatter"]
    for heat, text, coefficients in zip(heats, texts, ("candidates", "sweep"), strict=True):
        labels = iter(text.text)
        for row, controller in zip(heat.z, heat.y, strict=True):
            for value, vectors in zip(row, heat.x, strict=True):
                seen[coefficients, controller, vectors.replace("<br>", " ")] = value
                shown = next(labels)
                assert (shown == "") == (value is None)
                if value is not None:
                    assert float(shown[:-1].replace("−", "-")) == pytest.approx(value, abs=0.501)
    expected = {
        (e["coefficients"], title(e["controller"]), title(e["vectors"])): e["gap_recovery"]
        for e in results["factorial"]
    }
    absent = set(seen) - set(expected)
    assert len(seen) == 18 and len(absent) == 1
    for cell, value in seen.items():
        recovery = expected.get(cell)
        assert value is None if recovery is None else value == pytest.approx(100 * recovery)
    axis = fig.layout.coloraxis
    assert axis.cmid == 0 and axis.cmax == -axis.cmin
    assert axis.cmax == pytest.approx(max(abs(v) for v in seen.values() if v is not None))
    (outline,) = fig.layout.shapes
    assert (outline.xref, outline.x0, outline.y0) == ("x", -0.5, -0.5)
    results["chosen"] |= {"coefficients": "sweep", "controller": "probe"}
    (outline,) = draw("factorial_heatmap", results).layout.shapes
    assert (outline.xref, outline.x0, outline.y0) == ("x2", -0.5, 0.5)


def test_factorial_of_a_refused_gap_is_blank_and_says_so(refused):
    fig = draw("factorial_heatmap", refused)
    for trace in fig.data:
        blank = {"": 1} if trace.type == "scatter" else {None: 1}
        cells = trace.text if trace.type == "scatter" else [v for row in trace.z for v in row]
        assert set(cells) == set(blank)
    assert any("gap was refused" in note.text for note in fig.layout.annotations)


def columns(fig: Any) -> dict[str, str]:
    """Text of each model's column in `side_by_side`, as plotly shows it (marks removed)."""
    notes = list(fig.layout.annotations)
    heads = {n.x: re.findall("<b>(.*?)</b>", n.text)[0] for n in notes if n.font.size == 15}
    top = next(n.y for n in notes if n.font.size == 15)
    found = {name: [] for name in heads.values()}
    for note in notes:
        if note.y > top:
            found[heads[note.x]].append(html.unescape(re.sub("</?b>", "", note.text)))
    return {name: " ".join(" ".join(parts).split()) for name, parts in found.items()}


def test_side_by_side_shows_the_first_example_in_full(results):
    results["examples"][1]["hybrid"]["tokens"] = [{"text": "another"}]
    fig = draw("side_by_side", results)
    for model, text in columns(fig).items():
        tokens = results["examples"][0][model.lower()]["tokens"]
        assert text == "".join(token["text"] for token in tokens)
    heads = [n.text for n in fig.layout.annotations if n.font.size == 15]
    assert [("wrong" in head, "✓ correct" in head) for head in heads] == [
        (True, False), (False, True), (False, True),
    ]  # fmt: skip
    assert fig.layout.annotations[0].text == "reach 72 with 2 3 4 8"


def test_changed_tokens_are_bold_on_a_mark_and_the_others_underlined(results):
    fig = draw("side_by_side", results)
    bold = re.findall("<b>(.*?)</b>", " ".join(
        n.text for n in fig.layout.annotations if n.font.size != 15
    ))  # fmt: skip
    tokens = results["examples"][0]["hybrid"]["tokens"]
    assert [b.strip() for b in bold] == [t["text"].strip() for t in tokens if t["changed"]]
    marks = [s for s in fig.layout.shapes if s.type == "rect"]
    hues = [theme.BEHAVIOR_COLORS.get(t["label"], theme.UNKNOWN) for t in tokens if t["changed"]]
    assert [mark.fillcolor for mark in marks] == hues
    character = 0.602 * 13
    widths = [round((m.x1 - m.x0 - 3) / character) for m in marks]
    assert widths == [len(t["text"].strip()) for t in tokens if t["changed"]]
    under = [s for s in fig.layout.shapes if s.line.width == 2]
    assert len(under) == sum(t["steered"] and not t["changed"] for t in tokens) == 2
    legend = [t.name for t in fig.data]
    assert legend[:3] == ["Verification", "Subgoal setting", "no behavior"]


def test_long_traces_wrap_between_words_and_are_cut_off(results):
    token = {"steered": False, "changed": False, "label": None}
    results["examples"][0]["base"]["tokens"] = [
        {"text": text, **token} for text in ["x" * 95, "\n", *[" seven77"] * 400]
    ]
    fig = draw("side_by_side", results)
    notes = [n for n in fig.layout.annotations if n.x == 0 and n.font.size == 13][1:]
    texts = [n.text for n in notes]
    assert texts[:3] == ["x" * 40, "x" * 40, "x" * 15]
    assert max(len(text) for text in texts) <= 40
    assert set(" ".join(texts[3:-1]).split()) == {"seven77"}
    assert re.fullmatch(r"… \d+ more lines", texts[-1])
    assert fig.layout.height < 1300
    # the legend keeps below the last line
    lowest = max(n.y for n in fig.layout.annotations)
    assert fig.layout.yaxis.range[0] > lowest and fig.layout.margin.b >= 60


ATTACK = "<script>x</script>"
LINK = '<a href="https://example.com">b</a><b>&amp;'


def hostile(results: dict[str, Any]) -> dict[str, Any]:
    tokens = results["examples"][0]["hybrid"]["tokens"]
    tokens[0] |= {"text": LINK, "label": LINK}
    tokens[1]["text"] = ATTACK
    results["examples"][0]["problem"] = LINK
    results["arms"][LINK] = {**results["arms"]["prompt"], "tokens_steered": 0.1, "kind": "baseline"}
    results["firing"]["steered"][LINK] = [1] * 10
    results["factorial"][0] |= {"controller": LINK, "vectors": LINK, "coefficients": LINK}
    return results


def test_text_of_a_model_is_never_plotly_markup(results):
    column = columns(draw("side_by_side", hostile(results)))["Hybrid"]
    assert column.replace(" ", "").startswith((LINK + ATTACK).replace(" ", ""))


@pytest.mark.parametrize("name", HYBRID_FIGURES)
def test_no_text_of_the_dict_opens_a_tag(name, results):
    shown = draw(name, hostile(results)).to_json()
    assert "a href" in shown
    for opening in (r"\u003ca href", "<a href", r"\u003cscript", "<script"):
        assert opening not in shown


def without_numbers(value: Any) -> Any:
    """The same tree with null for every number; texts, the schema's shape and bin edges stay."""
    if isinstance(value, dict):
        return {k: v if k == "bins" else without_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return value if isinstance(value, str) else None


@pytest.mark.parametrize("name", HYBRID_FIGURES)
def test_figures_draw_where_every_number_is_null(name, results):
    fig = draw(name, without_numbers(results))
    assert not [n for t in fig.data if t.type == "bar" for n in t.y if n is not None]
    for trace, i in points(fig).values():
        assert getattr(trace, {"recovery_by_arm": "x", "recovery_by_share": "y"}[name])[i] is None


@pytest.mark.parametrize("name", HYBRID_FIGURES)
@pytest.mark.parametrize("empty", [None, [], {}])
def test_figures_of_an_empty_run_say_so(name, empty):
    bare = {"schema": "whenlens.hybrid/1"}
    keys = ("arms", "budget", "firing", "examples", "factorial")
    fig = draw(name, bare | {key: empty for key in keys})
    assert not fig.data and fig.layout.annotations[0].text.startswith("No ")


@pytest.mark.parametrize("name", HYBRID_FIGURES)
def test_an_arm_without_measurements_is_still_named(name, results):
    results["arms"]["bias-only"] = {"kind": "control", "gap_recovery": None}
    fig = draw(name, results)
    if name == "recovery_by_arm":
        assert "Bias only" in fig.layout.yaxis.ticktext
        assert [n.text for n in fig.layout.annotations].count("not measured") == 1


@pytest.mark.parametrize("name", HYBRID_FIGURES)
def test_figures_refuse_another_schema(name):
    with pytest.raises(ValueError, match=r"expected 'whenlens\.hybrid/1'"):
        draw(name, {"schema": "whenlens.results/1"})


def test_the_schema_chooses_the_catalog(results):
    assert figures_of(results) is HYBRID_FIGURES
    assert figures_of(_MADE["make_results"]()) is FIGURES
    for wrong in ({}, {"schema": "other/3"}):
        with pytest.raises(
            ValueError, match=r"expected 'whenlens\.results/1' or 'whenlens\.hybrid"
        ):
            figures_of(wrong)


def test_export_of_an_unknown_schema_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="have schema 'other/3', expected"):
        export({"schema": "other/3"}, tmp_path / "out", ["html"])
    assert not (tmp_path / "out").exists()


def test_export_writes_every_hybrid_figure_with_hostile_text_as_text(results, tmp_path):
    export(hostile(results), tmp_path, ["svg"])
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.svg" for name in HYBRID_FIGURES}
    shown = (tmp_path / "side_by_side.svg").read_text(encoding="utf-8")
    assert "<script" not in shown and "example.com" in shown
    links = re.findall(r"""(?:href|src)\s*=\s*["']([^"']*)""", re.sub(">[^<]*<", "><", shown))
    assert not [link for link in links if not link.startswith(("#", "data:"))]
