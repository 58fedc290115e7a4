"""The formats, what each can say, and the refusal of what it cannot."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from interp.errors import UserError, unknown_name
from interp.export import bias, control_vector, hook, lm_eval_file, vllm
from interp.export.request import Export
from interp.export.runtime import Runtime
from interp.models import Model


@dataclass(frozen=True)
class Format:
    """One way to write an edit, and what it can express.

    `tolerance` is the largest difference that its runtime's rounding explains, as a share of the largest
    value. `every_write` tells that its ablation acts on all that is written, not on the outputs of blocks.
    """

    name: str
    module: ModuleType
    ablates: bool
    at_starts: bool
    first_layer: int = 0
    every_write: bool = False
    tolerance: float = 1e-4

    @property
    def write(self) -> Callable[[Model, Export, Path], Path]:
        """Write an edit of a model into a folder; returns the main file."""
        return self.module.write

    @property
    def run(self) -> Callable[[Model, Export, Path], AbstractContextManager[Runtime]]:
        """Open what was written, in the software it is for."""
        return self.module.run

    def refusals(self, request: Export) -> list[str]:
        """What of the request this format cannot say."""
        layer = request.direction.layer
        wrong = {
            "ablate": request.operation == "ablate" and not self.ablates,
            "edit only some positions (at 'starts')": request.at == "starts" and not self.at_starts,
            f"edit layer {layer} (its first is {self.first_layer})": request.operation == "add"
            and layer < self.first_layer,
        }
        return [what for what, is_wrong in wrong.items() if is_wrong]


FORMATS = {
    each.name: each
    for each in (
        Format("hook", hook, ablates=True, at_starts=True),
        Format("hf-bias", bias, ablates=True, at_starts=False, every_write=True),
        Format("gguf", control_vector, ablates=False, at_starts=False, first_layer=1),
        Format("lm-eval", lm_eval_file, ablates=True, at_starts=False),
        Format("vllm", vllm, ablates=False, at_starts=False),
    )
}


def format_for(name: str, request: Export) -> Format:
    """The format of this name; raises `UserError`, naming those that can, where it cannot say the edit."""
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    if wrong := FORMATS[name].refusals(request):
        able = [f"{each.name!r}" for each in FORMATS.values() if not each.refusals(request)]
        raise UserError(
            f"Format {name!r} cannot {' or '.join(wrong)}: use {' or '.join(able)} for that."
        )
    return FORMATS[name]
