"""What the tests need of a browser and of HTML: outside addresses, and a page after it has run."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loads = {"src", "href", "srcset", "data", "action", "poster"}
        self.found += [value or "" for key, value in attrs if key in loads]


def links(page: str) -> list[str]:
    """Every address that an element of the page names."""
    parser = _Links()
    parser.feed(page)
    return parser.found


class _Text(HTMLParser):
    """Text of a page as a reader sees it, and the element (tag, class) around each piece."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, str]] = []
        self.pieces: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.stack.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag, "elements must nest"

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1][0] not in ("script", "style"):
            self.pieces.append((*self.stack[-1], data))


def pieces(page: str) -> list[tuple[str, str, str]]:
    parser = _Text()
    parser.feed(page)
    assert parser.stack == []
    return parser.pieces


def text(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(data for _, _, data in pieces(page)))


def run_in_chromium(page: Path) -> str:
    """The page's document after its scripts ran."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.fail("This test needs Chromium: install it so that `chromium` is on PATH.")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
