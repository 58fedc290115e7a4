"""Format `vllm`: an edit for TransformerLens' driver of vLLM.

    bridge = TransformerBridge.boot_vllm(FOLDER)
    bridge.forward(tokens, intervene=json.load(open("intervene.json")))

The file maps a hook to an operation, as `transformer_lens...vllm.intervention_specs` defines it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.errors import UserError
from interp.export.request import Export
from interp.export.runtime import Runtime, Unproven
from interp.models import Model
from interp.runs import write_json


def write(model: Model, request: Export, out: Path) -> Path:
    """Write `intervene.json` and return its path; raises `UserError` where the driver would refuse it."""
    from transformer_lens.model_bridge.sources.vllm.intervention_specs import validate_spec

    hook = f"blocks.{request.direction.layer}.hook_out"
    edit = {"op": "add", "value": request.shift.tolist()}
    try:
        validate_spec(hook, edit, width=model.d_model)
    except ValueError as error:
        raise UserError(f"The installed TransformerLens refuses the edit ({error}).") from error
    path = out / "intervene.json"
    write_json(path, {hook: edit})
    return path


@contextmanager
def run(model: Model, request: Export, out: Path) -> Iterator[Runtime]:
    """Always raises `Unproven`: vLLM wants a GPU, and its driver reads one pass, not a generation."""
    raise Unproven(
        "vLLM is not run here: its driver accepts the file's form, and nothing more is known"
    )
    yield
