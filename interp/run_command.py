"""`whenlens run`: the main job."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from interp.command import (
    Address,
    AnnotatorName,
    DeviceMapName,
    EngineName,
    MaxNewTokens,
    NFit,
    NPoints,
    NReport,
    PairName,
    RunFolder,
    Task,
    Template,
    Thinking,
    Workers,
    command_line,
    console,
    size,
    stoppable,
)
from interp.engine import open_engine
from interp.verdicts import too_few_nulls


def run(
    pair: PairName = "countdown-rl",
    thinking: Thinking = None,
    task: Task = None,
    out: RunFolder = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of splits, samples and nulls.")] = 0,
    behavior: Annotated[
        list[str] | None,
        typer.Option(
            help="A behavior to test; repeat for several (default: four of built-in pairs, else all frequent)."
        ),
    ] = None,
    annotator: AnnotatorName = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="A layer to search; repeat for several (default: all, or six of a deep model)."
        ),
    ] = None,
    template: Template = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.01, help="Of sampled traces (default: 1, other models .7)."),
    ] = None,
    n_fit: NFit = None,
    n_select: Annotated[int | None, size("Problems to select", 400, "20")] = None,
    n_report: NReport = None,
    n_random: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="Random null directions; with fewer than 80 nothing is called causal (default: 100).",
        ),
    ] = None,
    n_points: NPoints = None,
    n_null_problems: Annotated[
        int | None,
        size("Report problems on which nulls generate", 70, "4, questions 24", least=2),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    device_map: DeviceMapName = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Do the main job: traces, activations, probes, causal tests with nulls, figures, report.

    Writes results.json, directions.safetensors and report.html into the run's folder, in about five minutes on
    two cores for the built-in pair.

    On a real model: whenlens run --base smollm2 --task gsm_symbolic --out runs/smollm2
    """
    from interp.pipeline import run_main_job
    from interp.presets import config_for
    from interp.progress import Progress

    given: dict[str, Any] = {
        "thinking": thinking,
        "task": task,
        "behaviors": tuple(dict.fromkeys(behavior)) if behavior else None,
        "annotator": annotator,
        "layers": tuple(sorted(set(layer))) if layer else None,
        "template": template,
        "temperature": temperature,
        "n_fit": n_fit,
        "n_select": n_select,
        "n_report": n_report,
        "n_random": n_random,
        "n_points": n_points,
        "n_null_problems": n_null_problems,
        "max_new_tokens": max_new_tokens,
    }
    config = config_for(pair, seed, **given)
    with stoppable(), open_engine(engine, workers, address) as work:
        results = run_main_job(config, out, command_line(), Progress(console), work, device_map)
    _print_results(results)
    typer.echo(f"Open {out / 'report.html'}")


def _print_results(results: dict) -> None:
    alone = "thinking" not in results["accuracy"]
    table = Table(title=f"{results['pair']}: verdicts on {results['splits']['report']} problems")
    for column in (
        "behavior",
        "verdict",
        "share of segments" if alone else "share base -> thinking",
        "add: effect (p)",
        "ablate (p)",
    ):
        table.add_column(column)
    for name, entry in results["behaviors"].items():
        add, ablate = entry["addition"], entry["ablation"]
        table.add_row(
            name,
            entry["verdict"],
            " -> ".join(f"{found['value']:.3f}" for found in entry["frequency"].values()),
            f"{add['effect']:+.3f} ({add['p_value']:.3f})",
            f"{ablate['effect']:+.3f} ({ablate['p_value']:.3f})",
        )
    printer = Console()
    printer.print(table)
    if few := too_few_nulls(results["behaviors"]):
        printer.print(f"{few[0].upper()}{few[1:]}: give --n-random 80 or more.", highlight=False)
    for reason in results["not_tested"].values():
        printer.print(f"Not tested: {reason}", highlight=False, markup=False)
