"""Format `hook`: a Python file of about twenty lines that hooks a Hugging Face model, and its vector."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from interp.errors import UserError
from interp.export.checkpoint import check_blocks, checkpoint_of, plain_model
from interp.export.hugging_face import HuggingFace
from interp.export.request import Export
from interp.models import Model

CODE = '''\
"""{says}

    from steer import attach
    handles = attach(model)  # from AutoModelForCausalLM.from_pretrained(...)
    for handle in handles:
        handle.remove()
"""

from pathlib import Path

{torch}from safetensors.torch import load_file

LAYERS = {layers}


def attach(model, file=Path(__file__).with_name("vector.safetensors")):
    saved = load_file(file)

    def edit(module, args, output):
        resid = output[0] if isinstance(output, tuple) else output
        vector = saved["vector"].to(resid)
        edited = {edit}
{where}        return (edited, *output[1:]) if isinstance(output, tuple) else edited

{look}    return {look_handle}[model.model.layers[i].register_forward_hook(edit) for i in LAYERS]
'''
STARTS = """\
        # Of a prompt, its last token alone; then the tokens that end a sentence.
        starts = torch.isin(seen[0], saved["ends"].to(seen[0].device))
        if starts.shape[1] > 1:
            starts = torch.arange(starts.shape[1], device=resid.device)[None] == starts.shape[1] - 1
        edited = torch.where(starts[..., None], edited, resid)
"""
LOOK = """\
    seen = [None]
    look = model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.__setitem__(0, args[0])
    )
"""


def write(model: Model, request: Export, out: Path) -> Path:
    """Write `steer.py` and `vector.safetensors`; returns the path of the first."""
    check_blocks(model, "hook")
    adds, starts = request.operation == "add", request.at == "starts"
    layer = request.direction.layer
    layers = f"[{layer}]" if adds else f"range({model.n_layers})"
    where = "possible starts of segments" if starts else "every token"
    says = f"Adds a direction to the residual stream after block {layer}, at {where}."
    if not adds:
        says = f"Removes a direction from the residual stream after every block, at {where}."
    code = CODE.format(
        says=says,
        torch="import torch\n" if starts else "",
        layers=layers,
        edit="resid + vector" if adds else "resid - (resid @ vector)[..., None] * vector",
        where=STARTS if starts else "",
        look=LOOK if starts else "",
        look_handle="[look] + " if starts else "",
    )
    tensors = {"vector": request.shift if adds else request.unit}
    if starts:
        tensors["ends"] = model.boundary.nonzero()[:, 0].cpu()
    save_file(
        tensors, out / "vector.safetensors", metadata={"whenlens": json.dumps(request.describe())}
    )
    (out / "steer.py").write_text(code)
    return out / "steer.py"


@contextmanager
def run(model: Model, request: Export, out: Path) -> Iterator[HuggingFace]:
    """The model in plain transformers, with the file attached."""
    plain = plain_model(checkpoint_of(model), model.device)
    _attach(out / "steer.py", plain)
    yield HuggingFace(plain, request.watched(model))


def _attach(path: Path, plain: Any) -> None:
    spec = importlib.util.spec_from_file_location("whenlens_exported_hook", path)
    assert spec is not None and spec.loader is not None  # a name that ends in .py has both
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        module.attach(plain)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{str(path)!r} does not run ({error}): export again.") from error
