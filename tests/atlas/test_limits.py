"""The atlas at its limits: hostile and odd text, gaps, narrow pages, notebooks and many traces."""

import copy
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from interp.atlas import Atlas, render_atlas, write_atlas

ATTACKS = ("<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=1</script>")


def hostile(atlas: dict[str, Any], attack: str) -> dict[str, Any]:
    """The atlas of one trace with the attack for every text."""
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
def test_no_text_of_a_model_is_markup(blank, make_atlas, attack):
    atlas = hostile(make_atlas(n_traces=1), attack)
    blank.show(atlas)
    k = atlas["traces"][0]["disagree"][0]
    assert blank.text(blank.at(0, k)) == attack
    blank.hover(blank.at(0, k))
    assert blank.text("#tip bdi") == attack
    blank.click(blank.at(0, k))
    assert blank.text("#panel [role=tab]") == attack and attack in blank.text("h1")
    assert blank.text(".prompt") == attack and attack in blank.text("#behavior")
    assert blank.run("window.hacked ?? null") is None
    assert blank.run("document.querySelectorAll('img').length") == 0


ODD = ("<!--", "\u2028", "\u2029", "\n\n", " ", "", "\t", " 😀", "שלום", "\ud800", "a\nb", "&lt;")


def test_odd_tokens_are_shown_as_they_are(blank, make_atlas):
    atlas = make_atlas(n_traces=1) | {"traces": [{"id": "odd", "tokens": list(ODD)}]}
    source = render_atlas(atlas)
    assert "\u2028" not in source and "<!--" not in source
    blank.show(atlas)
    seen = blank.run(
        "[...document.querySelectorAll('.text .tok')].map((one) => [one.textContent,"
        " one.dataset.mark ?? null, one.getBoundingClientRect().width > 0])"
    )
    marked = {"\n\n": "↵↵", "": "∅", "\t": "⇥"}
    for token, (written, mark, wide) in zip(ODD, seen, strict=True):
        assert written == (token.lstrip(" ") or token)
        assert (mark or None) == marked.get(token)
        assert wide or token in ("\u2028", "\u2029")


def test_what_is_null_or_missing_is_not_measured(blank, make_atlas):
    trace = copy.deepcopy(make_atlas(n_traces=1)["traces"][0])
    k = trace["disagree"][0]
    trace["js"][k] = trace["top_base"][k] = trace["rank"][k] = None
    trace["kl"][k] = math.nan
    trace["lens"][str(k)][1] = None
    trace["patching"][str(k)]["resid_post"][2][:2] = [None, -0.001]
    bare = {"tokens": ["x", " y"]}
    atlas = {"schema": "whenlens.atlas/1", "traces": [trace, bare, {}]}
    blank.show(atlas)
    assert blank.run(f"document.querySelector('{blank.at(0, k)}').matches('.unmeasured')")
    blank.click(blank.at(0, k))
    shown_there = blank.text("#detail")
    assert "JS–" in shown_there and "KL(thinking‖base)–" in shown_there
    assert "Base modelnot measured" in shown_there
    assert [one[0] for one in blank.points()] == [0, 2, 3]
    blank.hover('#panel .heatmap rect[data-layer="2"]')
    assert blank.text("#map .readout").endswith("not measured")
    printed = "[...document.querySelectorAll('.heatmap .value')].map((one) => one.textContent)"
    assert blank.run(printed)[8:10] == ["–", "0.00"]  # no sign before a zero
    blank.click(blank.at(1, 1))
    assert blank.visible("#nothing")
    blank.press("j")  # a trace without tokens
    assert "This trace has no tokens." in blank.text('[data-t="2"]')


def test_atlas_without_traces_says_so(blank):
    blank.show({"schema": "whenlens.atlas/1", "traces": []})
    assert "This atlas has no traces." in blank.text("#traces")
    blank.press("n", "p", "j", "k", "ArrowRight", "Escape")


@pytest.mark.parametrize("width", [390, 800])
def test_narrow_page_does_not_scroll_sideways_and_its_panel_is_in_view(page, atlas, width):
    try:
        page.resize(width, 800)
        page.click(page.at(7, atlas["traces"][7]["disagree"][0]))  # nothing is below it
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


def test_a_notebook_shows_the_page_in_a_frame(blank, atlas, tmp_path):
    shown_there = Atlas(atlas)._repr_html_()
    frame = _Frame()
    frame.feed(shown_there)
    assert frame.tag == "iframe" and frame.attributes["srcdoc"] == render_atlas(atlas)
    assert int(frame.attributes["height"] or 0) > 400
    host = tmp_path / "host.html"
    loaded = "<script>addEventListener('load', () => { window.atlasReady = 1; })</script>"
    host.write_text(loaded + shown_there, encoding="utf-8")
    blank.open(host)
    drawn = "document.querySelectorAll('[data-t=\"0\"] .tok').length"
    assert blank.run_in_frame(drawn) == len(atlas["traces"][0]["tokens"])
    # the frame's scripts may not reach the notebook
    reach = "(() => { try { return !!parent.document; } catch { return false; } })()"
    assert blank.run_in_frame(reach) is False


def test_same_atlas_gives_the_same_bytes(atlas):
    assert render_atlas(copy.deepcopy(atlas)) == render_atlas(json.loads(json.dumps(atlas)))


@pytest.mark.parametrize("given", [{"schema": "whenlens.divergence/1"}, {}])
def test_another_schema_is_refused_in_one_sentence(given):
    with pytest.raises(ValueError, match=r"expected 'whenlens\.atlas/1': pass the dict") as caught:
        render_atlas(given)
    assert repr(given.get("schema")) in str(caught.value)
    with pytest.raises(ValueError, match="whenlens"):
        Atlas(given)


@pytest.fixture(scope="module")
def large(make_atlas, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / "atlas.html"
    write_atlas(make_atlas(n_traces=200, n_tokens=300), path)
    return path


@pytest.mark.slow
def test_two_hundred_traces_of_three_hundred_tokens_open_within_two_seconds(blank, large):
    times = [blank.open(large) for _ in range(3)]
    assert min(times) < 2000, times
    drawn = blank.run("document.querySelectorAll('.text .tok').length")
    assert 300 <= drawn < 60_000  # what is in view has its tokens, what is far has not


@pytest.mark.slow
def test_scrolling_through_them_draws_a_few_traces_at_a_time(blank, large):
    """A task that draws much stops the page, for how long is a matter of the machine."""
    blank.open(large)
    most = blank.run(
        "new Promise((done) => { let most = 0; const watch = new MutationObserver((list) => {"
        " let drawn = 0; for (const one of list) for (const node of one.addedNodes)"
        " if (node.nodeType === 1) drawn += node.matches('.tok') || node.querySelectorAll('.tok').length;"
        " most = Math.max(most, drawn); });"
        " watch.observe(document.body, { childList: true, subtree: true });"
        " const step = () => { scrollBy(0, 700);"
        " if (scrollY + innerHeight >= document.documentElement.scrollHeight - 2)"
        " setTimeout(() => done(most), 200); else requestAnimationFrame(step); }; step(); })"
    )
    assert 300 <= most <= 60_000 / 10
    assert blank.run("document.querySelectorAll('.text .tok').length") == 60_000
