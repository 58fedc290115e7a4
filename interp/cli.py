"""The `whenlens` command."""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.command import (
    Address,
    AnnotatorName,
    DeviceMapName,
    EngineName,
    PairName,
    RunFolder,
    Task,
    Template,
    Thinking,
    Workers,
    command_line,
    console,
    stoppable,
)
from interp.engine import open_engine
from interp.errors import UserError
from interp.export_command import export
from interp.run_command import run
from interp.validate_command import validate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find, test and show reasoning-behavior directions: did training teach a model how to "
    "reason, or only when?\n\nStart with: whenlens run --pair countdown-rl --out runs/demo",
)
organism_app = typer.Typer(no_args_is_help=True, help="Train the built-in pairs anew.")
app.add_typer(organism_app, name="organism")
app.command()(run)
app.command()(validate)
app.command()(export)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a full disk, a used-up quota and a file beyond its limit."""

MaxTokens = Annotated[
    int | None,
    typer.Option(
        help="Budget of prompt and trace together, in tokens (default: 169 for built-in pairs, else 1024)."
    ),
]
OfPair = Annotated[
    int | None,
    typer.Option(
        min=10, help="Problems in the report split (default: 500 of built-in pairs, else 100)."
    ),
]


@app.command()
def hybrid(
    pair: PairName = "countdown-rl",
    thinking: Thinking = None,
    task: Task = None,
    annotator: AnnotatorName = None,
    template: Template = None,
    out: RunFolder = Path("runs/hybrid"),
    seed: Annotated[int, typer.Option(help="Seed of splits, and the first of --seeds.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of fits, controls and draws.")] = 5,
    n_report: OfPair = None,
    n_random: Annotated[int, typer.Option(min=1, help="Sets of random vectors in all.")] = 20,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Sample at temperature 1 instead of greedy decoding.")
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What the prompt baseline puts before each problem (default: the pair's)."
        ),
    ] = None,
    max_tokens: MaxTokens = None,
    device_map: DeviceMapName = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Let the base write and the thinking model decide when: which share of the gap closes?

    Steers the base along behavior directions where the thinking model would go another way, beside
    every control, and says whether training taught when or how. Writes hybrid.json and report.html
    into the run's folder. Under fifteen minutes on two cores.
    """
    from interp.config import HybridConfig
    from interp.hybrid.experiment import run_hybrid
    from interp.presets import config_for
    from interp.progress import Progress

    config = config_for(
        pair,
        seed,
        HybridConfig,
        thinking=thinking,
        task=task,
        annotator=annotator,
        template=template,
        n_seeds=seeds,
        sampled=sampled,
        n_report=n_report,
        n_random=n_random,
        max_tokens=max_tokens,
        prompt=prompt,
    )
    with stoppable(), open_engine(engine, workers, address) as work:
        results = run_hybrid(config, out, command_line(), Progress(console), work, device_map)
    _print_hybrid(results)
    typer.echo(f"Open {out / 'report.html'}")


def _print_hybrid(results: dict) -> None:
    table = Table(
        title=f"{results['pair']}: {len(results['seeds'])} seeds on {results['splits']['report']} problems"
    )
    for column in ("arm", "kind", "accuracy", "gap recovery [95% CI]", "tokens steered"):
        table.add_column(column)
    for name, arm in results["arms"].items():
        recovery = arm["gap_recovery"]
        table.add_row(
            name,
            arm["kind"],
            f"{arm['accuracy']['value']:.3f}",
            "refused"
            if recovery is None
            else f"{recovery['value']:+.3f} [{recovery['ci'][0]:+.3f}, {recovery['ci'][1]:+.3f}]",
            f"{arm['tokens_steered']:.1%}",
        )
    found = results["verdict"]
    printer = Console()
    printer.print(table)
    printer.print(
        f"Verdict: [bold]{found['answer']}[/]: {escape(found['reason'])}.", highlight=False
    )


@app.command()
def diverge(
    pair: PairName = "countdown-rl",
    thinking: Thinking = None,
    task: Task = None,
    annotator: AnnotatorName = None,
    template: Template = None,
    out: RunFolder = Path("runs/divergence"),
    seed: Annotated[int, typer.Option(help="Seed of splits, samples and random directions.")] = 0,
    n_report: OfPair = None,
    n_random: Annotated[int, typer.Option(min=20, help="Random directions (sets of them).")] = 100,
    n_atlas: Annotated[int, typer.Option(min=1, help="Traces of each kind in the atlas.")] = 60,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Compare on traces at temperature 1, not greedy ones.")
    ] = False,
    max_tokens: MaxTokens = None,
    device_map: DeviceMapName = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Show where the thinking model's decisions part from the base model's, and why.

    Which tokens, which choice, which layer and component, and whether a known direction explains it.
    Writes divergence.json and the atlas, divergence.html, into the run's folder.
    """
    from interp.config import DivergenceConfig
    from interp.divergence.experiment import run_divergence
    from interp.presets import config_for
    from interp.progress import Progress

    config = config_for(
        pair,
        seed,
        DivergenceConfig,
        thinking=thinking,
        task=task,
        annotator=annotator,
        template=template,
        n_report=n_report,
        n_random=n_random,
        n_atlas=n_atlas,
        sampled=sampled,
        max_tokens=max_tokens,
    )
    with stoppable(), open_engine(engine, workers, address) as work:
        results = run_divergence(config, out, command_line(), Progress(console), work, device_map)
    _print_divergence(results)
    typer.echo(f"Open {out / 'divergence.html'}")


def _print_divergence(results: dict) -> None:
    table = Table(
        title=f"{results['pair']}: {results['splits']['report']} problems, by whose traces"
    )
    table.add_column("")
    sources = results["sources"]
    for name in sources:
        table.add_column(name)

    def number(found: dict | float | None) -> str:
        if isinstance(found, dict):
            found = found["value"]
        return "-" if found is None else f"{found:.3f}"

    rows = {
        "greedy tokens differ": lambda s: s["disagreement"],
        "JS divergence (nats)": lambda s: s["js"]["mean"],
        "its share on segment starts": lambda s: s["js"]["share_on_segment_starts"],
        "its Gini coefficient": lambda s: s["js"]["gini"],
        "promoted token in base's top 5": lambda s: s["promoted_in_base_top5"],
    }
    for label, pick in rows.items():
        table.add_row(label, *(number(pick(s)) for s in sources.values()))
    explained, vocabulary = results["explained"], results["vocabulary"]
    printer = Console()
    printer.print(table)
    if vocabulary["base_only"] or vocabulary["thinking_only"]:
        printer.print(
            f"Compared on {vocabulary['shared']} shared tokens: {vocabulary['base_only']} of the base's "
            f"tokens and {vocabulary['thinking_only']} of the thinking model's tokens are left out.",
            highlight=False,
        )
    if explained["directions"] is not None:
        printer.print(
            f"Of {explained['n']} high divergences, directions explain {explained['directions']:.1%}, "
            f"random ones {explained['random']:.1%}.",
            highlight=False,
        )


@app.command()
def figures(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    format: Annotated[str, typer.Option(help="Comma-separated: pdf, svg, png, html.")] = "pdf,html",
) -> None:
    """Draw every figure of a finished run into RUN/figures (images need Chrome or Chromium)."""
    from figures import export
    from interp.runs import read_json

    names = ("results.json", "hybrid.json", "divergence.json")
    paths = [run_folder / name for name in names]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{str(run_folder)!r} holds none of {', '.join(names)}: finish the run first with whenlens "
            f"run (or hybrid, or diverge) --out {run_folder}."
        )
    formats = [name.strip() for name in format.split(",")]
    written = export(read_json(path), run_folder / "figures", formats)
    typer.echo(f"Wrote {len(written)} files to {run_folder / 'figures'}")


@organism_app.command("train")
def organism_train(
    name: Annotated[str, typer.Argument(help="countdown-rl or countdown-distilled.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; training resumes in it.")] = (
        Path("runs/organisms")
    ),
) -> None:
    """Train a built-in pair from nothing: about 40 minutes on two cores, less on a GPU."""
    from transformers.utils import logging

    from interp.organisms.recipes import train_organism
    from interp.progress import Progress

    logging.disable_progress_bar()
    with stoppable():
        folder = train_organism(name, out, Progress(console))
    typer.echo(f"The pair is in {folder}: whenlens run --pair {folder}")


def main() -> None:
    """Run the command; a user's mistake is one sentence and exit code 2."""
    from safetensors import SafetensorError

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app()
    except ValueError as error:
        if not isinstance(error, UserError) and not _is_ours(error):
            raise
        console.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except (OSError, SafetensorError) as error:
        full = (
            any(error.errno == code for code in FULL)
            if isinstance(error, OSError)
            else (any(f"os error {code}" in str(error) for code in FULL))
        )
        advice = "free space" if full else "check that the file or folder is there and readable"
        console.print(
            f"[bold red]Error:[/] Could not write or read ({escape(str(error))}): {advice}, or "
            "choose another; what is done stays, run the same command to go on.",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(2)


def _is_ours(error: ValueError) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return module.split(".")[0] in ("probes", "figures")
