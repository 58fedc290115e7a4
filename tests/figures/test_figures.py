"""Every figure shows the numbers of the results, no more and no less."""

import copy
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from figures import FIGURES, theme

_MADE = runpy.run_path(str(Path(__file__).with_name("synthetic.py")))
# taxonomy order of the four behaviors of the made-up results
ORDER = ["deduction", "backtracking", "verification", "subgoal-setting"]
TITLES = ["Deduction", "Backtracking", "Verification", "Subgoal setting"]


@pytest.fixture
def results() -> dict[str, Any]:
    return _MADE["make_results"]()


def draw(name: str, results: dict[str, Any]) -> Any:
    """A figure by name (typed as anything, because plotly types its traces too loosely)."""
    return FIGURES[name](results)


def panel(fig: go.Figure, row: int, col: int) -> list[Any]:
    """Traces of one subplot."""
    return list(fig.select_traces(row=row, col=col))


def bounds(trace: Any, axis: str = "y") -> list[tuple[float, float]]:
    """Where a trace's error bars end."""
    bars = getattr(trace, f"error_{axis}")
    return [
        (value - minus, value + plus)
        for value, minus, plus in zip(
            getattr(trace, axis), bars.arrayminus, bars.array, strict=True
        )
    ]


def outline(trace: Any) -> set[tuple[float, float]]:
    return set(zip(trace.x, trace.y, strict=True))


def rings(traces: list[Any]) -> list[Any]:
    return [t for t in traces if t.marker.symbol == "circle-open"]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_figure_in_the_house_template(name, results):
    before = copy.deepcopy(results)
    fig = draw(name, results)
    assert isinstance(fig, go.Figure)
    assert fig.layout.template.layout.plot_bgcolor == "white"
    assert fig.layout.width and fig.layout.height
    assert results == before


def test_layer_sweep_draws_auroc_and_effect_with_their_intervals(results):
    fig = draw("layer_sweep", results)
    for col, name in enumerate(ORDER, start=1):
        entry = results["behaviors"][name]
        reads = [row for row in entry["layer_sweep"] if row["read"] == "before"]
        for row, points, key, ci in (
            (1, reads, "auroc", "auroc_ci"),
            (2, entry["causal_sweep"], "effect", "ci"),
        ):
            (line,) = [t for t in panel(fig, row, col) if t.mode == "lines+markers"]
            assert list(line.x) == [p["layer"] for p in points]
            assert list(line.y) == [p[key] for p in points]
            np.testing.assert_allclose(bounds(line), [p[ci] for p in points])
            (ring,) = rings(panel(fig, row, col))
            (chosen,) = [p for p in points if p["layer"] == entry["layer"]]
            assert (list(ring.x), list(ring.y)) == ([chosen["layer"]], [chosen[key]])
            assert line.line.color == theme.BEHAVIOR_COLORS[name]


def test_layer_sweep_follows_the_chosen_read_position(results):
    entry = results["behaviors"]["verification"]
    entry["position"] = "first"
    fig = draw("layer_sweep", results)
    (line,) = [t for t in panel(fig, 1, 3) if t.mode == "lines+markers"]
    assert list(line.y) == [r["auroc"] for r in entry["layer_sweep"] if r["read"] == "first"]
    titles = [note.text for note in fig.layout.annotations]
    assert sum("read: first" in title for title in titles) == 1


def test_layer_sweep_marks_chance_in_every_upper_panel(results):
    lines = [s for s in draw("layer_sweep", results).layout.shapes if s.y0 == s.y1 == 0.5]
    assert {line.yref.removesuffix(" domain") for line in lines} == {"y", "y2", "y3", "y4"}
    assert [line.showlegend for line in lines].count(True) == 1


@pytest.mark.parametrize(
    ("figure", "rows", "x", "row"),
    [("layer_sweep", "causal_sweep", "layer", 2), ("dose_response", "dose_response", "dose", 1)],
)
def test_null_band_is_the_polygon_of_its_quantiles(figure, rows, x, row, results):
    fig = draw(figure, results)
    for col, name in enumerate(ORDER, start=1):
        points = results["behaviors"][name][rows]
        (band,) = [t for t in panel(fig, row, col) if t.fill == "toself"]
        assert outline(band) == {(p[x], p[key]) for p in points for key in ("null_q05", "null_q95")}


def test_null_band_leaves_a_gap_where_the_null_was_not_measured(results):
    sweep = results["behaviors"]["deduction"]["causal_sweep"]
    sweep[1]["null_q95"] = None
    fig = draw("layer_sweep", results)
    (band,) = [t for t in panel(fig, 2, 1) if t.fill == "toself"]
    cut = list(band.x).index(None)
    assert band.y[cut] is None
    # layer 0 alone is a box around 0; layers 2 and 3 keep their own corners
    assert set(band.x[:cut]) == {-0.25, 0.25}
    assert set(band.y[:cut]) == {sweep[0]["null_q05"], sweep[0]["null_q95"]}
    assert set(band.x[cut + 1 :]) == {2, 3}


def test_legend_names_the_band_and_the_ring_once(results):
    for figure, chosen in (("layer_sweep", "chosen layer"), ("dose_response", "chosen dose")):
        partial = copy.deepcopy(results)
        # the first panel has neither: another one must carry the legend
        partial["behaviors"]["deduction"].update(causal_sweep=[], layer_sweep=[], dose_response=[])
        for case in (results, partial):
            shown = [t.name for t in draw(figure, case).data if t.showlegend]
            assert sorted(shown) == sorted([chosen, "null directions, 5–95%"])


def test_dose_response_draws_effect_interval_and_chosen_dose(results):
    fig = draw("dose_response", results)
    for col, name in enumerate(ORDER, start=1):
        points = results["behaviors"][name]["dose_response"]
        (line,) = [t for t in panel(fig, 1, col) if t.mode == "lines+markers"]
        assert list(line.x) == [p["dose"] for p in points]
        assert list(line.y) == [p["effect"] for p in points]
        np.testing.assert_allclose(bounds(line), [p["ci"] for p in points])
        (ring,) = rings(panel(fig, 1, col))
        assert list(ring.x) == [0.5]
        assert list(ring.y) == [p["effect"] for p in points if p["dose"] == 0.5]


def test_axis_ranges_hold_every_number_of_every_panel(results):
    entry = results["behaviors"]["verification"]
    entry["dose_response"][2]["ci"] = [-0.7, 0.9]
    low, high = draw("dose_response", results).layout.yaxis.range
    assert low < -0.7 and high > 0.9
    entry["causal_sweep"][3]["null_q95"] = 0.8
    assert draw("layer_sweep", results).layout.yaxis5.range[1] > 0.8


def test_small_multiples_start_a_new_row_after_four(results):
    source = results["behaviors"]["deduction"]
    results["behaviors"] = {name: source for name in list(theme.BEHAVIOR_COLORS)[:6]}
    fig = draw("model_cosine", results)
    assert [len(panel(fig, row, col)) for row in (1, 2) for col in (1, 2, 3, 4)] == [1] * 6 + [
        0
    ] * 2


def test_model_cosine_draws_values_with_intervals(results):
    fig = draw("model_cosine", results)
    for col, name in enumerate(ORDER, start=1):
        points = results["behaviors"][name]["cosine"]
        (line,) = panel(fig, 1, col)
        assert list(line.x) == [p["layer"] for p in points]
        assert list(line.y) == [p["value"] for p in points]
        np.testing.assert_allclose(bounds(line), [p["ci"] for p in points])


def test_specificity_heatmap_is_the_effects_in_percentage_points(results):
    heat, veil, text = draw("specificity_heatmap", results).data
    effects = np.array(
        [[results["behaviors"][r]["specificity"][c]["effect"] for c in ORDER] for r in ORDER]
    )
    np.testing.assert_allclose(np.array(heat.z, dtype=float), effects * 100)
    assert list(heat.y) == TITLES
    assert heat.zmid == 0 and heat.zmax == -heat.zmin == pytest.approx(abs(effects * 100).max())
    spans = [
        [
            results["behaviors"][r]["specificity"][c]["ci"][0]
            <= 0
            <= results["behaviors"][r]["specificity"][c]["ci"][1]
            for c in ORDER
        ]
        for r in ORDER
    ]
    assert 0 < np.sum(spans) < 16
    assert [[cell is not None for cell in row] for row in veil.z] == spans
    assert [float(t.replace("−", "-")) for t in text.text] == pytest.approx(
        (effects * 100).ravel(), abs=0.0501
    )
    grays = np.array([color == "#7A7A7A" for color in text.textfont.color]).reshape(4, 4)
    np.testing.assert_array_equal(grays, spans)


def test_specificity_heatmap_outlines_its_diagonal_with_extra_columns(results):
    for entry in results["behaviors"].values():
        entry["specificity"]["example-testing"] = {"effect": None, "ci": None}
    fig = draw("specificity_heatmap", results)
    assert list(fig.data[0].x).index("Example<br>testing") == 1
    corners = [(s.x0, s.x1, s.y0, s.y1) for s in fig.layout.shapes]
    # the extra column is the second one, so later diagonal cells move right
    assert corners == [
        (col - 0.5, col + 0.5, row - 0.5, row + 0.5) for row, col in enumerate((0, 2, 3, 4))
    ]
    assert [row[1] for row in fig.data[0].z] == [None] * 4
    assert list(fig.data[2].text).count("–") == 4


def test_behavior_frequency_draws_both_models_with_intervals(results):
    base, thinking = draw("behavior_frequency", results).data
    for trace, model in ((base, "base"), (thinking, "thinking")):
        found = [results["behaviors"][name]["frequency"][model] for name in ORDER]
        assert list(trace.text) == TITLES
        assert list(trace.x) == [one["value"] for one in found]
        np.testing.assert_allclose(bounds(trace, "x"), [one["ci"] for one in found])
    # each behavior has its own row, base above thinking
    assert [round(y) for y in base.y] == [round(y) for y in thinking.y] == [3, 2, 1, 0]
    assert all(b > t for b, t in zip(base.y, thinking.y, strict=True))


def test_causal_effects_stand_beside_their_null_quantile(results):
    fig = draw("causal_effects", results)
    for col, kind, sign in ((1, "addition", 1), (2, "ablation", -1)):
        found = [results["behaviors"][name][kind] for name in ORDER]
        null, points, specific = panel(fig, 1, col)
        assert list(null.y) == list(points.y) == list(specific.y) == TITLES
        for trace, key in ((null, "specific_null_q95"), (specific, "specific_effect")):
            np.testing.assert_allclose(trace.x, [100 * sign * one[key] for one in found])
        np.testing.assert_allclose(points.x, [100 * one["effect"] for one in found])
        np.testing.assert_allclose(
            bounds(points, "x"), 100 * np.array([one["ci"] for one in found])
        )


def without_numbers(value: Any) -> Any:
    """The same tree with null for every measured number; positions on an axis stay."""
    if isinstance(value, dict):
        return {k: v if k in ("layer", "dose") else without_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return value if isinstance(value, str) else None


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_nothing_where_every_number_is_missing(name, results):
    results["behaviors"] = without_numbers(results["behaviors"])
    key = {"behavior_frequency": "x", "causal_effects": "x", "specificity_heatmap": "z"}
    fig = draw(name, results)
    for trace in fig.data[:2] if name == "specificity_heatmap" else fig.data:
        shown = getattr(trace, key.get(name, "y"))
        assert not np.isfinite(np.array(shown, dtype=float)).any()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("entry", [{}, {"layer": None, "position": None, "addition": None}])
def test_figures_accept_a_behavior_without_any_measurement(name, entry, results):
    results["behaviors"]["verification"] = entry
    draw(name, results)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_one_behavior_show_only_that_one(name, results):
    one = {"verification": results["behaviors"]["verification"]}
    one["verification"]["specificity"] = {"verification": {"effect": 0.2, "ci": [0.1, 0.3]}}
    shown = draw(name, {**results, "behaviors": one}).to_json()
    assert "Verification" in shown
    assert "Deduction" not in shown and "Subgoal" not in shown


@pytest.mark.parametrize("name", FIGURES)
def test_figures_without_behaviors_say_so(name, results):
    fig = draw(name, {**results, "behaviors": {}})
    assert not fig.data
    assert "No behavior" in fig.layout.annotations[0].text


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("wrong", [{}, {"schema": "other/3", "behaviors": {}}])
def test_figures_refuse_another_schema(name, wrong):
    with pytest.raises(ValueError, match=r"expected 'whenlens\.results/1'"):
        draw(name, wrong)


def test_behaviors_outside_the_taxonomy_come_last_in_a_neutral_color(results):
    source = results["behaviors"]
    results["behaviors"] = {"cluster_7": source["deduction"], **source}
    fig = draw("model_cosine", results)
    last = fig.data[-1]
    assert last.name == "Cluster 7"
    assert last.line.color not in theme.BEHAVIOR_COLORS.values()


# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB
_VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
}  # fmt: skip


def lab(color: str, vision: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a hex color as an eye with this vision sees it."""
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = vision @ np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear.clip(0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", _VISION)
def test_behavior_colors_stay_apart_for_color_blind_readers(vision):
    seen = [lab(color, _VISION[vision]) for color in theme.BEHAVIOR_COLORS.values()]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 10  # about four just noticeable differences


def test_all_colors_are_distinct():
    every = [*theme.BEHAVIOR_COLORS.values(), theme.BASE, theme.THINKING, theme.NULL, theme.UNKNOWN]
    assert len(set(every)) == 9 + 4
