"""Steering files for the tests: by the formats' own libraries, packed by hand, damaged and hostile."""

import base64
import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.directions import Direction, DirectionSet
from interp.errors import UserError
from interp.validation.candidates import read_candidates

RNG = np.random.default_rng(0)
VECTOR = RNG.normal(size=8).astype(np.float32)
ROWS = RNG.normal(size=(4, 8)).astype(np.float32)
ROWS[2] = 0
ARRAYS = (".safetensors", ".npz", ".pt")
PLAIN = {"layer": 5, "behavior": "verification"}
WRITTEN_BY_GGUF = (
    "R0dVRgMAAAACAAAAAAAAAAMAAAAAAAAAFAAAAAAAAABnZW5lcmFsLmFyY2hpdGVjdHVyZQgAAAANAAAAAAAAAGNvbnRy"
    "b2x2ZWN0b3IYAAAAAAAAAGNvbnRyb2x2ZWN0b3IubW9kZWxfaGludAgAAAAFAAAAAAAAAGxsYW1hGQAAAAAAAABjb250"
    "cm9sdmVjdG9yLmxheWVyX2NvdW50BAAAAAIAAAALAAAAAAAAAGRpcmVjdGlvbi4yAQAAAAMAAAAAAAAAAAAAAAAAAAAA"
    "AAAACwAAAAAAAABkaXJlY3Rpb24uMQEAAAADAAAAAAAAAAAAAAAgAAAAAAAAAAAAAAAAgD8AAADAAABgQAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAACAPgAAAAAAAIC/AAAAAAAAAAAAAAAAAAAAAAAAAAA="
)
"""A control vector as repeng exports it (its calls, in its order), by the gguf package 0.19."""


def write(path, arrays):
    """Write arrays by name with the library of the suffix; one under the name "" stands alone."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".npy":
        np.save(path, arrays[""])
    elif path.suffix == ".safetensors":
        save_file({name: torch.as_tensor(array) for name, array in arrays.items()}, path)
    else:
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        torch.save(tensors.get("", tensors), path)
    return path


def direction(behavior="verification", layer=2, model="tiny", vector=VECTOR, **fields):
    return Direction(
        vector=torch.tensor(vector), behavior=behavior, layer=layer, read="before", contrast="rest",
        unit=3.5, model=model, model_fingerprint="f" * 12, tokenizer_hash="t" * 12,
        hook=f"blocks.{layer}.hook_resid_post", fit_split="fit", **fields,
    )  # fmt: skip


def own_file(path, **changes):
    """One of our own files, with fields of its provenance changed."""
    DirectionSet.of([direction()]).save(path)
    key = "verification@tiny"
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    fields = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"][key])
    save_file({key: torch.tensor(VECTOR)}, path, {key: json.dumps({**fields, **changes})})
    return path


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pack_gguf(
    tensors, version=3, values=(), kind=0, form="<f4", architecture="controlvector", dims=None
):
    """A GGUF file, field by field as the format's text lays it out."""
    values = [(text("general.architecture"), struct.pack("<I", 8) + text(architecture)), *values]
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    head += b"".join(key + value for key, value in values)
    body = b""
    for name, vector in tensors:
        shape = dims or [len(vector)]
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", kind, len(body))
        body += np.asarray(vector, form).tobytes()
        body += bytes(-len(body) % 32)
    return head + bytes(-len(head) % 32) + body


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npy_header(shape, descr="<f4"):
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_file(pickled, storage=bytes(16)):
    """What `torch.save` writes, around any pickle."""
    return zipped({"x/data.pkl": pickled, "x/data/0": storage, "x/version": b"3\n"})


def torch_pickle(tensor):
    """The pickle that `torch.save` writes for a tensor."""
    file = io.BytesIO()
    torch.save(tensor, file)
    with zipfile.ZipFile(file) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def refusal(path, **asks):
    with pytest.raises(UserError) as caught:
        read_candidates(path, **asks)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused_bytes(folder, name, data, **asks):
    (folder / name).write_bytes(data)
    return refusal(folder / name, **asks)


def as_numpy(candidate):
    return {layer: vector.numpy() for layer, vector in candidate.vectors.items()}


def one_tensor(name):
    return b'{"%s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' % name


class Command:
    """What a hostile pickle would run."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def write_valid(folder):
    """One small file of every kind that reads."""
    folder.mkdir()
    others = [direction("backtracking", 1), direction("deduction", 0, "large")]
    DirectionSet.of([direction(), *others]).save(folder / "own.safetensors")
    for suffix in ARRAYS:
        write(folder / f"rows{suffix}", {"first": ROWS, "second": 2 * ROWS})
    write(folder / "half.safetensors", {"v": VECTOR.astype(np.float16)})
    write(folder / "rows.npy", {"": ROWS})
    write(folder / "vector.npy", {"": VECTOR.astype(np.float64)})
    write(folder / "vector.pt", {"": VECTOR})
    np.savez_compressed(folder / "packed.npz", first=ROWS, second=VECTOR)
    (folder / "package.gguf").write_bytes(base64.b64decode(WRITTEN_BY_GGUF))
    values = [
        (text("tags"), struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")),
        (text("numbers"), struct.pack("<IIQ", 9, 4, 2) + bytes(8)),
        (text("general.alignment"), struct.pack("<II", 4, 32)),
    ]
    vectors = [(f"direction.{n + 1}", row) for n, row in enumerate(ROWS)]
    (folder / "hand.gguf").write_bytes(pack_gguf(vectors, values=values))


def write_bombs(folder):
    """Files of a few kilobytes, or within the limits, that ask for gigabytes."""
    folder.mkdir()
    packed = zlib.compress(bytes(2**29), 9)[2:-4]
    bomb = zipped({"v.npy": bytes(2**22)}, zipfile.ZIP_DEFLATED)
    (folder / "honest.npz").write_bytes(bomb)
    (folder / "several.npz").write_bytes(
        zipped({f"{n}.npy": bytes(2**25) for n in range(3)}, zipfile.ZIP_DEFLATED)
    )
    member = zipped({"v.npy": b"x" * len(packed)})  # its packed bytes unpack to 512 MiB
    for signature, method, sizes in ((b"PK\x03\x04", 8, 18), (b"PK\x01\x02", 10, 20)):
        place = member.index(signature)
        member = bytearray(member)
        member[place + method : place + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        member[place + sizes : place + sizes + 8] = struct.pack("<II", len(packed), 500)
        member = bytes(member)
    (folder / "lying.npz").write_bytes(member.replace(b"x" * len(packed), packed))
    asks = b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    (folder / "bytearray.pt").write_bytes(torch_file(b"\x80\x02" + asks))
    (folder / "entries.npz").write_bytes(zipped({str(n): b"" for n in range(100_000)}))
    (folder / "header.gguf").write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**40)
        + bytes(2**25)
    )  # fmt: skip
    names = b",".join(one_tensor(b"%d" % n)[1:] for n in range(400_000))
    header = b"{" + names + b"}"
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def write_large(folder):
    """Files of nearly 64 MiB that read."""
    folder.mkdir()
    rows = np.ones((2**11, 2**13 - 8), np.float32)
    for suffix in ARRAYS:
        write(folder / f"large{suffix}", {"v": rows})
    write(folder / "large.npy", {"": rows})
    vectors = [(f"direction.{n + 1}", row) for n, row in enumerate(rows.reshape(64, -1))]
    (folder / "large.gguf").write_bytes(pack_gguf(vectors))
