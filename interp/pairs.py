"""A base model and the thinking model trained from it, checked to be comparable."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from interp.errors import UserError, unknown_name
from interp.models import Model, load_model
from interp.runs import read_json

BUILT_IN = ("countdown-rl", "countdown-distilled")
SHARED_PAD = 0
"""Padding where both models read one batch: never seen, but each has to have a row for it, and a pad token
added to one tokenizer may lie beyond the other's embedding."""


@dataclass(frozen=True)
class Pair:
    """Two models with one architecture and one tokenizer.

    `prompt` asks the base to take care, in words that it knows: what `pair.json` in the pair's folder says.
    """

    name: str
    base: Model
    thinking: Model
    prompt: str = "Think step by step."


def check_pair(base: Model, thinking: Model, same_tokenizer: bool = True) -> None:
    """Raise `UserError` unless both models have the same width, depth and (if asked) tokenizer."""
    for what, left, right in (
        ("d_model", base.d_model, thinking.d_model),
        ("n_layers", base.n_layers, thinking.n_layers),
    ):
        if left != right:
            raise UserError(
                f"Base {base.name} has {what} {left} but thinking model {thinking.name} has {right}: "
                "a pair needs equal shapes; choose a thinking model trained from this base."
            )
    if same_tokenizer and base.tokenizer_hash != thinking.tokenizer_hash:
        raise UserError(
            f"The tokenizers of {base.name} and {thinking.name} differ (vocabulary or chat "
            "template): a pair needs one tokenizer; choose a thinking model trained from this base."
        )


def weights_folder(name: str) -> Path:
    """Where a built-in pair's checkpoints are; raises `UserError` for an unknown pair."""
    if name not in BUILT_IN:
        raise unknown_name("pair", name, BUILT_IN)
    return Path(str(files("interp.organisms"))) / "weights" / name


def direction_file(given: Path) -> Path:
    """The file itself, or the directions that are shipped with the built-in pair of that name.

    Raises `UserError` where the pair has none, or no pair has that name.
    """
    if given.exists() or given.suffix or len(given.parts) > 1:
        return given
    shipped = weights_folder(str(given)) / "directions.safetensors"
    if not shipped.is_file():
        raise UserError(
            f"No directions are shipped with {given}: find them with whenlens run --pair {given}, and "
            "give the directions.safetensors of that run."
        )
    return shipped


def load_pair(name: str, device: str | None = None, same_tokenizer: bool = True) -> Pair:
    """Load a built-in pair by name, or any folder that holds `base` and `thinking` checkpoints.

    Without `same_tokenizer`, vocabularies and chat templates may differ. A folder with the name of a
    built-in pair is reached as `./NAME`.
    """
    here = name not in BUILT_IN and Path(name).is_dir()
    folder = Path(name) if here else weights_folder(name)
    base = load_model(folder / "base", f"{folder.name}/base", device)
    thinking = load_model(folder / "thinking", f"{folder.name}/thinking", device)
    check_pair(base, thinking, same_tokenizer)
    words = folder / "pair.json"
    prompt = read_json(words).get("prompt") if words.is_file() else None
    return Pair(folder.name, base, thinking, str(prompt or Pair.prompt))
