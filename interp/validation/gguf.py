"""GGUF control vectors, read without trust in a single length that the file declares."""

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from interp.validation.untrusted import MAX_ELEMENTS, MAX_HEADER, Content, shown, unusable

DTYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""ggml's numbers of the tensor types that hold plain floats."""
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""GGUF's numbers of the value types of fixed size, as `struct` spells them."""
STRING, ARRAY = 8, 9


class Cursor:
    """A place in the header; every read is checked against the file's end and the header's limit."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.at = path, data, 0
        self.end = min(len(data), MAX_HEADER)

    def skip(self, n: int) -> int:
        """Move `n` bytes on and return where they begin."""
        begin = self.at
        if n > self.end - begin:
            raise unusable(
                self.path,
                f"is a truncated or damaged GGUF file: byte {begin} of {len(self.data)} declares "
                f"{n} bytes more of header",
                f"expected a whole file with a header of at most {MAX_HEADER} bytes; copy or "
                "export it again",
            )
        self.at = begin + n
        return begin

    def scalar(self, form: str) -> int | float | bool:
        """One number of fixed size."""
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def count(self, form: str = "<Q") -> int:
        """One unsigned integer."""
        return int(self.scalar(form))

    def text(self) -> str:
        """One string: its length in bytes, then UTF-8."""
        length = self.count()
        raw = self.data[self.skip(length) : self.at]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise unusable(
                self.path,
                f"holds a name or text that is not UTF-8: {shown(raw, 60)}",
                "expected GGUF as llama.cpp writes it; export it again",
            ) from None

    def value(self) -> object:
        """One typed value; an array is checked and passed over, and gives None."""
        kind = self.count("<I")
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == ARRAY:
            item, length = self.count("<I"), self.count()
            if item in SCALARS:
                self.skip(length * struct.calcsize(SCALARS[item]))
                return None
            if item == STRING:
                for _ in range(length):
                    self.skip(self.count())
                return None
            kind = item
        raise unusable(
            self.path,
            f"holds a value of the unknown GGUF type {kind}",
            "expected numbers, strings and flat arrays of them; export it again",
        )


def read_gguf(path: Path, data: bytes) -> Content:
    """Tensors and metadata of a control vector, little-endian GGUF 2 or 3, names as in the file.

    `controlvector.model_hint` and `controlvector.layer_count` are stated as `model_hint` and
    `layer_count`. Raises `UserError` where the bytes are anything else.
    """
    if data[:4] != b"GGUF":
        raise unusable(
            path,
            f"begins with {shown(data[:4])}",
            "expected GGUF, as repeng and llama.cpp export control vectors; check the file",
        )
    cursor = Cursor(path, data)
    cursor.skip(4)
    if (version := cursor.count("<I")) not in (2, 3):
        raise unusable(
            path,
            f"is GGUF of version {version}",
            "expected version 2 or 3, little-endian; export it again",
        )
    n_tensors, n_values = cursor.count(), cursor.count()
    values: dict[str, object] = {}
    for _ in range(n_values):
        key = cursor.text()
        _check_new(path, "key", key, values)
        values[key] = cursor.value()
    if (architecture := values.get("general.architecture")) != "controlvector":
        raise unusable(
            path,
            f"holds a GGUF of architecture {shown(architecture)}",
            "expected 'controlvector'; give a control vector, not a model",
        )
    infos: dict[str, tuple[torch.dtype, int, int]] = {}
    for _ in range(n_tensors):
        name = cursor.text()
        _check_new(path, "tensor", name, infos)
        infos[name] = _tensor_info(path, cursor, name)
    if (total := sum(length for _, length, _ in infos.values())) > MAX_ELEMENTS:
        raise unusable(
            path,
            f"declares {total} numbers",
            f"expected at most {MAX_ELEMENTS}; save fewer directions",
        )
    begin = _aligned(path, cursor.at, values.get("general.alignment", 32))
    return Content(
        format="gguf",
        tensors={name: _tensor(path, data, name, begin, *info) for name, info in infos.items()},
        stated={
            key.removeprefix("controlvector."): str(value)
            for key, value in values.items()
            if value is not None
        },
    )


def _check_new(path: Path, kind: str, name: str, known: dict) -> None:
    if name in known:
        raise unusable(
            path, f"holds two of {kind} {shown(name)}", "expected unique names; export it again"
        )


def _tensor_info(path: Path, cursor: Cursor, name: str) -> tuple[torch.dtype, int, int]:
    """`(dtype, length, offset)` of one tensor."""
    n_dims = cursor.count("<I")
    if n_dims != 1:
        raise unusable(
            path,
            f"declares {n_dims} dimensions for {shown(name)}",
            "expected 1 for each direction, its length d_model; export it again",
        )
    length, kind, offset = cursor.count(), cursor.count("<I"), cursor.count()
    if kind not in DTYPES:
        raise unusable(
            path,
            f"stores {shown(name)} as ggml type {kind}",
            "expected F32 (0), F16 (1) or BF16 (30); export it without quantization",
        )
    return DTYPES[kind], length, offset


def _aligned(path: Path, at: int, alignment: object) -> int:
    """The first multiple of `alignment` from `at` on: where the tensors' data begins."""
    if type(alignment) is not int or not 0 < alignment <= MAX_HEADER:
        raise unusable(
            path,
            f"declares an alignment of {shown(alignment)}",
            f"expected 1 to {MAX_HEADER} bytes (32 by default); export it again",
        )
    return math.ceil(at / alignment) * alignment


def _tensor(
    path: Path, data: bytes, name: str, begin: int, dtype: torch.dtype, length: int, offset: int
) -> Tensor:
    """One tensor's numbers [length], from `offset` bytes after the data's `begin`."""
    if length * dtype.itemsize > len(data) - begin - offset:
        raise unusable(
            path,
            f"declares {length} numbers for {shown(name)} at byte {begin + offset} and holds "
            f"{len(data)} bytes",
            "expected a whole file; it is truncated or damaged, copy or export it again",
        )
    at = begin + offset
    if not length:
        return torch.zeros(0, dtype=dtype)
    return torch.frombuffer(bytearray(data[at : at + length * dtype.itemsize]), dtype=dtype)
