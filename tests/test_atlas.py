"""The atlas in a browser: what a reader sees, points at, clicks and types, without a network."""

import copy
import json
import math
import re
import runpy
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from interp.atlas import SCALE, Atlas, render_atlas, write_atlas

_HERE = Path(__file__).parent
make_atlas = runpy.run_path(str(_HERE / "atlas_data.py"))["make_atlas"]
Page = runpy.run_path(str(_HERE / "browser.py"))["Page"]
links = runpy.run_path(str(_HERE / "figures" / "pages.py"))["links"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ATTACKS = ("<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=1</script>")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on PATH to open the page with")
    page = Page(CHROMIUM)
    yield page
    page.close()


@pytest.fixture(scope="module")
def atlas() -> dict[str, Any]:
    return make_atlas(n_traces=8)


@pytest.fixture(scope="module")
def file(atlas, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    write_atlas(atlas, path)
    return path


@pytest.fixture
def page(browser, file):
    """The page freshly opened; whatever a test did to it, no script of it may have failed."""
    browser.open(file)
    yield browser
    assert browser.errors == []


def opened(browser: Any, atlas: Any, folder: Path) -> None:
    write_atlas(atlas, folder / "page.html")
    browser.open(folder / "page.html")


def at(t: int, k: int) -> str:
    return f'[data-t="{t}"] [data-k="{k}"]'


def shown(page: Any) -> list[int]:
    """Indices of the traces shown, in their order."""
    return page.run("[...document.querySelectorAll('.trace')].map((one) => +one.dataset.t)")


def focused(page: Any) -> list[int]:
    """Trace and place of the token that has the focus."""
    return page.run(
        "[document.activeElement.closest('.trace').dataset.t, document.activeElement.dataset.k]"
        ".map(Number)"
    )


def text(page: Any, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


def visible(page: Any, selector: str) -> bool:
    return page.run(f"document.querySelector({selector!r})?.checkVisibility() ?? false")


def divergences(atlas: dict[str, Any], order: list[int]) -> list[list[int]]:
    return [[t, k] for t in order for k in atlas["traces"][t]["disagree"]]


def test_page_opens_without_a_network_and_names_no_address(page, file):
    source = file.read_text(encoding="utf-8")
    assert links(source) == []
    # the name of SVG's namespace is not an address that anything loads
    assert set(re.findall(r"\w+://[^\s\"'`<>]*", source)) == {"http://www.w3.org/2000/svg"}
    assert [one for one in page.requests if not one.startswith("chrome:")] == [file.as_uri()]
    assert "plotly" not in source.lower()


def test_header_counts_traces_tokens_and_disagreements(page, atlas):
    tokens = sum(len(one["tokens"]) for one in atlas["traces"])
    apart = sum(len(one["disagree"]) for one in atlas["traces"])
    counts = text(page, "#counts")
    assert counts.startswith("Traces: 4 thinking, 2 base, 2 hybrid.")
    assert f" {tokens} tokens, {apart} disagreements ({apart / tokens:.1%})" in counts
    assert "countdown-rl" in text(page, "h1") and "ln 2 = 0.693 nats" in text(page, ".scale")


def test_text_of_a_trace_is_its_tokens_text(page, atlas):
    for t in (0, 1):
        written = text(page, f'[data-t="{t}"] .text')
        assert written == "".join(atlas["traces"][t]["tokens"]).lstrip()


def color_of(js: float) -> list[float]:
    """The scale read off by hand: find the two stops around js and weigh them."""
    share = js / math.log(2)
    stops = [[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in SCALE]
    for n, (low, high) in enumerate(zip(stops, stops[1:], strict=False)):
        if share * 4 <= n + 1:
            return [a * (n + 1 - share * 4) + b * (share * 4 - n) for a, b in zip(low, high)]  # noqa: B905
    raise AssertionError(js)


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
    from figures.theme import BEHAVIOR_COLORS

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
    assert not visible(page, "#tip")
    page.hover(at(1, k))
    assert visible(page, "#tip")
    lists = page.run(
        "[...document.querySelectorAll('#tip table')].map((one) =>"
        " [one.caption.textContent, [...one.rows].map((row) =>"
        " [...row.cells].map((cell) => cell.textContent))])"
    )
    assert lists == [
        [title, [[word, f"{p:.3f}" if p >= 0.001 else "< 0.001"] for word, p in trace[name][k]]]
        for title, name in (("Thinking model", "top_thinking"), ("Base model", "top_base"))
    ]
    numbers = text(page, "#tip dl")
    for name, key in (("JS", "js"), ("KL(thinking‖base)", "kl"),
                      ("entropy, thinking", "h_thinking"), ("entropy, base", "h_base")):  # fmt: skip
        assert f"{name}{trace[key][k]:.3f} nats" in numbers
    assert numbers.endswith(f"likeliest token in the base{trace['rank'][k]}")
    page.hover("h1")
    assert not visible(page, "#tip")


def points(page: Any) -> list[list[float]]:
    return page.run(
        "[...document.querySelectorAll('#panel .lens circle')].map((one) =>"
        " [+one.dataset.layer, +one.dataset.value, +one.getAttribute('cy')])"
    )


def cells(page: Any) -> dict[tuple[int, int], float]:
    found = page.run(
        "[...document.querySelectorAll('#panel .heatmap rect')].map(({ dataset }) =>"
        " [+dataset.layer, +dataset.offset, +dataset.value])"
    )
    return {(layer, offset): value for layer, offset, value in found}


def test_click_opens_the_layer_curve_and_every_map_with_its_numbers(page, atlas):
    trace = atlas["traces"][0]
    k = trace["disagree"][0]
    page.click(at(0, k))
    lens = trace["lens"][str(k)]
    drawn = points(page)
    assert [one[0] for one in drawn] == [0, 1, 2, 3]
    assert [one[1] for one in drawn] == pytest.approx(lens, rel=1e-3)
    # heights are proportional to the values: the axis starts at 0
    axis = page.run("+document.querySelector('#panel .lens .axis').getAttribute('y1')")
    heights = [(axis - one[2]) / lens[0] * lens[n] for n, one in enumerate(drawn)]
    assert [axis - one[2] for one in drawn] == pytest.approx(
        [heights[0] / lens[0] * value for value in lens], rel=1e-2
    )
    for name in atlas["components"]:
        page.click(f'[role=tab][data-name="{name}"]')
        assert text(page, "[role=tab][aria-selected=true]") == name
        assert cells(page) == {
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
    assert text(page, "#panel #map .readout") == f"layer 3, offset 0: {last}"


def test_panel_says_where_nothing_was_measured(page, atlas):
    trace = atlas["traces"][0]
    page.click(at(0, next(k for k in range(len(trace["js"])) if k not in trace["disagree"])))
    assert text(page, "#nothing").startswith("Nothing was measured inside the models")
    page.click(at(0, trace["disagree"][1]))  # a lens, but no patching
    assert len(points(page)) == 4
    assert "Patching was not measured at this token." in text(page, "#detail")
    assert not visible(page, "#nothing")


def test_filters_show_the_traces_that_match_and_dim_other_sentences(page, atlas):
    traces = atlas["traces"]
    page.choose("source", "base")
    assert shown(page) == [t for t, one in enumerate(traces) if one["source"] == "base"]
    assert text(page, "#status") == "2 of 8 traces"
    page.choose("source", "")
    index = page.run(
        "[...document.getElementById('behavior').options].find((one) => one.text ==="
        " 'Verification').value"
    )
    page.choose("behavior", index)
    has = [
        t
        for t, one in enumerate(traces)
        if "verification" in {s["behavior"] for s in one["segments"]}
    ]
    assert shown(page) == has and 0 < len(has) < 8
    faint = page.run(
        "[...document.querySelectorAll('.text .seg')].map((one) =>"
        " [one.classList.contains('b-verification'), getComputedStyle(one).opacity === '1'])"
    )
    assert all(one == whole for one, whole in faint) and {True, False} == {one for one, _ in faint}
    page.choose("source", "nowhere")


def test_only_disagreements_leaves_out_traces_without(browser, atlas, tmp_path):
    changed = copy.deepcopy(atlas)
    changed["traces"][2]["disagree"] = []
    opened(browser, changed, tmp_path)
    browser.click("#apart")
    assert shown(browser) == [0, 1, 3, 4, 5, 6, 7]
    browser.click("#apart")
    assert shown(browser) == list(range(8))


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
    assert shown(page) == expected != list(range(8))
    page.choose("sort", "")
    assert shown(page) == list(range(8))


def test_traces_out_of_sight_get_their_tokens_when_a_filter_brings_them_up(browser, tmp_path):
    opened(browser, make_atlas(n_traces=40, n_tokens=80), tmp_path)
    filled = "!!document.querySelector('[data-t=\"39\"] .tok')"
    assert browser.run(filled) is False
    browser.choose("source", "hybrid")
    browser.run("document.querySelector('[data-t=\"39\"]').scrollIntoView()")
    browser.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert browser.run(filled) is True


def test_n_and_p_walk_every_divergence_of_the_traces_shown(page, atlas):
    page.choose("sort", "max_js")
    walk = divergences(atlas, shown(page))
    seen = []
    for _ in walk:
        page.press("n")
        seen.append(focused(page))
    assert seen == walk
    page.press("n")
    assert focused(page) == walk[-1]
    assert text(page, "#status") == "No divergence after this."
    for one in walk[-2::-1]:
        page.press("p")
        assert focused(page) == one


def test_n_skips_dimmed_sentences(page, atlas):
    index = page.run(
        "[...document.getElementById('behavior').options].find((one) => one.text ==="
        " 'Final answer').value"
    )
    page.choose("behavior", index)
    walk = []
    for t, k in divergences(atlas, shown(page)):
        (own,) = [s for s in atlas["traces"][t]["segments"] if s["start"] <= k < s["end"]]
        walk += [[t, k]] * (own["behavior"] == "final-answer")
    assert walk
    for one in walk:
        page.press("n")
        assert focused(page) == one


def test_buttons_jump_to_the_first_and_the_next_divergence(page, atlas):
    first, second = atlas["traces"][3]["disagree"][:2]
    page.click('[data-t="3"] .first')
    assert focused(page) == [3, first]
    page.click("#next")
    assert focused(page) == [3, second]
    page.click("#previous")
    assert focused(page) == [3, first]


def test_keys_move_open_and_close(page, atlas):
    page.press("j")
    assert focused(page) == [0, 0]
    page.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert focused(page) == [0, 1]
    assert visible(page, "#tip")
    page.press("j", "j")
    assert focused(page) == [2, 0]
    page.press("k")
    assert focused(page) == [1, 0]
    page.press("ArrowLeft")
    assert focused(page) == [1, 0]
    page.press("Enter")
    assert visible(page, "#detail") and page.run("document.activeElement.id") == "panel"
    page.press("n")  # the panel follows
    k = atlas["traces"][1]["disagree"][0]
    k = k if k > 0 else atlas["traces"][1]["disagree"][1]
    assert focused(page) == [1, k]
    assert text(page, "#detail .what span").startswith(f"token {k} of ")
    page.press("Enter", "Escape")
    assert not visible(page, "#detail") and focused(page) == [1, k]


def test_slash_goes_to_the_filter_and_question_mark_shows_help(page):
    page.press("/")
    assert page.run("document.activeElement.id") == "behavior"
    page.press("Escape", "?")
    assert visible(page, "#help")
    page.press("n")  # help is in front
    assert page.run("document.querySelector('.tok:focus')") is None
    page.press("Escape")
    assert not visible(page, "#help")


def test_one_token_a_trace_is_in_the_tab_order_and_each_says_what_it_is(page, atlas):
    page.press("n", "ArrowRight")
    tabbable = page.run(
        "[...document.querySelectorAll('.text')].map((one) =>"
        " [...one.querySelectorAll('.tok[tabindex=\"0\"]')].map((tok) => +tok.dataset.k))"
    )
    first = atlas["traces"][0]["disagree"][0]
    assert tabbable == [[first + 1]] + [[0]] * (len(tabbable) - 1)
    label = page.run(f"document.querySelector('{at(0, first)}').ariaLabel")
    js, token = atlas["traces"][0]["js"][first], atlas["traces"][0]["tokens"][first].strip()
    assert label.startswith(f"{token}, JS {js:.3f}, models disagree, ")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"


def hostile(attack: str) -> dict[str, Any]:
    """An atlas whose every text is the attack."""
    atlas = make_atlas(n_traces=1)
    (trace,) = atlas["traces"]
    k = str(trace["disagree"][0])
    trace["tokens"] = [attack for _ in trace["tokens"]]
    trace |= {"id": attack, "problem": attack, "source": attack}
    for name in ("top_base", "top_thinking"):
        trace[name] = [[[attack, 0.5]] * 5 for _ in trace["tokens"]]
    trace["segments"][0]["behavior"] = attack
    trace["patching"][k] = {attack: trace["patching"][k]["resid_post"]}
    atlas |= {"pair": attack, "behaviors": [attack], "components": [attack]}
    return atlas


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_a_model_is_markup(browser, tmp_path, attack):
    atlas = hostile(attack)
    opened(browser, atlas, tmp_path)
    k = atlas["traces"][0]["disagree"][0]
    assert text(browser, at(0, k)) == attack
    browser.hover(at(0, k))
    assert text(browser, "#tip bdi") == attack
    browser.click(at(0, k))
    assert text(browser, "#panel [role=tab]") == attack and attack in text(browser, "h1")
    assert text(browser, ".prompt") == attack and attack in text(browser, "#behavior")
    assert browser.run("window.hacked ?? null") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.errors == []


ODD = ("<!--", "\u2028", "\u2029", "\n\n", " ", "", "\t", " 😀", "שלום", "\ud800", "a\nb", "&lt;")


def test_odd_tokens_are_shown_as_they_are(browser, tmp_path):
    atlas = make_atlas(n_traces=1) | {"traces": [{"id": "odd", "tokens": list(ODD)}]}
    source = render_atlas(atlas)
    assert "\u2028" not in source and "<!--" not in source
    opened(browser, atlas, tmp_path)
    seen = browser.run(
        "[...document.querySelectorAll('.text .tok')].map((one) => [one.textContent,"
        " one.dataset.mark ?? null, one.getBoundingClientRect().width > 0])"
    )
    marked = {"\n\n": "↵↵", "": "∅", "\t": "⇥"}
    for token, (written, mark, wide) in zip(ODD, seen, strict=True):
        # a lone surrogate has no character: the protocol replaces it
        assert written == (token.lstrip(" ") or token if token != "\ud800" else "\ufffd")
        assert (mark or None) == marked.get(token)
        assert wide or token in ("\u2028", "\u2029")
    assert browser.errors == []


def test_what_is_null_or_missing_is_not_measured(browser, tmp_path):
    trace = copy.deepcopy(make_atlas(n_traces=1)["traces"][0])
    k = trace["disagree"][0]
    trace["js"][k] = trace["top_base"][k] = trace["rank"][k] = None
    trace["kl"][k] = math.nan
    trace["lens"][str(k)][1] = None
    trace["patching"][str(k)]["resid_post"][2][0] = None
    bare = {"tokens": ["x", " y"]}
    atlas = {"schema": "whenlens.atlas/1", "traces": [trace, bare, {}]}
    opened(browser, atlas, tmp_path)
    assert browser.run(f"document.querySelector('{at(0, k)}').matches('.unmeasured')")
    browser.click(at(0, k))
    shown_there = text(browser, "#detail")
    assert "JS–" in shown_there and "KL(thinking‖base)–" in shown_there
    assert "Base modelnot measured" in shown_there
    assert [one[0] for one in points(browser)] == [0, 2, 3]
    browser.hover('#panel .heatmap rect[data-layer="2"]')
    assert text(browser, "#map .readout").endswith("not measured")
    browser.click(at(1, 1))
    assert visible(browser, "#nothing")
    browser.press("j")  # a trace without tokens
    assert "This trace has no tokens." in text(browser, '[data-t="2"]')
    assert browser.errors == []


def test_atlas_without_traces_says_so(browser, tmp_path):
    opened(browser, {"schema": "whenlens.atlas/1", "traces": []}, tmp_path)
    assert "This atlas has no traces." in text(browser, "#traces")
    browser.press("n", "p", "j", "k", "ArrowRight", "Escape")
    assert browser.errors == []


@pytest.mark.parametrize("width", [390, 800])
def test_narrow_page_does_not_scroll_sideways_and_its_panel_is_in_view(page, atlas, width):
    try:
        page.resize(width, 800)
        page.click(at(0, atlas["traces"][0]["disagree"][0]))
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        box = page.run("(({ top, bottom }) => [top, bottom])(panel.getBoundingClientRect())")
        assert 0 < box[0] < box[1] <= 800
        token = "document.querySelector('.tok.open').getBoundingClientRect().bottom"
        assert page.run(token) < box[0]
    finally:
        page.resize(1400, 1000)


class _Frame(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag, self.attributes = tag, dict(attrs)


def test_a_notebook_shows_the_page_in_a_frame(browser, atlas, tmp_path):
    shown_there = Atlas(atlas)._repr_html_()
    frame = _Frame()
    frame.feed(shown_there)
    assert frame.tag == "iframe" and frame.attributes["srcdoc"] == render_atlas(atlas)
    assert int(frame.attributes["height"] or 0) > 400
    # a frame that may not reach its page: the rendered picture tells whether it drew
    (tmp_path / "host.html").write_text(f"<script>atlasReady = 1</script>{shown_there}")
    browser.open(tmp_path / "host.html")
    (inner,) = browser.send("Page.getFrameTree")["frameTree"]["childFrames"]
    assert inner["frame"]["url"] == "about:srcdoc"


def test_same_atlas_gives_the_same_bytes(atlas):
    assert render_atlas(copy.deepcopy(atlas)) == render_atlas(json.loads(json.dumps(atlas)))


@pytest.mark.parametrize("given", [{"schema": "whenlens.divergence/1"}, {}, []])
def test_another_schema_is_refused_in_one_sentence(given):
    schema = given.get("schema") if given else None
    with pytest.raises(ValueError, match=r"expected 'whenlens\.atlas/1': pass the dict") as caught:
        render_atlas(given)
    assert repr(schema) in str(caught.value)
    with pytest.raises(ValueError, match="whenlens"):
        Atlas(given)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / "atlas.html"
    write_atlas(make_atlas(n_traces=200, n_tokens=300), path)
    return path


@pytest.mark.slow
def test_two_hundred_traces_of_three_hundred_tokens_open_within_two_seconds(browser, large):
    times = [browser.open(large) for _ in range(3)]
    assert min(times) < 2000, times
    drawn = browser.run("document.querySelectorAll('.text .tok').length")
    assert 300 <= drawn < 60_000  # what is in view has its tokens, what is far has not


@pytest.mark.slow
def test_scrolling_through_them_never_stops_the_page_for_long(browser, large):
    longest = []
    for _ in range(3):
        browser.open(large)
        longest.append(
            browser.run(
                "new Promise((done) => { let most = 0; const watch = new PerformanceObserver((list) =>"
                " { for (const one of list.getEntries()) most = Math.max(most, one.duration); });"
                " watch.observe({ type: 'longtask' }); const step = () => { scrollBy(0, 700);"
                " if (scrollY + innerHeight >= document.documentElement.scrollHeight - 2)"
                " setTimeout(() => done(most), 200); else requestAnimationFrame(step); }; step(); })"
            )
        )
    assert min(longest) <= 200, longest
    assert browser.run("document.querySelectorAll('.text .tok').length") == 60_000
