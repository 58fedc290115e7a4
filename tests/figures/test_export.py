"""Exported files are what they claim to be and need nothing beside them."""

import re
import runpy
import zlib
from pathlib import Path
from typing import Any

import pytest

from figures import FIGURES, FORMATS, NoBrowser, export

_HERE = Path(__file__).parent
_MADE = runpy.run_path(str(_HERE / "synthetic.py"))
_PAGES = runpy.run_path(str(_HERE / "pages.py"))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return _MADE["make_results"]()


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("figures") / "new" / "folder"
    written = export(results, target, FORMATS)
    assert sorted(written) == sorted(target.iterdir())
    return target


def test_every_figure_is_written_in_every_format(folder):
    expected = {f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "svg", "png", "html")}
    assert {path.name for path in folder.iterdir()} == expected


@pytest.mark.parametrize("name", FIGURES)
def test_images_have_their_magic_bytes_and_are_not_blank(name, folder):
    pdf = (folder / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    # a text font is embedded: a blank page has none
    assert b"/FontFile" in pdf
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert all(word in svg for word in ("Deduction", "Verification"))
    png = (folder / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = zlib.decompress(png_data(png))
    # one blank row after another decodes to a handful of byte values
    assert len(set(pixels)) > 60


def png_data(png: bytes) -> bytes:
    """The compressed pixels of a PNG: its IDAT chunks."""
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return data


def test_png_has_two_pixels_per_layout_pixel(folder, results):
    fig = FIGURES["layer_sweep"](results)
    header = (folder / "layer_sweep.png").read_bytes()[16:24]
    size = (int.from_bytes(header[:4]), int.from_bytes(header[4:]))
    assert size == (2 * fig.layout.width, 2 * fig.layout.height)


def test_images_carry_no_outside_address(folder):
    for path in folder.glob("*.svg"):
        found = re.findall(r"""(?:href|src)\s*=\s*["']([^"']*)""", path.read_text(encoding="utf-8"))
        assert not [link for link in found if not link.startswith(("#", "data:"))]


def test_html_is_self_contained(folder):
    for path in folder.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert _PAGES["links"](page) == []
        assert len(page) > 1_000_000  # plotly.js is inside


def test_html_draws_in_a_browser(folder):
    drawn = _PAGES["run_in_chromium"](folder / "dose_response.html")
    assert 'class="main-svg"' in drawn
    assert ">Subgoal setting</text>" in drawn


def test_html_is_the_same_bytes_at_every_export(folder, results, tmp_path):
    for path in export(results, tmp_path, ["html"]):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_unknown_format_names_the_known_ones_and_writes_nothing(results, tmp_path):
    with pytest.raises(ValueError, match="'eps': choose from pdf, svg, png, html"):
        export(results, tmp_path / "out", ["html", "eps"])
    assert not (tmp_path / "out").exists()


def test_a_missing_browser_is_named_after_the_html_is_written(results, tmp_path, monkeypatch):
    monkeypatch.setattr("choreographer.browsers.chromium.Chromium.find_browser", lambda **_: None)
    with pytest.raises(NoBrowser, match="No pdf, png was written .* install chromium") as caught:
        export(results, tmp_path, ["png", "html", "pdf"])
    assert isinstance(caught.value, ValueError)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.html" for name in FIGURES}


def test_a_browser_that_does_not_start_is_named_too(results, tmp_path, monkeypatch):
    broken = tmp_path / "browser"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(
        "choreographer.browsers.chromium.Chromium.find_browser", lambda **_: str(broken)
    )
    with pytest.raises(NoBrowser, match="BROWSER_PATH"):
        export(results, tmp_path / "out", ["svg"])
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {f"{name}.html" for name in FIGURES}


def test_html_alone_needs_no_browser(results, tmp_path, monkeypatch):
    monkeypatch.setattr("choreographer.browsers.chromium.Chromium.find_browser", lambda **_: None)
    assert len(export(results, tmp_path, ["html"])) == len(FIGURES)
