"""One browser for all tests of the atlas, and what they ask of its page."""

import runpy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from interp.atlas import write_atlas

_HERE = Path(__file__).parent
_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_make_atlas = runpy.run_path(str(_HERE / "synthetic.py"))["make_atlas"]


class AtlasPage(runpy.run_path(str(_HERE / "browser.py"))["Page"]):
    """A browser's page with an atlas."""

    def __init__(self, browser: str, folder: Path) -> None:
        super().__init__(browser)
        self.file = folder / "atlas.html"

    def show(self, atlas: Mapping[str, Any]) -> None:
        write_atlas(atlas, self.file)
        self.open(self.file)

    @staticmethod
    def at(t: int, k: int) -> str:
        """Selector of token k of trace t."""
        return f'[data-t="{t}"] [data-k="{k}"]'

    def shown(self) -> list[int]:
        """Indices of the traces shown, in their order."""
        return self.run("[...document.querySelectorAll('.trace')].map((one) => +one.dataset.t)")

    def focused(self) -> list[int]:
        """Trace and place of the token that has the focus."""
        return self.run(
            "[document.activeElement.closest('.trace').dataset.t,"
            " document.activeElement.dataset.k].map(Number)"
        )

    def choose_behavior(self, label: str) -> None:
        value = self.run(
            "[...document.getElementById('behavior').options]"
            f".find((one) => one.text === {label!r}).value"
        )
        self.choose("behavior", value)

    def points(self) -> list[list[float]]:
        """The layer curve of the panel: layer, value and height above the axis, by point."""
        return self.run(
            "[...document.querySelectorAll('#panel .lens circle')].map((one) =>"
            " [+one.dataset.layer, +one.dataset.value,"
            " document.querySelector('#panel .lens .axis').getAttribute('y1')"
            " - one.getAttribute('cy')])"
        )

    def cells(self) -> dict[tuple[int, int], float]:
        """The map of the panel: value by layer and offset."""
        found = self.run(
            "[...document.querySelectorAll('#panel .heatmap rect')].map(({ dataset }) =>"
            " [+dataset.layer, +dataset.offset, +dataset.value])"
        )
        return {(layer, offset): value for layer, offset, value in found}


@pytest.fixture(scope="session")
def make_atlas():
    """A function that makes a synthetic atlas of a given size."""
    return _make_atlas


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if _CHROMIUM is None:
        pytest.fail("This test needs Chromium: install it so that `chromium` is on PATH.")
    page = AtlasPage(_CHROMIUM, tmp_path_factory.mktemp("atlas"))
    yield page
    page.close()


@pytest.fixture
def blank(browser):
    """The browser for a page of the test's own; no script of it may fail."""
    browser.errors.clear()
    yield browser
    assert browser.errors == []


@pytest.fixture(scope="session")
def atlas(make_atlas) -> dict[str, Any]:
    return make_atlas(n_traces=8)


@pytest.fixture
def page(blank, atlas):
    """The page of `atlas`, freshly opened."""
    blank.show(atlas)
    return blank
