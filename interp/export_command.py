"""The command `whenlens export`."""

from pathlib import Path
from typing import Annotated

import typer

from interp.errors import UserError, unknown_name


def export(
    directions: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTIONS",
            help="directions.safetensors of a run, or a built-in pair, for those shipped with it.",
        ),
    ],
    format: Annotated[str, typer.Option(help="hook, hf-bias, gguf, lm-eval or vllm.")],
    model: Annotated[
        str,
        typer.Option(
            help="A checkpoint folder (no adapter, no GGUF file), an id of the hub, or PAIR/base or "
            "PAIR/thinking of a built-in pair."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write to: one folder in it for each behavior.")
    ],
    only: Annotated[
        str | None,
        typer.Option(
            help="A behavior, or BEHAVIOR@MODEL for a direction fitted in another model of the pair. "
            "Default: all that were fitted in this model."
        ),
    ] = None,
    dose: Annotated[
        float, typer.Option(help="Length of what is added, in mean residual norms.")
    ] = 0.3,
    operation: Annotated[str, typer.Option(help="add or ablate.")] = "add",
    at: Annotated[
        str, typer.Option(help="all positions, or starts: where a segment may start.")
    ] = "all",
) -> None:
    """Write directions for other software, and prove that they do there what they do here.

    Writes parity.json beside each: its status is proven, failed, or unproven where that software is not
    installed. Exit code 3 if one failed.
    """
    from interp.directions import DirectionSet
    from interp.export import Export, export_direction, prove
    from interp.export.checkpoint import check_folder
    from interp.models import load_model
    from interp.pairs import direction_file, model_place

    for kind, given, known in (
        ("operation", operation, ("add", "ablate")),
        ("position", at, ("all", "starts")),
    ):
        if given not in known:
            raise unknown_name(kind, given, known)
    directions = direction_file(directions)
    if not directions.is_file():
        raise UserError(
            f"{str(directions)!r} is no file: expected the directions.safetensors of a run (whenlens run)."
        )
    found = DirectionSet.load(directions)
    place, name = model_place(model)
    check_folder(Path(place), name)  # before a large file is read
    target = load_model(place, name)
    requests = [
        Export(direction, dose, operation, at)  # pyright: ignore[reportArgumentType]
        for direction in _chosen(found, target, only, directions)
    ]
    failed = False
    for request in requests:
        folder = out / request.direction.behavior
        written = export_direction(target, request, format, folder)
        proof = prove(target, request, format, folder)
        typer.echo(f"{request.direction.behavior}: {_in_words(proof)}. {written}")
        failed = failed or proof["status"] == "failed"
    if failed:
        raise typer.Exit(3)


def _chosen(found, target, only: str | None, path: Path) -> list:
    """The directions to export; raises `UserError` where there is none."""
    names = [f"{d.behavior}@{d.model}" for d in found]
    if only and "@" in only:
        chosen = [d for d in found if f"{d.behavior}@{d.model}" == only]
        if not chosen:
            raise unknown_name("direction", only, names)
        return chosen
    own = [d for d in found if d.model_fingerprint == target.fingerprint]
    if not own:
        raise UserError(
            f"{str(path)!r} holds no direction fitted in {target.name} (fingerprint {target.fingerprint}), only "
            f"{', '.join(names) or 'none at all'}: choose its model with --model, or one of them with --only."
        )
    if only and only not in (known := [d.behavior for d in own]):
        raise unknown_name("direction", only, known)
    return [d for d in own if only in (None, d.behavior)]


def _in_words(proof: dict) -> str:
    runtime = " ".join(filter(None, proof["runtime"].values()))
    if proof["status"] != "proven":
        return f"{proof['status']} in {runtime}: {proof['reason']}"
    largest = max(proof[part]["logits_max_abs"] for part in ("prompt", "decode"))
    return f"proven in {runtime}, logits within {largest:.1g}, greedy text equal"
