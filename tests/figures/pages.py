"""What the tests need of a browser and of HTML: outside addresses, and a page after it has run."""

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
