"""The report: verdicts first, complete, self-contained, and safe to open."""

import copy
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from figures import FIGURES
from interp.report import reading, render_report

_FIGURE_TESTS = Path(__file__).parent / "figures"
_MADE = runpy.run_path(str(_FIGURE_TESTS / "synthetic.py"))
_PAGES = runpy.run_path(str(_FIGURE_TESTS / "pages.py"))
pieces, text = _PAGES["pieces"], _PAGES["text"]
ATTACK = "<script>window.x=1;document.title='taken over'</script>"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return _MADE["make_results"]()


@pytest.fixture(scope="module")
def examples() -> list[dict[str, Any]]:
    return _MADE["make_examples"]()


@pytest.fixture(scope="module")
def page(results, examples) -> str:
    return render_report(results, examples)


def test_verdicts_come_before_figures_and_provenance_last(page):
    at = [page.index(f'id="{name}"') for name in ("verdicts", "how-to-read", "accuracy")]
    at += [page.index(f'id="plot-{name}"') for name in FIGURES]
    at += [page.index('class="traces"'), page.index('id="provenance"')]
    assert at == sorted(at)
    assert page.index("Plotly.newPlot") > at[0]


def test_every_number_of_a_verdict_stands_in_its_row(page):
    row = re.search(r"<tr>\s*<th[^>]*>(?:(?!<tr>).)*?Subgoal setting.*?</tr>", page, re.S)
    assert row
    shown = text(row.group())
    for expected in (
        "layer 2, read before, dose 0.5", "causal", "7.5% → 31.2%", "0.970 [0.940, 0.990]",
        "7.5% → 40.6%", "+33.1 [+29.1, +38.1]", "+26.5 (+3.3) n = 140", "0.007 (0.028)", "80.0%",
        "+9.9 [+6.9, +12.9]",
    ):  # fmt: skip
        assert expected in shown


def test_strongest_verdict_comes_first(page):
    pills = [data for _, style, data in pieces(page) if style.startswith("pill ")]
    assert pills[:4] == ["causal", "causal", "readable", "absent"]


def test_accuracies_have_intervals_and_provenance_is_complete(page):
    shown = text(page)
    for expected in ("31.0% [27.0%, 35.0%]", "56.0% [52.0%, 60.0%]", "n = 500"):
        assert expected in shown
    for expected in (
        "whenlens run --pair countdown-rl --out runs/demo", "fit 300, select 200, report 500",
        "traces 12.3 s, activations 2.2 s, null 81.0 s", "4 layers, d_model 160",
    ):  # fmt: skip
        assert expected in shown


def test_reading_names_every_behavior_under_its_verdict(results):
    sentence = reading(results)
    causal, readable, absent = sentence.split("; ")
    assert causal.startswith("Of 4 behaviors, 2 are causal (verification, subgoal setting:")
    assert readable.startswith("1 is readable (backtracking:")
    assert absent.startswith("1 is absent (deduction:")
    assert sentence.count(".") == 1


def test_reading_blames_too_few_nulls_and_not_the_null(results):
    few = copy.deepcopy(results)
    for entry in few["behaviors"].values():
        entry["verdict"] = "readable"
        for kind in ("addition", "ablation"):
            entry[kind]["n_null"] = 40
    assert "nothing is called causal beside 40 null directions" in reading(few)
    assert "does not beat its null" in reading(results)
    assert "does not beat its null" not in reading(few)


def test_a_behavior_whose_probe_was_never_scored_speaks_for_neither_side(results):
    unscored = copy.deepcopy(results)
    unscored["behaviors"]["deduction"]["probe"]["auroc_ci"] = None
    assert "“how”" in reading(results)
    assert "“how”" not in reading(unscored)
    assert "1 is absent (deduction: too few problems of the report split show it" in reading(
        unscored
    )


def test_reading_of_no_behavior_says_so(results):
    assert "No behavior" in reading({**results, "behaviors": {}})


def test_segments_are_colored_by_behavior_and_keep_their_text(page, examples):
    spans = [(style, data) for _, style, data in pieces(page) if style.startswith("seg b-")]
    legend, shown = spans[:5], spans[5:]
    assert {data for _, data in legend} == {
        "Deduction", "Backtracking", "Verification", "Subgoal setting", "Final answer",
    }  # fmt: skip
    assert shown == [
        (f"seg b-{segment['behavior'] or 'none'}", segment["text"])
        for one in examples
        for segment in one["segments"]
    ]
    for style, _ in legend:
        assert f".{style.split()[1]} {{ background: #" in page


def test_page_is_self_contained_with_plotly_once(page):
    assert _PAGES["links"](page) == []
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
    assert sum(len(script) > 1_000_000 for script in scripts) == 1
    assert len(scripts) == 1 + len(FIGURES)


def test_same_run_gives_the_same_bytes(page, results, examples):
    assert render_report(copy.deepcopy(results), copy.deepcopy(examples)) == page


@pytest.fixture(scope="module")
def attacked(results, tmp_path_factory) -> tuple[str, str]:
    """A page whose every string tries to run a script: as written, and after a browser ran it."""
    hostile = copy.deepcopy(results)
    hostile["command"] = hostile["pair"] = ATTACK
    name = f"cluster {ATTACK}"
    hostile["behaviors"][name] = copy.deepcopy(hostile["behaviors"]["deduction"])
    hostile["behaviors"][name]["position"] = ATTACK
    for row in hostile["behaviors"][name]["layer_sweep"]:
        row["read"] = ATTACK
    segment = {"text": f"hmm {ATTACK}", "behavior": name}
    trace = {"problem": ATTACK, "model": "base", "steered_by": name, "correct": None}
    page = render_report(hostile, [{**trace, "segments": [segment]}])
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return page, _PAGES["run_in_chromium"](path)


def test_model_text_is_never_markup(attacked):
    page, _ = attacked
    assert "<script>window.x" not in page
    assert (
        "seg b-cluster-script-window-x-1-document-title-taken-over-script-",
        f"hmm {ATTACK}",
    ) in [piece[1:] for piece in pieces(page)]


def test_scripts_in_a_trace_show_as_text_and_do_not_run(attacked):
    _, dom = attacked
    assert "<title>taken over</title>" not in dom
    assert "hmm &lt;script&gt;window.x=1;" in dom


def test_every_figure_draws_in_a_browser(attacked):
    _, dom = attacked
    for name in FIGURES:
        start = dom.index(f'id="plot-{name}"')
        assert 'class="main-svg"' in dom[start : start + 3000], name


def test_page_renders_where_nothing_could_be_measured(results):
    bare = {key: None for key in results} | {"schema": results["schema"], "behaviors": {}}
    assert "No behavior was measured" in text(render_report(bare, []))
    bare["behaviors"] = {"verification": {"verdict": None}, "deduction": {}}
    bare["behaviors"]["backtracking"] = {
        key: None for key in results["behaviors"]["backtracking"]
    } | {"ablation": {"layer": "all", "removed_share": 0.5}, "probe": {"auroc_ci": [None, None]}}
    shown = text(render_report(bare, []))
    assert shown.count("not measured") == 3
    assert "50.0% all layers" in shown


def test_report_refuses_another_schema():
    with pytest.raises(ValueError, match=r"expected 'whenlens\.results/1'"):
        render_report({"schema": "other", "behaviors": {}}, [])
