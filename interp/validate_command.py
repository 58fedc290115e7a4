"""The command `whenlens validate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.command import (
    AnnotatorName,
    DeviceMapName,
    MaxNewTokens,
    NFit,
    NPoints,
    NReport,
    RunFolder,
    Task,
    Template,
    Thinking,
    command_line,
    console,
    size,
    stoppable,
)
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
        str | None,
        typer.Option(
            help="Model that it is for: PAIR/base or PAIR/thinking of a built-in pair, preset or folder; or one "
            "that stands alone, as whenlens run takes it (default: countdown-rl/base; beside --pair, base)."
        ),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            "--pair",
            "--base",
            help="The pair, as whenlens run takes it, where --model says only which of it: base or thinking.",
        ),
    ] = None,
    thinking: Thinking = None,
    task: Task = None,
    annotator: AnnotatorName = None,
    template: Template = None,
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
    n_fit: NFit = None,
    n_report: NReport = None,
    n_random: Annotated[int, typer.Option(min=20, help="Random null directions.")] = 100,
    n_points: NPoints = None,
    n_null_problems: Annotated[
        int | None,
        size("Report problems on which nulls generate", 40, "4, questions 24", least=2),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    device_map: DeviceMapName = None,
) -> None:
    """Say whether a steering direction may be deployed: gates with evidence, and a card to show.

    Exits with 0 when every direction of the file passes all gates, with 3 when one does not, and with 2
    on bad input. Writes cards/NAME/card.html and card.json into the run's folder.

    On a real model: whenlens validate runs/smollm2/directions.safetensors --model smollm2
    """
    from interp.pairs import direction_file
    from interp.progress import Progress
    from interp.validation.experiment import config_of, run_validation, split_model
    from interp.validation.gates import read_gates

    if dose is not None and not 0 < dose <= MAX_DOSE:
        raise UserError(
            f"--dose is {dose:g}: expected a number above 0 and at most {MAX_DOSE}, in mean residual norms."
        )
    thresholds = read_gates(gates)
    model = model or ("base" if pair else "countdown-rl/base")
    folder, _ = split_model(model, pair)
    config = config_of(
        folder,
        seed,
        thinking=thinking,
        task=task,
        annotator=annotator,
        template=template,
        n_fit=n_fit,
        n_report=n_report,
        n_random=n_random,
        n_points=n_points,
        n_null_problems=n_null_problems,
        max_new_tokens=max_new_tokens,
    )
    with stoppable():
        cards = run_validation(
            direction_file(direction), model, pair, out, thresholds, command_line(), Progress(console),
            config=config, only=only, layer=layer, behavior=behavior, hook=hook, dose=dose,
            device_map=device_map,
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
