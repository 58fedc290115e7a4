"""Steering directions from anywhere, as candidates to test: our own files and other tools'."""

import json
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp.directions import Direction
from interp.errors import UserError, unknown_name
from interp.pooling import SITES, hook_name
from interp.validation.formats import read_content, unique
from interp.validation.untrusted import (
    MAX_ELEMENTS,
    Content,
    parsing,
    shown,
    unusable,
    wrong_dtype,
)

MAX_VECTORS = 2**16
"""The most vectors in one file, over all directions and layers."""
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OWN_FIELDS: dict[str, object] = {
    field.name: field.type for field in fields(Direction) if field.name != "vector"
}


@dataclass(frozen=True)
class CandidateDirection:
    """A steering direction from anywhere: what is added at the output of each layer.

    `name` is unique inside its file; `behavior` is what it is said to steer, None where the file does
    not say. `vectors` are raw, float32, finite and not zero, by layer counted from 0; `hook` is the
    site of that block where they belong. `provenance` is what the file states of itself.
    """

    name: str
    behavior: str | None
    vectors: dict[int, Float[Tensor, " d_model"]]
    hook: str
    provenance: dict[str, str]


@dataclass(frozen=True)
class _Asked:
    """What the caller says beside the file."""

    layer: int | None
    behavior: str | None
    hook: str | None


def read_candidates(
    path: Path,
    *,
    layer: int | None = None,
    behavior: str | None = None,
    hook: str | None = None,
) -> list[CandidateDirection]:
    """Read the directions of one file; nothing in it is run, and no length it declares is trusted.

    - `.safetensors` of `DirectionSet.save`: a candidate `behavior@model` for each direction. What
      the caller gives must agree with it.
    - `.gguf` control vectors of repeng and llama.cpp: one candidate, named after the file.
      `direction.N` (N from 1) is layer N of `resid_post`, layers counted from 0: llama.cpp adds it
      to `l_out-N`, the output of block N (`common_control_vector_load_one` keeps direction.1 first,
      `llama_adapter_cvec::apply` gives that to layer 1), and repeng fits and adds it there too
      (`batched_get_hiddens`, `ControlModel`). Layer 0 has none. llama.cpp's `cvector-generator`
      fits direction.N on the output of block N - 1; it acts on that of block N all the same.
    - `(n_layers, d_model)` arrays in `.safetensors`, `.npy`, `.npz`, `.pt`, `.pth` or `.bin`: a
      candidate for each array, with the rows that are not zero.
    - vectors `(d_model)` in the same formats: a candidate each, at `layer`; `behavior` is needed too.

    With `layer`, files of several layers give that layer alone. `behavior` and `hook` fill in what
    the file does not say; `hook` is `resid_post` by default. float64 and half precision become
    float32. Raises `UserError` for anything else: one sentence with what was found, what was
    expected and what to do.
    """
    asked = _Asked(layer, behavior, hook)
    if layer is not None and layer < 0:
        raise UserError(f"Layer {layer} does not exist: layers count from 0, give 0 or more.")
    if hook is not None and hook not in SITES:
        raise unknown_name("hook", hook, SITES)
    content = read_content(path)
    tensors = _checked(path, content)
    if content.format == "safetensors" and content.stated.keys() & tensors.keys():
        found = _own(path, tensors, content.stated, asked)
    elif content.format == "gguf":
        found = [_control_vector(path, tensors, content.stated, asked)]
    else:
        found = [_array(path, name, tensor, content, asked) for name, tensor in tensors.items()]
    for candidate in found:
        _check_texts(path, [candidate.name], printable=True)
        _check_texts(path, [*candidate.provenance, *candidate.provenance.values()])
    return found


def _checked(path: Path, content: Content) -> dict[str, Float[Tensor, "..."]]:
    """The file's tensors in float32: vectors or rows of vectors of one width, finite numbers."""
    tensors = content.tensors
    if not tensors:
        raise unusable(path, "holds no directions", "expected at least one; save them again")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.dtype not in FLOATS:
            kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
            raise wrong_dtype(path, name, str(kind).removeprefix("torch."))
        if tensor.ndim not in (1, 2) or 0 in tensor.shape:
            raise unusable(
                path,
                f"holds an array of shape {shown(tuple(tensor.shape))} in {shown(name)}",
                "expected (d_model) or (n_layers, d_model); reshape it or save the directions alone",
            )
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    n_vectors = sum(math.prod(tensor.shape[:-1]) for tensor in tensors.values())
    if n_numbers > MAX_ELEMENTS or n_vectors > MAX_VECTORS:
        raise unusable(
            path,
            f"holds {n_numbers} numbers in {n_vectors} vectors",
            f"expected at most {MAX_ELEMENTS} in {MAX_VECTORS}; save fewer directions",
        )
    widths = {name: tensor.shape[-1] for name, tensor in tensors.items()}
    (first, width), *others = widths.items()
    for name, other in others:
        if other != width:
            raise unusable(
                path,
                f"holds vectors of {width} numbers in {shown(first)} and {other} in {shown(name)}",
                "expected one d_model; save the directions of each model in a file of its own",
            )
    found = {
        name: tensor.float().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise unusable(
                path,
                f"holds NaN or infinite numbers (in float32) in {shown(name)}",
                "expected finite ones; compute the direction again",
            )
    return found


def _own(
    path: Path,
    tensors: dict[str, Tensor],
    stated: dict[str, str],
    asked: _Asked,
) -> list[CandidateDirection]:
    """The directions of `DirectionSet.save`; what the caller gives must be what they say."""
    if unlike := sorted(stated.keys() ^ tensors.keys()):
        raise unusable(
            path,
            f"has a vector or a provenance, not both, for {shown(unlike[0])}",
            "expected both for each direction, as DirectionSet.save writes them; save it again",
        )
    found = []
    for name, vector in tensors.items():
        says = _own_fields(path, name, stated[name])
        site = says["hook"].rpartition(".hook_")[2]
        for what, said, given in (
            ("layer", says["layer"], asked.layer),
            ("behavior", says["behavior"], asked.behavior),
            ("hook", site, asked.hook),
        ):
            if given is not None and given != said:
                raise unusable(
                    path,
                    f"states {what} {shown(said)} for {shown(name)} where {shown(given)} was given",
                    f"expected the same {what}; leave it out, or give another file",
                )
        if vector.ndim != 1:
            raise unusable(
                path,
                f"holds an array of shape {tuple(vector.shape)} for {shown(name)}",
                "expected (d_model), as DirectionSet.save writes it; save it again",
            )
        provenance = {k: str(v) for k, v in says.items() if k not in ("layer", "behavior", "hook")}
        found.append(
            CandidateDirection(
                name=name,
                behavior=says["behavior"],
                vectors=_steered(path, name, {says["layer"]: vector}, None),
                hook=site,
                provenance={**provenance, "format": "whenlens"},
            )
        )
    return found


def _own_fields(path: Path, name: str, text: str) -> dict:
    """What one of our own directions says of itself, each field of its type."""
    with parsing(path, "whenlens"):
        says = json.loads(text, object_pairs_hook=unique)
        for field, kind in OWN_FIELDS.items():
            if not isinstance(says, dict) or type(says.get(field)) is not kind:
                raise ValueError(f"no {field} ({kind}) for {name}")
        if says["layer"] < 0 or says["hook"] not in [hook_name(s, says["layer"]) for s in SITES]:
            raise ValueError(f"hook {says['hook']} at layer {says['layer']} for {name}")
        if not 0 < says["unit"] < math.inf:
            raise ValueError(f"unit {says['unit']} for {name}")
        if name != f"{says['behavior']}@{says['model']}":
            raise ValueError(f"behavior {says['behavior']} of model {says['model']} for {name}")
    return says


def _control_vector(
    path: Path,
    tensors: dict[str, Tensor],
    stated: dict[str, str],
    asked: _Asked,
) -> CandidateDirection:
    """The one direction of a GGUF control vector: `direction.N` is layer N."""
    vectors = {}
    for name, vector in tensors.items():
        if not (match := re.fullmatch(r"direction\.([1-9][0-9]{0,5})", name)):
            raise unusable(
                path,
                f"holds a tensor {shown(name)}",
                "expected direction.N alone, N from 1 as llama.cpp reads it; export it again",
            )
        vectors[int(match[1])] = vector
    return CandidateDirection(
        name=path.stem,
        behavior=asked.behavior,
        vectors=_steered(path, path.stem, vectors, asked.layer),
        hook=asked.hook or "resid_post",
        provenance={**stated, "format": "gguf"},
    )


def _array(
    path: Path,
    name: str,
    tensor: Float[Tensor, "..."],
    content: Content,
    asked: _Asked,
) -> CandidateDirection:
    """The direction of one array: its row for each layer, or one vector at the layer given."""
    if tensor.ndim == 2:
        vectors = dict(enumerate(tensor))
    elif asked.layer is None or asked.behavior is None:
        raise unusable(
            path,
            f"holds one vector of {len(tensor)} numbers in {shown(name)}, with no word on its "
            f"{'layer' if asked.layer is None else 'behavior'}",
            "expected layer (from 0) and behavior beside a plain vector; give both",
        )
    else:
        vectors = {asked.layer: tensor}
    dtype = str(content.tensors[name].dtype).removeprefix("torch.")
    return CandidateDirection(
        name=name,
        behavior=asked.behavior,
        vectors=_steered(path, name, vectors, asked.layer),
        hook=asked.hook or "resid_post",
        provenance={"dtype": dtype, **content.stated, "format": content.format},
    )


def _steered(
    path: Path, name: str, vectors: dict[int, Float[Tensor, " d_model"]], layer: int | None
) -> dict[int, Float[Tensor, " d_model"]]:
    """The layers whose vector is not zero, or `layer` alone; raises `UserError` if none is left."""
    if layer is not None and layer not in vectors:
        raise unusable(
            path,
            f"has no layer {layer} in {shown(name)}",
            f"expected a layer from {min(vectors)} to {max(vectors)} that it holds; give one of them",
        )
    kept = {n: v for n, v in sorted(vectors.items()) if layer in (None, n) and v.any()}
    if not kept:
        raise unusable(
            path,
            f"holds only zeros in {shown(name)}" + ("" if layer is None else f" at layer {layer}"),
            "expected a vector that is not zero (in float32); choose another layer or direction",
        )
    return kept


def _check_texts(path: Path, texts: list[str], printable: bool = False) -> None:
    """Raise `UserError` for a text that is not UTF-8, or for an empty or unprintable name."""
    for text in texts:
        broken = any("\ud800" <= letter <= "\udfff" for letter in text)
        if broken or (printable and not (text and text.isprintable())):
            raise unusable(
                path,
                f"holds the name or text {shown(text)}",
                "expected UTF-8, and names that can be printed; rename it",
            )
