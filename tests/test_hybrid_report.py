"""The report of a hybrid run: the verdict first, complete, self-contained, and safe to open."""

import copy
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from figures import HYBRID_FIGURES
from interp.hybrid_report import (
    HYBRID_CAPTIONS,
    render_hybrid_report,
    verdict_sentence,
    write_hybrid_report,
)

_FIGURE_TESTS = Path(__file__).parent / "figures"
_MADE = runpy.run_path(str(_FIGURE_TESTS / "synthetic.py"))
_PAGES = runpy.run_path(str(_FIGURE_TESTS / "pages.py"))
pieces, text = _PAGES["pieces"], _PAGES["text"]
ATTACK = "<script>window.x=1;document.title='taken over'</script>"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return _MADE["make_hybrid"]()


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("hybrid") / "report.html"
    write_hybrid_report(results, path)
    return path.read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.S)
    assert found
    return text(found.group())


def row(page: str, label: str, within: str) -> str:
    found = re.search(rf'<section id="{within}".*?</section>', page, re.S)
    assert found
    rows = re.findall(r"<tr.*?</tr>", found.group(), re.S)
    (shown,) = [text(one) for one in rows if text(one).strip().startswith(label)]
    return shown


def test_the_page_goes_from_the_verdict_to_provenance(page):
    marks = [
        f'id="{n}"' for n in ("verdict", "keys", "arms", "contrasts", "taxonomy", "equal-cost")
    ]
    marks += [f'id="plot-{name}"' for name in HYBRID_CAPTIONS]
    marks += ['<article class="card trace example"', 'id="provenance"']
    at = [page.index(mark) for mark in marks]
    assert at == sorted(at)
    assert set(HYBRID_CAPTIONS) == set(HYBRID_FIGURES) - {"side_by_side"}


def test_the_verdict_is_one_sentence_with_value_interval_and_reason(results, page):
    sentence = verdict_sentence(results)
    assert sentence in text(page)
    assert sentence.startswith("The base model mostly lacks when, not how: ")
    assert "72.7% [64.1%, 80.8%]" in sentence and sentence.endswith("lies above 0.5.")
    how = verdict_sentence({"verdict": {"answer": "how", "value": 0.1, "ci": None, "reason": None}})
    assert how.startswith("The base model mostly lacks how") and "10.0% of what" in how
    refused = verdict_sentence(_MADE["make_hybrid"](refused=True))
    assert refused == "This run cannot tell when from how: the gap is refused."
    assert verdict_sentence({"verdict": None}) == "This run gives no answer."


def test_key_numbers_are_those_of_the_dict(page):
    found = re.search(r'<dl class="keys".*?</dl>', page, re.S)
    assert found
    shown = text(found.group())
    for expected in (
        "Base accuracy 31.0% [27.0%, 35.0%]", "Hybrid accuracy 60.0% [56.5%, 64.0%]",
        "Thinking accuracy 75.0% [71.0%, 79.0%]", "Recovery of the gap 65.9% [57.9%, 75.5%]",
        "Tokens steered 11.8% 4.7% changed",
    ):  # fmt: skip
        assert expected in shown


def test_every_arm_has_its_row_under_its_kind(results, page):
    shown = row(page, "Random vectors", "arms")
    for expected in (
        "model margin, random, candidates", "32.9% [29.4%, 36.9%]", "4.3% [−3.7%, 13.9%]",
        "seeds 2.3% to 6.3%", "20 sets", "11.8% 4.7% 8.3% 97.0% 3.0% 2.81 152,034 3.1 min",
    ):  # fmt: skip
        assert expected in shown
    prompt = row(page, "Prompt", "arms")
    assert "−6.8% [−14.8%, 2.8%]" in prompt and prompt.strip().endswith("1.00 152,034 –")
    names = [data for tag, style, data in pieces(page) if (tag, style) == ("th", "kind")]
    assert names == ["Methods", "Controls", "Ceiling", "Baselines"]
    arms = section(page, "arms")
    order = [name.replace("-", " ").capitalize() for name in results["arms"]]
    assert all(name in arms for name in order)
    assert arms.index("Hybrid") == min(arms.index(name) for name in order)


def test_contrasts_categories_and_equal_cost_are_complete(results, page):
    assert "+27.1 [+23.1, +31.6] 100.0%" in row(page, "Random vectors", "contrasts")
    assert section(page, "contrasts").count("[") == len(results["contrasts"])
    taxonomy = section(page, "taxonomy")
    for expected in (
        "topk-sae, layer 2", "0.580 (k-means of the same size: 0.470)", "unexplained 21.0%",
        "deduction 0.930", "backtracking –", "2 17.0% Verification 79.0%", "5 6.0% – –",
    ):  # fmt: skip
        assert expected in taxonomy
    assert "8 810 41.0% [37.0%, 45.0%]" in row(page, "Entropy", "equal-cost")


def test_provenance_says_how_to_do_it_again(page):
    shown = section(page, "provenance")
    for expected in (
        "whenlens hybrid --pair countdown-rl --out runs/hybrid", "fit 300, select 200, report 500",
        "taxonomy 41.2 s, vectors 95.0 s, factorial 5.2 min, report 20.1 min", "0, 1, 2",
        "controller model-margin, vectors trained, coefficients candidates", "whenlens 0.2.0",
        '"margin": 0.0',
    ):  # fmt: skip
        assert expected in shown


def test_steered_tokens_are_marked_and_every_text_is_kept(results, page):
    start = page.index("<h2>Examples</h2>")
    marks = [p for p in pieces(page[start:].split("</main>")[0]) if p[0] == "mark"][2:]
    steered = [
        (t, one) for one in results["examples"] for t in one["hybrid"]["tokens"] if t["steered"]
    ]
    assert marks == [
        ("mark", f"b-{t['label'] or 'none'} {'changed' if t['changed'] else 'same'}",
         t["text"].strip())
        for t, _ in steered
    ]  # fmt: skip
    bodies = re.findall(r'<div class="text">.*?</div>', page, re.S)
    written = ["".join(data for _, _, data in pieces(body)) for body in bodies]
    assert written == [
        "".join(t["text"] for t in one[model]["tokens"])
        for one in results["examples"]
        for model in ("base", "hybrid", "thinking")
    ]
    for name in ("verification", "subgoal-setting", "none"):
        assert f".b-{name} {{ background: #" in page


def test_page_is_self_contained_with_plotly_once(page):
    assert _PAGES["links"](page) == []
    assert "default-src 'none'" in page
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
    assert sum(len(script) > 1_000_000 for script in scripts) == 1
    assert len(scripts) == 1 + len(HYBRID_CAPTIONS)


def test_same_run_gives_the_same_bytes(page, results):
    assert render_hybrid_report(copy.deepcopy(results)) == page


def with_text(value: Any, attack: str) -> Any:
    """The same tree with every free text replaced; keys of the schema stay."""
    if isinstance(value, dict):
        kept = ("schema", "kind", "answer", "gap_refused")
        return {k: v if k in kept else with_text(v, attack) for k, v in value.items()}
    if isinstance(value, list):
        return [with_text(item, attack) for item in value]
    return attack if isinstance(value, str) else value


@pytest.fixture(scope="module")
def attacked(results, tmp_path_factory) -> tuple[str, str]:
    """A page whose every string tries to run a script: as written, and after a browser ran it."""
    hostile = with_text(results, ATTACK)
    hostile["arms"][ATTACK] = hostile["arms"]["prompt"] | {"kind": ATTACK}
    hostile["contrasts"][ATTACK] = hostile["contrasts"]["prompt"]
    hostile["firing"]["steered"][ATTACK] = [5] * 10
    hostile["timings"][ATTACK] = hostile["taxonomy"]["f1"][ATTACK] = 1.0
    path = tmp_path_factory.mktemp("hybrid") / "attacked.html"
    write_hybrid_report(hostile, path)
    return path.read_text(encoding="utf-8"), _PAGES["run_in_chromium"](path)


def test_no_text_of_the_dict_is_markup(attacked):
    page, dom = attacked
    assert "<script>window.x" not in page
    assert ("mark", "b--script-window-x-1-document-title-taken-over-script- changed", ATTACK) in (
        pieces(page)
    )
    assert "<title>taken over</title>" not in dom
    assert "&lt;script&gt;window.x=1;" in dom


def test_every_figure_draws_in_a_browser(attacked):
    _, dom = attacked
    for name in HYBRID_CAPTIONS:
        start = dom.index(f'id="plot-{name}"')
        assert 'class="main-svg"' in dom[start : start + 3000], name


def test_page_of_a_refused_gap_says_why_and_shows_no_recovery():
    refused = _MADE["make_hybrid"](refused=True)
    page = render_hybrid_report(refused)
    shown = text(page)
    assert "No recovery is given: the gap is 2.0 points, under 5 points." in shown
    assert "Recovery of the gap –" in shown
    assert "60.0% [56.5%, 64.0%] – 11.8%" in row(page, "Hybrid", "arms")


@pytest.mark.parametrize("empty", [None, {}])
def test_page_renders_where_nothing_could_be_measured(results, empty):
    bare = {key: empty for key in results} | {"schema": results["schema"], "gap_refused": None}
    shown = text(render_hybrid_report(bare))
    assert "This run gives no answer." in shown and "No arm was measured." in shown


def without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v if k == "bins" else without_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return value if isinstance(value, str) else None


def test_page_renders_where_every_number_is_null(results):
    page = render_hybrid_report(without_numbers(results))
    assert "None" not in section(page, "arms") + section(page, "equal-cost")
    assert "–" in row(page, "Hybrid", "arms")


def test_report_refuses_another_schema():
    with pytest.raises(ValueError, match=r"expected 'whenlens\.hybrid/1'"):
        render_hybrid_report({"schema": "whenlens.results/1"})
