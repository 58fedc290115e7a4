"""Activations on disk: a folder of safetensors shards and the index that vouches for each of them."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.errors import UserError
from interp.runs import read_json, write_json

SCHEMA = "whenlens.activations/1"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The formats of the numbers on disk, by the name that the index has."""
MAX_HEADER = 16 * 2**20
"""The most bytes of a shard that may describe its tensors: some 100,000 of them."""
MAX_INDEX = 256 * 2**20
"""The most bytes of an index: some million shards."""
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_NAME = re.compile(r"shard-(\d{4,9})\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Key = tuple[str, str]
"""Hook name and read position."""


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number`, counted from 0, lies."""
    return folder / f"shard-{number:04d}.safetensors"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in small pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Shard:
    """What the index says of one shard: its rows, from how many traces, and its SHA-256.

    `key` names what was collected (model, tokens, spans, hooks, reads, format): a collection that
    would write the same key leaves the shard as it is.
    """

    file: str
    traces: int
    rows: int
    key: str
    sha256: str


@dataclass(frozen=True)
class Index:
    """`index.json`: the fingerprint of the model, `widths` (`hook@read`: d_model), and shards by number."""

    model: str
    dtype: str
    widths: dict[str, int]
    shards: dict[int, Shard]

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Read a folder's index; raises `UserError` where it is missing, absurd or of another schema."""
        path = folder / "index.json"
        if not path.is_file():
            raise UserError(
                f"{str(folder)!r} holds no activations (no index.json): collect them first, or "
                "choose another folder."
            )
        if path.stat().st_size > MAX_INDEX:
            raise UserError(
                f"{str(path)!r} holds {path.stat().st_size} bytes, expected at most {MAX_INDEX}: "
                "remove the folder and collect again."
            )
        found = read_json(path)
        try:
            return cls._parsed(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{str(path)!r} is not an index of {SCHEMA} ({type(error).__name__}: {error}): "
                "remove the folder and collect again, with this version of whenlens."
            ) from None

    @classmethod
    def _parsed(cls, found: dict[str, Any]) -> "Index":
        if found["schema"] != SCHEMA or found["dtype"] not in DTYPES:
            raise ValueError(f"schema {found['schema']!r}, dtype {found['dtype']!r}")
        widths = found["widths"]
        if not widths or not all("@" in name and width > 0 for name, width in widths.items()):
            raise ValueError("no widths by hook@read")
        shards = {}
        for row in found["shards"]:
            shard = Shard(**row)
            name = _NAME.fullmatch(shard.file)
            if name is None or not _SHA256.fullmatch(shard.sha256) or shard.rows < 0:
                raise ValueError(f"shard {row}")
            shards[int(name[1])] = shard
        return cls(found["model"], found["dtype"], widths, shards)

    def save(self, folder: Path) -> None:
        """Write `index.json`, whole or not at all."""
        rows = [asdict(shard) for _, shard in sorted(self.shards.items())]
        write_json(folder / "index.json", {"schema": SCHEMA} | asdict(self) | {"shards": rows})


class Shards(Mapping[Key, Tensor]):
    """Matrices of activations in a folder, by (hook, read): mapped when asked for, and not before.

    Holds the shards that are complete when it is made, up to the first that is missing, so that a
    store can be read while it grows. The first use of each shard compares it with the index;
    whatever differs raises `UserError` with the file's name. Numbers are float32 whatever the
    format on disk.
    """

    def __init__(self, folder: Path) -> None:
        """Read the index of `folder`; raises `UserError` where there is none."""
        self.folder = folder
        self.index = Index.load(folder)
        self.shards = [
            self.index.shards[n] for n in takewhile(self.index.shards.__contains__, count())
        ]
        self._keys: dict[Key, str] = {}
        for name in self.index.widths:
            hook, _, read = name.rpartition("@")
            self._keys[hook, read] = name
        self._verified: set[str] = set()
        self._last: tuple[Key, Tensor] | None = None

    @property
    def n_rows(self) -> int:
        """Number of segments."""
        return sum(shard.rows for shard in self.shards)

    @property
    def n_traces(self) -> int:
        """Number of traces that the segments are from."""
        return sum(shard.traces for shard in self.shards)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys  # the inherited one would read the matrix

    def __getitem__(self, key: Key) -> Float[Tensor, "segment d_model"]:
        """The whole matrix of one key; the last one read is kept."""
        if self._last is None or self._last[0] != key:
            width = self.index.widths[self._keys[key]]
            parts = [torch.from_numpy(x) for _, x in self.batches(key)]
            self._last = key, torch.cat(parts) if parts else torch.zeros(0, width)
        return self._last[1]

    def batches(
        self, key: Key, rows: int | None = None
    ) -> Iterator[tuple[slice, Float[np.ndarray, "batch d_model"]]]:
        """The matrix of one key in pieces of at most `rows` rows (None: a whole shard), and which rows they are.

        Only one piece is in memory at a time: `for at, x in shards.batches(key): fitter.update(x, labels[at])`.
        """
        begin = 0
        for shard in self.shards:
            for low in range(0, shard.rows, rows or shard.rows or 1):
                high = min(low + (rows or shard.rows), shard.rows)
                yield slice(begin + low, begin + high), self._read(shard, key, low, high)
            begin += shard.rows

    def read(self, key: Key, start: int, stop: int) -> Float[np.ndarray, "row d_model"]:
        """Rows `start` to `stop` (exclusive) of the matrix of one key, and nothing else."""
        begin, parts = 0, [np.zeros((0, self.index.widths[self._keys[key]]), np.float32)]
        for shard in self.shards:
            low, high = max(start - begin, 0), min(stop - begin, shard.rows)
            if low < high:
                parts.append(self._read(shard, key, low, high))
            begin += shard.rows
        return np.concatenate(parts)

    def verify(self) -> None:
        """Compare every shard with the index now; raises `UserError` that names all that differ."""
        faults = {shard.file: self._fault(shard) for shard in self.shards}
        self._refuse({file: fault for file, fault in faults.items() if fault})

    def _read(self, shard: Shard, key: Key, low: int, high: int) -> np.ndarray:
        with self._opened(shard) as file:
            return file.get_slice(self._keys[key])[low:high].float().numpy()

    @contextmanager
    def _opened(self, shard: Shard) -> Iterator[Any]:
        """The mapped file of a shard. It is mapped anew each time, so that pages read before are let go."""
        if shard.file not in self._verified:
            if fault := self._fault(shard):
                self._refuse({shard.file: fault})
            self._verified.add(shard.file)
        with safe_open(self.folder / shard.file, "pt") as file:
            yield file

    def _fault(self, shard: Shard) -> str | None:
        """What is wrong with a shard's file, None where nothing is."""
        path = self.folder / shard.file
        if not path.is_file():
            return "is missing"
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER:
            return f"declares a header of {header} bytes, more than {MAX_HEADER}"
        if file_digest(path) != shard.sha256:
            return "is damaged (its SHA-256 is not that of index.json)"
        stated = {
            name: (_STORED[self.index.dtype], [shard.rows, width])
            for name, width in self.index.widths.items()
        }
        try:
            with safe_open(path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}
                found = {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}
        except SafetensorError as error:
            return f"is no safetensors file ({error})"
        return None if found == stated else "holds other tensors than index.json states"

    def _refuse(self, faults: dict[str, str]) -> None:
        if faults:
            listed = ", ".join(f"{str(self.folder / f)!r} {fault}" for f, fault in faults.items())
            it = "it" if len(faults) == 1 else "these files"
            raise UserError(
                f"{listed}: remove {it} and collect again, which computes only what is missing."
            )
