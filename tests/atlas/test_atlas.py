"""The atlas in a browser: what a reader sees, points at, clicks and types, without a network."""

import copy
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from figures.theme import BEHAVIOR_COLORS
from interp.atlas import SCALE

_TESTS = Path(__file__).parents[1]
links = runpy.run_path(str(_TESTS / "figures" / "pages.py"))["links"]


def divergences(atlas: dict[str, Any], order: list[int]) -> list[list[int]]:
    return [[t, k] for t in order for k in atlas["traces"][t]["disagree"]]


def test_page_opens_without_a_network_and_names_no_address(page):
    source = page.file.read_text(encoding="utf-8")
    assert links(source) == []
    # the name of SVG's namespace is not an address that anything loads
    assert set(re.findall(r"\w+://[^\s\"'`<>]*", source)) == {"http://www.w3.org/2000/svg"}
    assert page.requests == [page.file.as_uri()]
    assert "plotly" not in source.lower()


def test_header_counts_traces_tokens_and_disagreements(page, atlas):
    tokens = sum(len(one["tokens"]) for one in atlas["traces"])
    apart = sum(len(one["disagree"]) for one in atlas["traces"])
    counts = page.text("#counts")
    assert counts.startswith("Traces: 4 thinking, 2 base, 2 hybrid.")
    assert f" {tokens} tokens, {apart} disagreements ({apart / tokens:.1%})" in counts
    assert "countdown-rl" in page.text("h1") and "ln 2 = 0.693 nats" in page.text(".scale")


def test_text_of_a_trace_is_its_tokens_text(page, atlas):
    for t in (0, 1):
        written = page.text(f'[data-t="{t}"] .text')
        assert written == "".join(atlas["traces"][t]["tokens"]).lstrip()


def color_of(js: float) -> list[float]:
    """The scale read off by hand: find the two stops around js and weigh them."""
    share = js / math.log(2)
    stops = [[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in SCALE]
    n = min(int(share * 4), 3)
    return [
        low * (n + 1 - share * 4) + high * (share * 4 - n)
        for low, high in zip(stops[n], stops[n + 1], strict=True)
    ]


def test_shading_of_every_token_is_its_js_and_disagreements_are_underlined(page, atlas):
    trace = atlas["traces"][0]
    seen = page.run(
        "[...document.querySelectorAll('[data-t=\"0\"] .text .tok')].map((one) =>"
        " [getComputedStyle(one).backgroundColor, getComputedStyle(one).boxShadow !== 'none'])"
    )
    for (color, _), js in zip(seen, trace["js"], strict=True):
        assert [int(n) for n in re.findall(r"\d+", color)] == pytest.approx(color_of(js), abs=0.6)
    assert [k for k, (_, line) in enumerate(seen) if line] == trace["disagree"]


def test_sentences_have_the_bar_of_their_behavior(page, atlas):
    seen = page.run(
        "[...document.querySelectorAll('[data-t=\"0\"] .seg')].map((one) =>"
        " [one.querySelectorAll('.tok').length, getComputedStyle(one).borderBottomColor])"
    )
    expected = []
    for one in atlas["traces"][0]["segments"]:
        value = BEHAVIOR_COLORS.get(one["behavior"])
        rgb = ", ".join(str(int(value[i : i + 2], 16)) for i in (1, 3, 5)) if value else None
        expected.append([one["end"] - one["start"], f"rgb({rgb})" if rgb else "rgba(0, 0, 0, 0)"])
    assert seen == expected


def test_pointing_at_a_token_shows_what_both_models_would_have_said(page, atlas):
    trace = atlas["traces"][1]
    k = trace["disagree"][0]
    assert not page.visible("#tip")
    page.hover(page.at(1, k))
    assert page.visible("#tip")
    lists = page.run(
        "[...document.querySelectorAll('#tip table')].map((one) =>"
        " [one.caption.textContent, [...one.rows].map((row) =>"
        " [...row.cells].map((cell) => cell.textContent))])"
    )
    assert lists == [
        [title, [[word, f"{p:.3f}" if p >= 0.001 else "< 0.001"] for word, p in trace[name][k]]]
        for title, name in (("Thinking model", "top_thinking"), ("Base model", "top_base"))
    ]
    numbers = page.text("#tip dl")
    for name, key in (("JS", "js"), ("KL(thinking‖base)", "kl"),
                      ("entropy, thinking", "h_thinking"), ("entropy, base", "h_base")):  # fmt: skip
        assert f"{name}{trace[key][k]:.3f} nats" in numbers
    assert numbers.endswith(f"likeliest token in the base{trace['rank'][k]}")
    page.hover("h1")
    assert not page.visible("#tip")


def test_click_opens_the_layer_curve_and_every_map_with_its_numbers(page, atlas):
    trace = atlas["traces"][0]
    k = trace["disagree"][0]
    page.click(page.at(0, k))
    lens = trace["lens"][str(k)]
    drawn = page.points()
    assert [one[0] for one in drawn] == [0, 1, 2, 3]
    assert [one[1] for one in drawn] == pytest.approx(lens, rel=1e-3)
    heights = [one[2] / drawn[-1][2] for one in drawn]  # the axis starts at 0
    assert heights == pytest.approx([value / lens[-1] for value in lens], rel=1e-3)
    for name in atlas["components"]:
        page.click(f'[role=tab][data-name="{name}"]')
        assert page.text("[role=tab][aria-selected=true]") == name
        assert page.cells() == {
            (layer, offset): pytest.approx(value, rel=1e-3)
            for layer, row in enumerate(trace["patching"][str(k)][name])
            for offset, value in zip(atlas["offsets"], row, strict=True)
        }
    printed = page.run(
        "[...document.querySelectorAll('#panel .heatmap .value')].map((one) => one.textContent)"
    )
    assert printed[-1] == f"{trace['patching'][str(k)]['mlp_out'][3][-1]:.2f}".replace("-", "−")
    page.hover('#panel .heatmap rect[data-layer="3"][data-offset="0"]')
    last = f"{trace['patching'][str(k)]['mlp_out'][3][-1]:.3f}".replace("-", "−")
    assert page.text("#panel #map .readout") == f"layer 3, offset 0: {last}"


def test_panel_says_where_nothing_was_measured(page, atlas):
    trace = atlas["traces"][0]
    page.click(page.at(0, next(k for k in range(len(trace["js"])) if k not in trace["disagree"])))
    assert page.text("#nothing").startswith("Nothing was measured inside the models")
    page.click(page.at(0, trace["disagree"][1]))  # a lens, but no patching
    assert len(page.points()) == 4
    assert "Patching was not measured at this token." in page.text("#detail")
    assert not page.visible("#nothing")


def test_filters_show_the_traces_that_match_and_dim_other_sentences(page, atlas):
    traces = atlas["traces"]
    page.choose("source", "base")
    assert page.shown() == [t for t, one in enumerate(traces) if one["source"] == "base"]
    assert page.text("#status") == "2 of 8 traces"
    page.choose("source", "")
    page.choose_behavior("Verification")
    has = [
        t
        for t, one in enumerate(traces)
        if "verification" in {s["behavior"] for s in one["segments"]}
    ]
    assert page.shown() == has and 0 < len(has) < 8
    faint = page.run(
        "[...document.querySelectorAll('.text .seg')].map((one) =>"
        " [one.classList.contains('b-verification'), getComputedStyle(one).opacity === '1'])"
    )
    assert all(one == whole for one, whole in faint) and {True, False} == {one for one, _ in faint}


def test_only_disagreements_leaves_out_traces_without(blank, atlas):
    changed = copy.deepcopy(atlas)
    changed["traces"][2]["disagree"] = []
    blank.show(changed)
    blank.click("#apart")
    assert blank.shown() == [0, 1, 3, 4, 5, 6, 7]
    blank.click("#apart")
    assert blank.shown() == list(range(8))


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("mean_js", lambda one: sum(one["js"]) / len(one["js"])),
        ("max_js", lambda one: max(one["js"])),
        ("disagreements", lambda one: len(one["disagree"])),
    ],
)
def test_sort_puts_the_largest_first_and_goes_back(page, atlas, order, key):
    page.choose("sort", order)
    expected = sorted(range(8), key=lambda t: -round(key(atlas["traces"][t]), 6))
    assert page.shown() == expected != list(range(8))
    page.choose("sort", "")
    assert page.shown() == list(range(8))


def test_traces_out_of_sight_get_their_tokens_when_a_filter_brings_them_up(blank, make_atlas):
    blank.show(make_atlas(n_traces=40, n_tokens=80))
    filled = "!!document.querySelector('[data-t=\"39\"] .tok')"
    assert blank.run(filled) is False
    blank.choose("source", "hybrid")
    blank.run("document.querySelector('[data-t=\"39\"]').scrollIntoView()")
    blank.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert blank.run(filled) is True


def test_n_and_p_walk_every_divergence_of_the_traces_shown(page, atlas):
    page.choose("sort", "max_js")
    walk = divergences(atlas, page.shown())
    seen = []
    for _ in walk:
        page.press("n")
        seen.append(page.focused())
    assert seen == walk
    page.press("n")
    assert page.focused() == walk[-1]
    assert page.text("#status") == "No divergence after this."
    for one in walk[-2::-1]:
        page.press("p")
        assert page.focused() == one


def test_n_skips_dimmed_sentences(page, atlas):
    page.choose_behavior("Final answer")
    walk = []
    for t, k in divergences(atlas, page.shown()):
        (own,) = [s for s in atlas["traces"][t]["segments"] if s["start"] <= k < s["end"]]
        walk += [[t, k]] * (own["behavior"] == "final-answer")
    assert walk
    for one in walk:
        page.press("n")
        assert page.focused() == one


def test_buttons_jump_to_the_first_and_the_next_divergence(page, atlas):
    first, second = atlas["traces"][3]["disagree"][:2]
    page.click('[data-t="3"] .first')
    assert page.focused() == [3, first]
    page.click("#next")
    assert page.focused() == [3, second]
    page.click("#previous")
    assert page.focused() == [3, first]


def test_keys_move_open_and_close(page, atlas):
    page.press("j")
    assert page.focused() == [0, 0]
    page.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.focused() == [0, 1]
    assert page.visible("#tip")
    page.press("j", "j")
    assert page.focused() == [2, 0]
    page.press("k")
    assert page.focused() == [1, 0]
    page.press("ArrowLeft")
    assert page.focused() == [1, 0]
    page.press("Enter")
    assert page.visible("#detail") and page.run("document.activeElement.id") == "panel"
    page.press("n")  # the panel follows
    k = atlas["traces"][1]["disagree"][0]
    k = k if k > 0 else atlas["traces"][1]["disagree"][1]
    assert page.focused() == [1, k]
    assert page.text("#detail .what span").startswith(f"token {k} of ")
    page.press("Enter", "Escape")
    assert not page.visible("#detail") and page.focused() == [1, k]


def test_slash_goes_to_the_filter_and_question_mark_shows_help(page):
    page.press("/")
    assert page.run("document.activeElement.id") == "behavior"
    page.press("Escape", "?")
    assert page.visible("#help")
    page.press("n")  # help is in front
    assert page.run("document.querySelector('.tok:focus')") is None
    page.press("Escape")
    assert not page.visible("#help")


def test_one_token_a_trace_is_in_the_tab_order_and_each_says_what_it_is(page, atlas):
    page.press("n", "ArrowRight")
    tabbable = page.run(
        "[...document.querySelectorAll('.text')].map((one) =>"
        " [...one.querySelectorAll('.tok[tabindex=\"0\"]')].map((tok) => +tok.dataset.k))"
    )
    first = atlas["traces"][0]["disagree"][0]
    assert tabbable == [[first + 1]] + [[0]] * (len(tabbable) - 1)
    label = page.run(f"document.querySelector('{page.at(0, first)}').ariaLabel")
    js, token = atlas["traces"][0]["js"][first], atlas["traces"][0]["tokens"][first].strip()
    assert label.startswith(f"{token}, JS {js:.3f}, models disagree, ")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"
