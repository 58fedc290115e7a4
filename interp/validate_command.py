"""The command `whenlens validate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.command import NReport, RunFolder, command_line, console, stoppable
from interp.errors import UserError

MAX_DOSE = 100


def validate(
    direction: Annotated[
        Path,
        typer.Argument(
            help="Direction file (.safetensors, .gguf, .npz, .npy or .pt), or a built-in pair, for the "
            "directions shipped with it."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Model that it is for: PAIR/base or PAIR/thinking.")
    ] = "countdown-rl/base",
    pair: Annotated[
        str | None, typer.Option(help="Folder of the pair, where --model says only which of it.")
    ] = None,
    out: RunFolder = Path("runs/validation"),
    gates: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of gates and thresholds (all ten with their defaults unless given)."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="One direction of a file of several: its name or its behavior."),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer of a plain vector, from 0.")] = None,
    behavior: Annotated[
        str | None, typer.Option(help="What it steers, where the file does not say.")
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(help="Site of the layer: resid_post, where gates are measured, unless given."),
    ] = None,
    dose: Annotated[
        float | None,
        typer.Option(
            help="Dose to deploy, in mean residual norms; chosen on the select split unless given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits, samples and nulls.")] = 0,
    n_report: NReport = 500,
    n_random: Annotated[int, typer.Option(min=20, help="Random null directions.")] = 100,
) -> None:
    """Say whether a steering direction may be deployed: gates with evidence, and a card to show.

    Exits with 0 when every direction of the file passes all gates, with 3 when one does not, and with 2
    on bad input. Writes cards/NAME/card.html and card.json into the run's folder.
    """
    from interp.config import Config
    from interp.pairs import direction_file
    from interp.progress import Progress
    from interp.validation.experiment import N_NULL_PROBLEMS, run_validation, split_model
    from interp.validation.gates import read_gates

    if dose is not None and not 0 < dose <= MAX_DOSE:
        raise UserError(
            f"--dose is {dose:g}: expected a number above 0 and at most {MAX_DOSE}, in mean residual norms."
        )
    thresholds = read_gates(gates)
    folder, _ = split_model(model, pair)
    config = Config(
        pair=folder,
        seed=seed,
        n_report=n_report,
        n_random=n_random,
        n_null_problems=N_NULL_PROBLEMS,
    )
    with stoppable():
        cards = run_validation(
            direction_file(direction), model, pair, out, thresholds, command_line(), Progress(console),
            config=config, only=only, layer=layer, behavior=behavior, hook=hook, dose=dose,
        )  # fmt: skip
    _print_cards(cards)
    for page in sorted((out / "cards").glob("*/card.html")):
        typer.echo(f"Open {page}")
    if not all(card["passed"] for card in cards):
        raise typer.Exit(3)


def _print_cards(cards: list[dict]) -> None:
    table = Table(title="Directions and their gates")
    for column in ("direction", "dose", "verdict", "gates that do not hold"):
        table.add_column(column, overflow="fold")
    for card in cards:
        verdict = "passes" if card["passed"] else "fails"
        table.add_row(
            escape(card["direction"]),
            f"{card['dose']:g}",
            verdict,
            ", ".join(card["failed"]) or "-",
        )
    Console().print(table)
