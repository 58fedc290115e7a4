"""What every command shares: folders, the command line as typed, and what Ctrl-C leaves."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(stderr=True)
PairName = Annotated[
    str,
    typer.Option(
        "--pair",
        "--base",
        help="countdown-rl, countdown-distilled, a preset (smollm2, gemma3-270m, r1-qwen-1.5b, orz-7b, "
        "r1-llama-8b, qwq-32b), a folder that holds base/ and thinking/ checkpoints; or one model: a checkpoint "
        "folder, a GGUF file, an id of the hub (ORGANIZATION/NAME@REVISION).",
    ),
]
Thinking = Annotated[
    str | None,
    typer.Option(help="The thinking model trained from --base, if it is not part of a pair."),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="countdown, a reasoning-gym data set (gsm_symbolic), gsm8k[:FILE], math500[:FILE], questions, or a "
        "JSONL file of problems, of which 30% are to fit, 20% to select and 50% to report (default: countdown for "
        "built-in pairs, else gsm_symbolic)."
    ),
]
AnnotatorName = Annotated[
    str | None,
    typer.Option(
        "--annotator",
        help="Who names behaviors: grammar (what built-in pairs write, exactly), keywords (English reasoning) or "
        "form (question or statement). Default: grammar for built-in pairs, form for questions, else keywords.",
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        help="What both models read, with {problem} where the problem stands (default: the thinking model's chat "
        "template, if it has one)."
    ),
]
RunFolder = Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on.")]
DeviceMapName = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        help="auto spreads each model's layers over all GPUs (default: one GPU if there is one, else the CPU).",
    ),
]
EngineName = Annotated[
    str, typer.Option("--engine", help="Where work runs: local processes, or a ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes at a time, each with the models in its memory (default: this process; with --engine ray "
        "as many as the cluster has room for).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster, HOST:PORT (default: one started on this machine)."),
]


def size(what: str, built_in: int, other: str, least: int = 10) -> Any:
    """Option for how many there are of something, with its defaults for built-in pairs and other models."""
    text = f"{what} (default: {built_in} of built-in pairs, else {other})."
    return typer.Option(min=least, help=text)


NFit = Annotated[int | None, size("Problems to fit", 600, "30")]
NReport = Annotated[int | None, size("Problems to report", 500, "24, questions 150")]
NPoints = Annotated[int | None, size("Places at which edits are scored, a split", 144, "16")]
MaxNewTokens = Annotated[
    int | None, size("Longest trace, in tokens", 160, "80, questions 60", least=8)
]


def command_line() -> str:
    """The command line as the user typed it."""
    return shlex.join(["whenlens", *sys.argv[1:]])


@contextmanager
def stoppable() -> Iterator[None]:
    """Tell what Ctrl-C leaves behind, and exit with 2."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped; what is done stays. Run the same command to go on.")
        raise typer.Exit(2) from None
