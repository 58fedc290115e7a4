"""Arrays from safetensors, NumPy and PyTorch files of unknown origin, checked before they are read."""

import io
import json
import math
import pickletools
import re
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from interp.validation.gguf import read_gguf
from interp.validation.untrusted import (
    MAX_BYTES,
    MAX_ELEMENTS,
    MAX_HEADER,
    Content,
    parsing,
    read_bytes,
    shown,
    unusable,
    wrong_dtype,
)

MAX_MEMBERS = 4096
MAX_RATIO = 200
"""How many times its packed size a member of an archive may unpack to, past the first 64 KiB."""
PICKLED = re.compile(
    r"torch ((Complex)?(Float|Double)|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict"
)
"""All that a pickled tensor or dict of tensors asks for."""


def read_content(path: Path) -> Content:
    """Read a file of arrays in the format that its suffix names, without running anything in it.

    Raises `UserError` for a file that is missing, too large, damaged or not what its suffix says.
    """
    readers = {
        ".safetensors": read_safetensors, ".gguf": read_gguf, ".npy": read_npy, ".npz": read_npz,
        ".pt": read_torch, ".pth": read_torch, ".bin": read_torch,
    }  # fmt: skip
    data = read_bytes(path)
    if path.suffix.lower() not in readers:
        raise unusable(
            path,
            f"has the suffix {shown(path.suffix)}",
            f"expected one of {', '.join(readers)}; convert or rename the file",
        )
    return readers[path.suffix.lower()](path, data)


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object that names nothing twice, for `object_pairs_hook`; raises `ValueError`."""
    if (twice := first_twice([name for name, _ in pairs])) is not None:
        raise ValueError(f"duplicate name {twice}")
    return dict(pairs)


def first_twice(names: list[str]) -> str | None:
    """The first name that is there already, None where all are unique."""
    known: set[str] = set()
    return next((name for name in names if name in known or known.add(name)), None)


def read_safetensors(path: Path, data: bytes) -> Content:
    """Tensors and metadata of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise unusable(
            path,
            f"declares a header of {length} bytes",
            f"expected at most {MAX_HEADER}; it is damaged or holds no directions, save it again",
        )
    if len(data) < 8 or length > len(data) - 8:
        raise unusable(
            path,
            f"is truncated: it holds {len(data)} bytes and declares {8 + length} of header",
            "expected a whole safetensors file; copy or save it again",
        )
    with parsing(path, "safetensors"):
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=unique)
        tensors = safetensors.torch.load(data)
    return Content("safetensors", tensors, header.get("__metadata__") or {})


def read_npy(path: Path, data: bytes) -> Content:
    """The one array of a NumPy file."""
    return Content("npy", {path.stem: _array(path, path.stem, data)}, {})


def read_npz(path: Path, data: bytes) -> Content:
    """The arrays of a NumPy archive."""
    tensors: dict[str, Tensor] = {}
    with parsing(path, "npz"), _archive(path, data) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                name = info.filename.removesuffix(".npy")
                tensors[name] = _array(path, name, file.read(info.file_size))
    return Content("npz", tensors, {})


def read_torch(path: Path, data: bytes) -> Content:
    """The tensor, or the tensors of the dict, that `torch.save` wrote.

    The pickle inside may ask for nothing but tensors before `torch.load(weights_only=True)` sees it;
    its storages are slices of the mapped file, so a false length cannot reach beyond it.
    """
    if data[:4] != b"PK\x03\x04":
        raise unusable(
            path,
            "is not an archive that torch.save wrote",
            "expected a whole file of PyTorch 1.6 or later; save the tensors again, best as "
            "safetensors",
        )
    with parsing(path, "PyTorch"):
        with _archive(path, data) as archive:
            _check_pickle(path, archive)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    found = {path.stem: loaded} if isinstance(loaded, Tensor) else loaded
    if not isinstance(found, dict):
        raise unusable(
            path,
            f"holds a {type(found).__name__}",
            "expected a tensor or a dict of tensors; save the tensors alone",
        )
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise unusable(
                path,
                f"holds a {type(tensor).__name__} under {shown(name)}",
                "expected names and their tensors; save a dict of tensors, one (n_layers, d_model) "
                "array for a direction of several layers",
            )
    return Content("torch", {n: t.detach() for n, t in found.items()}, {})


def _array(path: Path, name: str, data: bytes) -> Tensor:
    """One array in NumPy's own format: the header is checked before any number is read."""
    with parsing(path, "NumPy"):
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"version {version} of the format, not 1.0 or 2.0")
        shape, _, dtype = header(file, max_header_size=1024)
        size, held = math.prod(shape), len(data) - file.tell()
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise wrong_dtype(path, name, str(dtype))
        if min(shape, default=1) < 0 or size > MAX_ELEMENTS or size * dtype.itemsize != held:
            raise unusable(
                path,
                f"declares shape {shown(shape)} of {dtype} for {shown(name)} and holds {held} bytes",
                f"expected at most {MAX_ELEMENTS} numbers and all of them; it is too large, "
                "truncated or damaged, save it again",
            )
        array = np.load(io.BytesIO(data), allow_pickle=False)
        return torch.from_numpy(np.asarray(array, dtype.newbyteorder("="), order="C"))


def _archive(path: Path, data: bytes) -> zipfile.ZipFile:
    """A zip archive whose members are few, plainly packed, uniquely named and not too large."""
    if data.count(b"PK\x01\x02") > MAX_MEMBERS:
        raise unusable(
            path,
            f"has more than {MAX_MEMBERS} members",
            "expected one array for each direction; save fewer",
        )
    archive = zipfile.ZipFile(io.BytesIO(data))
    infos = archive.infolist()
    if (total := sum(info.file_size for info in infos)) > MAX_BYTES:
        raise unusable(
            path,
            f"unpacks to {total} bytes",
            f"expected at most {MAX_BYTES}; save the directions alone, without the model",
        )
    for info in infos:
        if info.file_size > 2**16 + MAX_RATIO * info.compress_size:
            raise unusable(
                path,
                f"packs {info.file_size} bytes of {shown(info.filename)} into {info.compress_size}",
                f"expected at most {MAX_RATIO} times less; save it without compression",
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise unusable(
                path,
                f"packs {shown(info.filename)} with method {info.compress_type}",
                "expected stored or deflated members; save it again with NumPy or PyTorch",
            )
        if not info.filename.isascii() and not info.flag_bits & 0x800:
            raise unusable(
                path,
                f"names a member {shown(info.filename)}, not in UTF-8",
                "expected UTF-8 names; save it again with NumPy or PyTorch",
            )
    names = [info.filename.removesuffix(".npy") for info in infos]
    if (twice := first_twice(names)) is not None:
        raise unusable(
            path, f"holds two of member {shown(twice)}", "expected unique names; save it again"
        )
    return archive


def _check_pickle(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a packed archive, and a pickle that asks for anything but tensors and dicts of them."""
    infos = archive.infolist()
    pickles = [info for info in infos if info.filename.rpartition("/")[2] == "data.pkl"]
    packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
    if packed or len(pickles) != 1 or pickles[0].file_size > MAX_HEADER:
        raise unusable(
            path,
            "is not an archive as torch.save writes it",
            f"expected members without compression and one data.pkl of at most {MAX_HEADER} bytes; "
            "save it again",
        )
    with archive.open(pickles[0]) as file:
        pickle = file.read(MAX_HEADER)
    for code, argument, _ in pickletools.genops(pickle):
        if "GLOBAL" in code.name and not PICKLED.fullmatch(str(argument)):
            raise unusable(
                path,
                f"is a pickle that asks for {shown(argument)}",
                "expected a tensor or a dict of tensors; no other code is loaded, save the tensors "
                "alone",
            )
