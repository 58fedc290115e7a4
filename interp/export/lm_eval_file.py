"""Format `lm-eval`: the steering file of lm-evaluation-harness.

lm_eval run --model steered --model_args pretrained=FOLDER,steer_path=steer.pt --tasks TASK
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from interp.errors import UserError
from interp.export.checkpoint import check_blocks, checkpoint_of
from interp.export.hugging_face import HuggingFace
from interp.export.request import Export
from interp.export.runtime import Unproven
from interp.models import Model


class LmEval(HuggingFace):
    """The harness' model type `steered`."""

    name = "lm-eval"

    def __init__(self, steered: Any, layer: int) -> None:
        super().__init__(steered.model, layer, steered.forward)
        self.version, self._steered = metadata.version("lm_eval"), steered

    @torch.no_grad()
    def complete(self, tokens: Sequence[int], n: int, ends: Sequence[int]) -> list[int]:
        """Greedy tokens until one of `ends`, `n` at most, by the call behind `generate_until`."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        made = self._steered._model_generate(ids, len(tokens) + n, [], eos_token_id=list(ends))
        return made[0, len(tokens) :].tolist()


def write(model: Model, request: Export, out: Path) -> Path:
    """Write `steer.pt`: tensors, numbers and strings by hook point; returns its path.

    A removal is the harness' `clamp` to 0 after every block.
    """
    check_blocks(model, "lm-eval")
    adds = request.operation == "add"
    layers = [request.direction.layer] if adds else range(model.n_layers)
    steering = {
        f"layers.{layer}": {
            "steering_vector": (request.shift if adds else request.unit).clone(),
            "steering_coefficient": 1.0 if adds else 0.0,
            "action": "add" if adds else "clamp",
            "bias": None,  # the harness wants the key, and no tensor
            "head_index": None,
        }
        for layer in layers
    }
    path = out / "steer.pt"
    torch.save(
        steering, path
    )  # the one format that the harness reads; it loads with weights_only=True
    return path


@contextmanager
def run(model: Model, request: Export, out: Path) -> Iterator[LmEval]:
    """The harness over the model's checkpoint; raises `Unproven` where it does not import."""
    try:
        from lm_eval.models.hf_steered import SteeredModel  # pyright: ignore[reportMissingImports]
    except Exception as error:  # another version of transformers breaks its imports in any way
        raise Unproven(f"lm-eval does not import ({error}): pip install 'lm_eval[hf]'") from error
    path = out / "steer.pt"
    try:
        torch.load(path, weights_only=True)  # the harness itself would run code that is in the file
    except Exception as error:
        raise UserError(f"{str(path)!r} is no steering file ({error}): export again.") from error
    steered_model: Any = SteeredModel
    steered = steered_model(
        str(checkpoint_of(model)),
        str(path),
        device=str(model.device),
        dtype="float32",
        batch_size=1,
    )
    yield LmEval(steered, request.watched(model))
