"""What every command shares: folders, the command line as typed, and what Ctrl-C leaves."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)
RunFolder = Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on.")]
EngineName = Annotated[
    str, typer.Option("--engine", help="Where work runs: local processes, or a ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Shards of work at a time [default: one for each core, or as Ray has room; one on a GPU].",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster, HOST:PORT [default: one of this machine's own]."),
]
NReport = Annotated[int, typer.Option(min=10, help="Problems in the report split.")]


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
