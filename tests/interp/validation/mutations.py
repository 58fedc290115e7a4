"""Run as a program: damaged and hostile files against the reader, and what the process needed.

`mutations.py FOLDER CASES` reads `FOLDER/valid/*`, damages them CASES times, reads the bombs of
`FOLDER/bombs` and the large files of `FOLDER/large`, and prints JSON: what went wrong, the errors of
the bombs, and the peak memory in KiB.
"""

import io
import json
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from interp.errors import UserError
from interp.validation.candidates import read_candidates
from tests.memory import peak_memory

LENGTHS = [0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
ALPHABET = b"\x00\x01\xff\x80{}[](),:\"'-0129.PKQRcq\n"


def at(rng, data):
    return int(rng.integers(0, len(data) + 1))


def truncate(rng, data):
    return data[: at(rng, data)]


def flip(rng, data):
    found = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        found[rng.integers(len(found))] ^= 1 << rng.integers(8)
    return bytes(found)


def inflate_binary(rng, data):
    """A little-endian integer of 1, 2, 4 or 8 bytes becomes another, likely too large."""
    width = int(rng.choice([1, 2, 4, 8]))
    begin = int(rng.integers(0, max(1, len(data) - width)))
    begin = begin - begin % width if rng.random() < 0.5 else begin
    value = LENGTHS[rng.integers(len(LENGTHS))] if rng.random() < 0.7 else at(rng, data)
    return data[:begin] + (value % 256**width).to_bytes(width, "little") + data[begin + width :]


def inflate_text(rng, data):
    """A number written in digits becomes another: safetensors' and NumPy's headers are text."""
    numbers = list(re.finditer(rb"\d+", data[:4096]))
    if not numbers:
        return flip(rng, data)
    chosen = numbers[rng.integers(len(numbers))]
    value = str(LENGTHS[rng.integers(len(LENGTHS))]).encode()
    if rng.random() < 0.5:  # of the same length, so that the rest stays in place
        value = b"9" * len(chosen[0])
    return data[: chosen.start()] + value + data[chosen.end() :]


def overwrite(rng, data):
    begin, n = at(rng, data), int(rng.integers(1, 33))
    noise = rng.bytes(n) if rng.random() < 0.5 else bytes(rng.choice(list(ALPHABET), n).tolist())
    keep = begin if rng.random() < 0.3 else begin + n
    return data[:begin] + noise + data[keep:]


def splice(rng, data):
    first, second = sorted((at(rng, data), at(rng, data)))
    return data[:first] + data[second:] if rng.random() < 0.5 else data[:second] + data[first:]


def noise(rng, data):
    return data[: int(rng.integers(0, 17))] + rng.bytes(int(rng.integers(0, 400)))


DAMAGES = (truncate, flip, inflate_binary, inflate_text, overwrite, splice, noise)


def damage(rng, data):
    for _ in range(1 + (rng.random() < 0.3)):
        if data:
            data = DAMAGES[rng.integers(len(DAMAGES))](rng, data)
    return data


def damage_inside(rng, data):
    """Damage one member of an archive and pack it again: the checksums are right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        infos = old.infolist()
        described = [i for i in infos if i.filename.endswith((".pkl", ".npy"))]
        chosen = described if rng.random() < 0.8 else infos
        victim = chosen[rng.integers(len(chosen))].filename
        for info in infos:
            held = old.read(info)
            held = damage(rng, held) if info.filename == victim else held
            new.writestr(info.filename, held, info.compress_type)
    return packed.getvalue()


def check(found):
    """What every candidate keeps, however the bytes came about."""
    assert found and len({candidate.name for candidate in found}) == len(found)
    for candidate in found:
        assert candidate.vectors and candidate.hook and candidate.name.isprintable()
        for layer, vector in candidate.vectors.items():
            assert layer >= 0 and vector.ndim == 1 and vector.dtype == torch.float32
            assert torch.isfinite(vector).all() and vector.any()


def attempt(path):
    """The reader's error for a file, None where it reads; anything else that goes wrong is raised."""
    asks = {} if path.name.startswith("own") else {"layer": 1, "behavior": "verification"}
    try:
        check(read_candidates(path, **asks))
    except UserError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 1500 and ": expected " in text, text
        return text
    return None


def main(folder, n_cases):
    valid = sorted((folder / "valid").iterdir())
    data = {path: path.read_bytes() for path in valid}
    wrong, n_refused = [], 0
    for case in range(n_cases):
        source = valid[case % len(valid)]
        rng = np.random.default_rng(case)
        inside = zipfile.is_zipfile(io.BytesIO(data[source])) and rng.random() < 0.6
        path = folder / f"{source.stem}-damaged{source.suffix}"
        path.write_bytes((damage_inside if inside else damage)(rng, data[source]))
        try:
            n_refused += attempt(path) is not None
        except BaseException as error:
            wrong.append(f"case {case} of {source.name}: {type(error).__name__}: {error}"[:300])
    bombs = {path.name: attempt(path) for path in sorted((folder / "bombs").iterdir())}
    large = {path.name: attempt(path) for path in sorted((folder / "large").iterdir())}
    print(json.dumps({
        "wrong": wrong, "refused": n_refused, "bombs": bombs, "large": large,
        "peak": peak_memory(),
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
