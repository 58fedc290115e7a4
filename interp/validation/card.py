"""The direction card: one HTML file that needs nothing beside it, the verdict first."""

from pathlib import Path

from plotly.offline import get_plotlyjs

from figures.card import dose_window
from interp.report import drawn, environment, in_order

WORDS = {
    "sufficiency": "Sufficiency",
    "necessity": "Necessity",
    "specificity": "Specificity",
    "dose_response": "Dose-response",
    "side_effects": "Side effects",
    "stability": "Stability",
    "transfer": "Transfer",
    "redundancy": "Redundancy",
    "prompt": "Better than a prompt",
    "fired": "Fired",
}
CAPTION = (
    "Left, how much the behavior’s probability rises where it is a choice; right, what becomes of the "
    "traces. The window, shaded, reaches from the dose with the least effect that counts to the dose at which "
    "the model collapses, or to the largest dose where it never does. Dashed: the dose on trial."
)


def write_card(card: dict, path: Path) -> None:
    """Write the page of a `card.json` to `path`."""
    named = {
        s["behavior"]
        for e in card["examples"]
        for k in ("before", "after")
        for s in e[k]["segments"]
    }
    figure = drawn("dose_window", dose_window(card), "Dose and response", CAPTION)
    page = environment().get_template("card.html.j2")
    text = page.render(
        card=card,
        words=WORDS,
        figures=[figure],
        plotlyjs=get_plotlyjs(),
        legend=in_order(named - {None}),
    )
    path.write_text(text, encoding="utf-8")
