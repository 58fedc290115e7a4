"""Small multiples: one panel a behavior, at most four a row, the same axes everywhere."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from figures import theme

_PER_ROW = 4


def grid(
    names: Sequence[str], x_title: str, y_title: str
) -> tuple[go.Figure, dict[str, tuple[int, int]]]:
    """Empty panels titled by behavior, and the (row, column) of each, counted from one."""
    cols = min(_PER_ROW, len(names))
    rows = -(-len(names) // cols)
    height = 100 + 210 * rows
    fig = make_subplots(
        rows=rows,
        cols=cols,
        shared_xaxes="all",  # pyright: ignore[reportArgumentType]
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]
        horizontal_spacing=0.12 / cols,
        vertical_spacing=0.36 / rows**1.5 if rows > 1 else 0,
        subplot_titles=[theme.label(name) for name in names],
        x_title=x_title,  # once for all panels: side by side, long titles would meet
    )
    cells = {name: (i // cols + 1, i % cols + 1) for i, name in enumerate(names)}
    fig.update_layout(
        template=theme.TEMPLATE,
        width=max(460, 120 + 220 * cols),
        height=height,
        margin={"t": 40, "b": 85},
        legend={"x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    for name, (row, col) in cells.items():
        # the last panel of its column carries the x axis, also where the grid has a gap below it
        if names.index(name) + cols >= len(names):
            fig.update_xaxes(showticklabels=True, row=row, col=col)
        if col == 1:
            fig.update_yaxes(title_text=y_title, row=row, col=col)
    fig.update_annotations(font_size=14)
    return fig, cells
