"""Format `gguf`: a control vector of llama.cpp, and its proof there.

llama.cpp adds `direction.N` to the output of block N, counted from 0, at every token (`build_cvec` in its graphs
comes after the block's last addition); it holds none for block 0. Its programs read it with
`--control-vector FILE`; repeng writes the same layout.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.errors import UserError
from interp.export.checkpoint import checkpoint_of, plain_model, transformer_of
from interp.export.llama_cpp import LlamaCpp, library
from interp.export.llama_gguf import write_llama
from interp.export.request import Export
from interp.export.runtime import Unproven
from interp.models import Model

ARCHITECTURE = "controlvector"


def write(model: Model, request: Export, out: Path) -> Path:
    """Write `vector.gguf` and return its path; raises `UserError` where the package gguf is missing."""
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise UserError(
            "Format 'gguf' needs the package gguf, which is not installed: pip install 'whenlens[export]'."
        ) from error
    path = out / "vector.gguf"
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", transformer_of(model).config.model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", 1)
    writer.add_string("whenlens.export", json.dumps(request.describe()))
    writer.add_tensor(f"direction.{request.direction.layer}", request.shift.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path, n_layers: int) -> Float[np.ndarray, "layer d_model"]:
    """What a control vector adds to the outputs of blocks 1 and up, read as llama.cpp reads it.

    Raises `UserError` for a file that llama.cpp would refuse.
    """
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is no GGUF file ({error}): export again.") from error
    found: dict[int, np.ndarray] = {}
    for tensor in tensors:
        name = re.fullmatch(r"direction\.([1-9]\d*)", tensor.name)
        flat = tensor.data.dtype == np.float32 and tensor.data.ndim == 1
        if name is None or not flat or int(name[1]) >= n_layers:
            raise UserError(
                f"{str(path)!r} holds {tensor.name!r} ({tensor.tensor_type.name}, {tensor.data.ndim}-D): "
                f"expected F32 vectors direction.1 to direction.{n_layers - 1}; export again."
            )
        found[int(name[1])] = tensor.data
    if not found or len({len(v) for v in found.values()}) != 1:
        raise UserError(f"{str(path)!r} holds no vectors of one width: export again.")
    blank = np.zeros(len(next(iter(found.values()))), np.float32)
    return np.stack([found.get(layer, blank) for layer in range(1, n_layers)])


@contextmanager
def run(model: Model, request: Export, out: Path) -> Iterator[LlamaCpp]:
    """llama.cpp over the model in float32, under the control vector; raises `Unproven` without it."""
    kind = transformer_of(model).config.model_type
    if kind != "llama":
        raise Unproven(
            f"llama.cpp needs the model as GGUF, which is written here for Llama only, not for {kind}"
        )
    try:
        library()
    except (ImportError, OSError, AttributeError) as error:
        raise Unproven(
            f"llama.cpp is not there ({error}): pip install 'whenlens[export]'"
        ) from error
    data = read(out / "vector.gguf", model.n_layers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        plain = plain_model(checkpoint_of(model), model.device)
        write_llama(plain, path)
        runtime = LlamaCpp(
            path, request.watched(model), min(2048, plain.config.max_position_embeddings)
        )
        try:
            runtime.steer(data)
            yield runtime
        finally:
            runtime.close()
