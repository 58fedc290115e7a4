"""The files that a model was loaded from, read anew by plain transformers."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from interp.errors import UserError
from interp.loading import LOCAL, fingerprint, no_progress_bar
from interp.models import Model


def transformer_of(model: Model) -> Any:
    """The transformers model inside, whose stubs think that its attributes are tensors."""
    return model.bridge.original_model


def check_folder(place: Path, name: str) -> None:
    """Raise `UserError` for an adapter or a GGUF file: other software does not read these as we do."""
    if place.suffix == ".gguf" or (place / "adapter_config.json").is_file():
        raise UserError(
            f"{name} comes from {str(place)!r}, and export takes a checkpoint folder: save weights and "
            "tokenizer as one (found = interp.loading.open_checkpoint(PATH, torch.float32, None), then "
            "save_pretrained of found.weights and of found.tokenizer), and find its directions there."
        )


def checkpoint_of(model: Model) -> Path:
    """The folder that `model` was loaded from; raises `UserError` where it is gone, has changed, or is none."""
    folder = Path(transformer_of(model).name_or_path)
    check_folder(folder, model.name)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"The checkpoint of {model.name} is no longer in {str(folder)!r}: put it back, or load the "
            "model from where it is."
        )
    if fingerprint(folder) != model.fingerprint:
        raise UserError(
            f"The checkpoint in {str(folder)!r} has changed since {model.name} was loaded from it: load the "
            "model again."
        )
    return folder


def plain_model(folder: Path, device: torch.device) -> Any:
    """The checkpoint as transformers itself loads it, in float32; raises `UserError` where it cannot."""
    try:
        with no_progress_bar():
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, **LOCAL
            )
    except Exception as error:  # transformers raises almost anything for a damaged checkpoint
        raise UserError(f"transformers cannot load {str(folder)!r} ({error}).") from error
    return model.to(device).requires_grad_(False).eval()


def check_blocks(model: Model, format: str) -> None:
    """Raise `UserError` unless the blocks are at `model.layers`, where this format looks for them."""
    inner = getattr(transformer_of(model), "model", None)
    if not hasattr(inner, "layers"):
        kind = transformer_of(model).config.model_type
        raise UserError(
            f"Format {format!r} expects the blocks of a model at model.layers, and {model.name} ({kind}) keeps "
            "them elsewhere: export from a model of the Llama family."
        )
