"""The figures of a divergence show the numbers of its dict."""

import copy
import html
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from figures import DIVERGENCE_FIGURES, theme

_HERE = Path(__file__).parent
_MADE = runpy.run_path(str(_HERE / "synthetic_divergence.py"))
ORDER = [
    "deduction", "backtracking", "verification", "subgoal-setting", "final-answer", "none",
]  # fmt: skip
TITLES = [
    "Deduction", "Backtracking", "Verification", "Subgoal setting", "Final answer", "No behavior",
]  # fmt: skip
DIRECTIONS = ["backtracking", "verification", "subgoal-setting"]


@pytest.fixture
def results() -> dict[str, Any]:
    return _MADE["make_divergence"]()


def draw(name: str, results: dict[str, Any]) -> Any:
    """A figure by name (typed as anything, because plotly types its traces too loosely)."""
    return DIVERGENCE_FIGURES[name](results)


def panel(fig: go.Figure, row: int, col: int) -> list[Any]:
    return list(fig.select_traces(row=row, col=col))


def bounds(trace: Any, axis: str = "y") -> list[tuple[float, float]]:
    """Where a trace's error bars end."""
    bars, values = getattr(trace, f"error_{axis}"), getattr(trace, axis)
    return [
        (value - minus, value + plus)
        for value, minus, plus in zip(values, bars.arrayminus, bars.array, strict=True)
    ]


@pytest.mark.parametrize("name", DIVERGENCE_FIGURES)
@pytest.mark.parametrize("n_layers", [1, 4, 26])
def test_every_figure_is_a_figure_in_the_house_template(name, n_layers):
    given = _MADE["make_divergence"](n_layers)
    before = copy.deepcopy(given)
    fig = draw(name, given)
    assert isinstance(fig, go.Figure) and fig.data
    assert fig.layout.template.layout.plot_bgcolor == "white"
    assert fig.layout.width and fig.layout.height
    assert given == before


@pytest.mark.parametrize("source", ["thinking", "base", "hybrid"])
def test_along_the_trace_each_source_has_its_numbers_at_the_middle_of_each_tenth(source, results):
    fig = draw("divergence_along_trace", results)
    tenths = results["sources"][source]["by_position"]
    for col, key, scale in ((1, "js", 1), (2, "disagreement", 100)):
        (line,) = [t for t in panel(fig, 1, col) if t.name == f"{source.capitalize()} traces"]
        assert list(line.x) == pytest.approx([5, 15, 25, 35, 45, 55, 65, 75, 85, 95])
        assert list(line.y) == pytest.approx([scale * one[key] for one in tenths])
        assert line.line.color == theme.SOURCE_COLORS[source]
    assert sum(t.showlegend is True for t in fig.data) == 3
    assert "nats" in fig.layout.yaxis.title.text and "%" in fig.layout.yaxis2.title.text


def test_sources_without_traces_are_left_out_of_lines_and_legend(results):
    results["sources"]["base"] = None
    results["sources"]["hybrid"]["by_position"] = []
    fig = draw("divergence_along_trace", results)
    assert [t.name for t in fig.data if t.showlegend] == ["Thinking traces"]
    results["sources"]["thinking"]["by_position"][4]["js"] = None
    line = panel(draw("divergence_along_trace", results), 1, 1)[0]
    assert line.y[4] is None and None not in [*line.y[:4], *line.y[5:]]
    assert line.connectgaps is None


def test_by_segment_draws_means_starts_and_shares_in_the_taxonomys_order(results):
    fig = draw("divergence_by_segment", results)
    found = [results["sources"]["thinking"]["by_behavior"][name] for name in ORDER]
    assert list(fig.layout.yaxis.ticktext) == TITLES
    marks = {t.name: t for t in panel(fig, 1, 1) if t.text}
    hues = [theme.color(name) for name in ORDER]
    for name, key in (("mean over all", "js"), ("mean at the first", "js_at_start")):
        (trace,) = [t for full, t in marks.items() if full.startswith(name)]
        assert list(trace.x) == pytest.approx([one[key] for one in found])
        assert list(trace.marker.line.color) == hues
        assert list(trace.y) == list(fig.layout.yaxis.tickvals)
    (bars,) = [t for t in panel(fig, 1, 2) if t.type == "bar"]
    assert list(bars.x) == pytest.approx([100 * one["js_share"] for one in found])
    assert list(bars.marker.color) == hues
    (ticks,) = [t for t in panel(fig, 1, 2) if t.name == "share of the tokens"]
    assert sum(ticks.x) == pytest.approx(100)
    assert ticks.x[0] / ticks.x[1] == pytest.approx(found[0]["tokens"] / found[1]["tokens"])
    low, high = fig.layout.yaxis.range
    assert low > high  # the first behavior is on top


def test_by_distance_runs_toward_the_start_and_its_farthest_holds_the_rest(results):
    results["sources"]["thinking"]["by_distance"].reverse()
    fig = draw("divergence_by_segment", results)
    near = results["sources"]["thinking"]["by_distance"][::-1]
    (upper,), (lower,) = panel(fig, 1, 3), panel(fig, 2, 3)
    assert list(upper.x) == list(lower.x) == list(range(9))
    assert list(upper.y) == [one["js"] for one in near]
    assert list(lower.y) == pytest.approx([100 * one["disagreement"] for one in near])
    axis = fig.layout.xaxis4
    assert axis.range[0] > 8 and axis.range[1] < 0
    assert dict(zip(axis.tickvals, axis.ticktext, strict=True))[8] == "≥8"


def test_layer_curves_draw_lenses_and_probe_with_their_intervals(results):
    fig = draw("layer_curves", results)
    for name, words in (
        ("disagreement", "disagreements (n = 1,250)"),
        ("first", "first disagreements (n = 190)"),
        ("agreement", "matched agreements (n = 1,200)"),
    ):
        rows = results["layers"]["lens"][name]
        (line,) = [t for t in panel(fig, 1, 1) if t.name == words]
        assert list(line.x) == [row["layer"] for row in rows]
        assert list(line.y) == [row["kl"] for row in rows]
        np.testing.assert_allclose(bounds(line), [row["ci"] for row in rows])
        assert line.line.color == line.error_y.color == theme.PLACE_COLORS[name]
    predict = results["predict_disagreement"]
    probe, *others = panel(fig, 1, 2)
    assert list(probe.y) == [row["auroc"] for row in predict["by_layer"]]
    np.testing.assert_allclose(bounds(probe), [row["ci"] for row in predict["by_layer"]])
    (ring,) = [t for t in others if t.marker.symbol == "circle-open"]
    assert (ring.x, ring.y) == ((2,), (predict["by_layer"][2]["auroc"],))
    levels = {t.y[0]: t.name for t in others if t.mode == "lines" and t.y[0] == t.y[1]}
    assert levels == {0.79: "the base's entropy (0.790)", 0.503: "probe of shuffled labels (0.503)"}
    (band,) = fig.layout.shapes
    assert [band.y0, band.y1] == predict["base_entropy_ci"]
    (note,) = [n.text for n in fig.layout.annotations if "minus entropy" in n.text]
    assert "+0.070 [+0.050, +0.090]" in note


def test_layer_curves_hold_every_interval_and_drop_what_was_not_measured(results):
    results["layers"]["lens"]["first"][1]["ci"] = [-3.0, 9.0]
    results["predict_disagreement"] |= {"base_entropy_auroc": None, "shuffled_auroc": 0.31}
    results["predict_disagreement"]["layer"] = None
    fig = draw("layer_curves", results)
    assert fig.layout.yaxis.range[0] < -3 and fig.layout.yaxis.range[1] > 9
    assert fig.layout.yaxis2.range[0] < 0.31
    names = [t.name for t in fig.data]
    assert not [name for name in names if "entropy" in name or "chosen" in name]
    assert not fig.layout.shapes


def test_heatmap_panels_are_the_restored_shares_cut_in_color_only(results):
    patching = results["patching"]
    patching["heatmap"]["base_into_thinking"]["mlp_out"][1][4] = -7.0
    patching["heatmap"]["base_into_thinking"]["mlp_out"][2] = None
    # as they stand in the dict, offsets need not ascend
    patching["offsets"] = [0, -1, -2, -3, -4]
    fig = draw("patching_heatmap", results)
    titles = [note.text for note in fig.layout.annotations]
    assert titles[:3] == [
        f"{what}, thinking into base"
        for what in ("Residual stream", "Attention output", "MLP output")
    ]
    for row, direction in enumerate(patching["heatmap"], start=1):
        for col, component in enumerate(patching["heatmap"][direction], start=1):
            heat, texts = panel(fig, row, col)
            rows = patching["heatmap"][direction][component]
            true = [[None] * 5 if line is None else line[::-1] for line in rows]
            np.testing.assert_allclose(
                np.array(heat.z, dtype=float), np.array(true, dtype=float).clip(-1.2, 1.2)
            )
            numbers = np.array([value for line in true for value in line], dtype=float)
            shown = [float(t.replace("−", "-").replace("–", "nan")) for t in texts.text]
            np.testing.assert_allclose(shown, numbers, atol=0.0051)
            hover = [cell[0] for line in heat.customdata for cell in line]
            found = [float(h.replace("−", "-").replace("–", "nan")) for h in hover]
            np.testing.assert_allclose(found, numbers, atol=0.00051)
            assert list(heat.y) == [0, 1, 2, 3]
    axis = fig.layout.coloraxis
    assert (axis.cmin, axis.cmid, axis.cmax) == (-1.2, 0, 1.2)
    assert list(fig.layout.xaxis4.ticktext) == ["−4", "−3", "−2", "−1", "0"]
    last = panel(fig, 1, 1)[0].customdata[3]
    assert [cell[2] != "" for cell in last] == [False, False, False, False, True]


def test_heatmap_writes_no_numbers_where_cells_are_small():
    fig = draw("patching_heatmap", _MADE["make_divergence"](26))
    assert {t.type for t in fig.data} == {"heatmap"}


def test_promoted_tokens_show_white_space_and_keep_the_order(results):
    results["promoted"][0] |= {"base_token": "a\u200b\u202e", "probability_base": 0.0001}
    results["promoted"][1] |= {"count": None, "js": None, "median_rank": 1234.5}
    fig = draw("promoted_tokens", results)
    found = {t.name: t for t in fig.data}
    assert [html.unescape(text) for text in found["token"].text] == [
        "␣wait", "↵↵", "␣check", "<b>no</b>", "␣24", "⇥", "Alternatively", "(empty)",
        "␣incomprehensibil…", "␣aim", "␣hmm", "␣but",
    ]  # fmt: skip
    assert found["token"].hovertext[8] == "␣incomprehensibilities"
    assert found["base_token"].text[0] == r"a\u200b\u202e"
    assert list(found["count"].x) == [one["count"] for one in results["promoted"]]
    assert found["count in words"].text[:3] == ("420", "–", "140")
    assert found["js"].text[:3] == ("0.410", "–", "0.388")
    assert found["median_rank"].text[:3] == ("2.0", "1,234.5", "3.0")
    assert html.unescape(found["probability_base"].text[0]) == "<0.001"
    assert [float(t) for t in found["probability_thinking"].text] == pytest.approx(
        [one["probability_thinking"] for one in results["promoted"]], abs=0.00051
    )
    rows = range(len(results["promoted"]))
    assert all(list(trace.y) == list(rows) for trace in fig.data)
    assert fig.layout.yaxis.range[0] > fig.layout.yaxis.range[1]


def test_explained_shares_stand_beside_random_ones_the_union_first(results):
    explained = results["explained"]
    fig = draw("explained_divergences", results)
    mean, q95, matched, dots = panel(fig, 1, 1)
    one_each = [explained["by_behavior"][name] for name in DIRECTIONS]
    expected = [explained["directions"], *(one["share"] for one in one_each)]
    assert list(dots.x) == pytest.approx([100 * share for share in expected])
    intervals = [explained["ci"], *(one["ci"] for one in one_each)]
    np.testing.assert_allclose(bounds(dots, "x"), 100 * np.array(intervals))
    nulls = ((mean, "random"), (q95, "random_q95"), (matched, "matched_q95"))
    for trace, key in nulls:
        found = [explained[key], *(one[key] for one in one_each)]
        assert list(trace.x) == pytest.approx([100 * value for value in found])
    assert list(fig.layout.yaxis.ticktext) == ["<b>All 3 deployed</b>", *TITLES[1:4]]
    assert "640 high divergences, layer 2, dose 0.5" in fig.layout.annotations[0].text
    assert list(dots.marker.color) == [theme.INK, *map(theme.color, DIRECTIONS)]


def test_explained_table_is_segment_by_direction_in_percent(results):
    table = results["explained"]["table"]
    table["final-answer"] = {"verification": None, "deduction": 0.9}
    table["none"] = None
    fig = draw("explained_divergences", results)
    heat, texts = panel(fig, 1, 2)
    columns = ["deduction", *DIRECTIONS]
    expected = [
        [100 * v if (v := (table[row] or {}).get(col)) is not None else np.nan for col in columns]
        for row in ORDER
    ]
    np.testing.assert_allclose(np.array(heat.z, dtype=float), expected)
    assert list(fig.layout.yaxis2.ticktext) == TITLES
    assert list(texts.text).count("–") == 4 + 3 + 4
    assert heat.zmax == pytest.approx(90)
    corners = {(s.y0 + 0.5, s.x0 + 0.5) for s in fig.layout.shapes}
    assert corners == {(0, 0), (1, 1), (2, 2), (3, 3)}


def test_every_matrix_is_drawn_once_on_each_side_in_the_color_of_its_component(results):
    fig = draw("weight_changes", results)
    change, rank, strip = set(), set(), set()
    for row, col, into in ((1, 1, change), (2, 1, strip), (1, 2, rank)):
        for trace in panel(fig, row, col):
            component = {"attn": "attn_out", "MLP": "mlp_out"}.get(
                trace.name.split(", ")[-1].split(" ")[0].replace("attention", "attn")
            )
            hue = theme.COMPONENT_COLORS.get(component or "", theme.UNKNOWN)
            assert trace.marker.color == hue
            into |= {
                (text.split(":")[0], round(x, 6), y)
                for text, x, y in zip(trace.text, trace.x, trace.y, strict=True)
            }
    weights = results["weights"]
    patched = [one for one in weights if one["restored"] is not None]
    assert change == {
        (one["module"], round(100 * one["relative_change"], 6), one["restored"]) for one in patched
    }
    assert rank == {(one["module"], one["layer"], one["stable_rank"]) for one in patched}
    assert {module for module, _, _ in strip} == {"embed.W_E", "unembed.W_U", "ln_final.w"}
    assert len({t.name for t in fig.data}) == sum(t.showlegend is True for t in fig.data) == 7


def test_layers_are_named_at_their_outermost_matrix(results):
    fig = draw("weight_changes", results)
    named = [n for n in fig.layout.annotations if re.fullmatch(r"L\d", n.text)]
    assert len(named) == 8
    for note in named:
        (component,) = [k for k, hue in theme.COMPONENT_COLORS.items() if hue == note.font.color]
        group = [
            one
            for one in results["weights"]
            if one["component"] == component and one["layer"] == int(note.text[1:])
        ]
        assert note.y == group[0]["restored"]
        assert note.x == pytest.approx(100 * max(one["relative_change"] for one in group))


def test_weights_of_a_run_without_embeddings_need_no_strip(results):
    results["weights"] = [one for one in results["weights"] if one["component"]]
    fig = draw("weight_changes", results)
    assert len(list(fig.select_yaxes())) == 2
    assert "Relative change" in fig.layout.xaxis.title.text


def test_factorial_draws_effects_in_logits_and_the_portable_share_in_percent(results):
    rows = results["patching"]["factorial"]
    rows.reverse()
    fig = draw("patching_factorial", results)
    lines = {t.line.color: t for t in panel(fig, 1, 1)}
    for name, hue in theme.EFFECT_COLORS.items():
        assert list(lines[hue].x) == [0, 1, 2, 3]
        assert list(lines[hue].y) == [one[name] for one in rows[::-1]]
    line = lines[theme.EFFECT_COLORS["interaction"]]
    np.testing.assert_allclose(bounds(line), [one["interaction_ci"] for one in rows[::-1]])
    (portable,) = panel(fig, 1, 2)
    assert list(portable.y) == pytest.approx([100 * one["portable"] for one in rows[::-1]])
    np.testing.assert_allclose(
        bounds(portable), [[100 * end for end in one["portable_ci"]] for one in rows[::-1]]
    )
    assert "logits" in fig.layout.yaxis.title.text and "%" in fig.layout.yaxis2.title.text
    assert "180" in fig.layout.legend.title.text
