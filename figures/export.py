"""Write figures to files: HTML by plotly itself, images through kaleido and a browser."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from figures.catalog import figures_of

FORMATS = ("pdf", "svg", "png", "html")
_IMAGE_SCALE = {"png": 2}
"""Pixels of a PNG per layout pixel; pdf and svg are vectors."""


class NoBrowser(ValueError):
    """Images need a Chrome or Chromium, and none could be started; HTML files are written."""


def export(
    results: Mapping[str, Any], folder: str | Path, formats: Iterable[str] = ("pdf", "html")
) -> list[Path]:
    """Write every figure of `results` to `folder/<figure name>.<format>`.

    The schema of `results` chooses the figures: those of a main job, a hybrid run or a divergence.

    HTML files are self-contained (about 5 MB each: plotly.js is inside). Images are drawn by
    Chrome or Chromium, found on PATH or named by the environment variable BROWSER_PATH; one
    browser draws them all.

    Returns:
        The files written, HTML first, then images in the order of the catalog.

    Raises:
        ValueError: for a format that is not one of `FORMATS`, or results of an unknown schema.
        NoBrowser: when images are asked for and no browser could be started. By then the HTML
            files are written, asked for or not.
    """
    asked = list(dict.fromkeys(formats))
    for name in asked:
        if name not in FORMATS:
            raise ValueError(f"Unknown figure format {name!r}: choose from {', '.join(FORMATS)}.")
    drawn = {name: figure(results) for name, figure in figures_of(results).items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    pages = _write_pages(drawn, folder) if "html" in asked else []
    images = {
        folder / f"{name}.{kind}": figure
        for name, figure in drawn.items()
        for kind in asked
        if kind != "html"
    }
    if images:
        try:
            _write_images(images)
        except NoBrowser:
            if not pages:
                _write_pages(drawn, folder)
            raise
    return [*pages, *images]


def _write_pages(drawn: Mapping[str, go.Figure], folder: Path) -> list[Path]:
    paths = []
    for name, figure in drawn.items():
        path = folder / f"{name}.html"
        # a fixed id: plotly's random one would change the file's bytes from run to run
        figure.write_html(
            path, include_plotlyjs=True, div_id=name, config={"displayModeBar": False}
        )
        paths.append(path)
    return paths


def _write_images(images: Mapping[Path, go.Figure]) -> None:
    # kaleido takes half a second to import, and only images need it
    import kaleido
    from choreographer.errors import BrowserFailedError, ChromeNotFoundError

    specs = [
        {
            "fig": figure,
            "path": path,
            "opts": {
                "format": path.suffix[1:],
                "width": figure.layout.width,  # pyright: ignore[reportAttributeAccessIssue]
                "height": figure.layout.height,  # pyright: ignore[reportAttributeAccessIssue]
                "scale": _IMAGE_SCALE.get(path.suffix[1:], 1),
            },
        }
        for path, figure in images.items()
    ]
    try:
        # plotly.io.write_images would swallow errors and fetch MathJax from the network
        kaleido.write_fig_from_object_sync(specs, cancel_on_error=True, kopts={"mathjax": False})
    except (BrowserFailedError, ChromeNotFoundError) as error:
        kinds = ", ".join(sorted({path.suffix[1:] for path in images}))
        raise NoBrowser(
            f"No {kinds} was written because no Chrome or Chromium could be started; the figures are "
            "there as html. For images install chromium, run `plotly_get_chrome`, or set "
            "BROWSER_PATH to a browser."
        ) from error
