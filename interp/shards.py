"""Activations on disk: a folder of safetensors shards and the index that vouches for each of them."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
MAX_INDEX = 32 * 2**20
"""The most bytes of an index: some 100,000 shards."""
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_NAME = re.compile(r"shard-([0-9]{4,9})\.safetensors")

Key = tuple[str, str]
"""Hook name and read position."""


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number`, counted from 0, lies."""
    return folder / f"shard-{number:04d}.safetensors"


def shard_number(name: str) -> int | None:
    """The number that `shard_path` put into a name; None for any other name, and so for any path."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found and shard_path(Path(), int(found[1])).name == name else None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in small pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_activations(key: Key, held: Iterable[Key]) -> UserError:
    """Build the error for a key that a store does not hold."""
    known = ", ".join(f"{hook}@{read}" for hook, read in held)
    return UserError(f"No activations for {key[0]}@{key[1]}: this store holds {known}.")


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
            raise ValueError(f"schema {found['schema']!r:.60}, dtype {found['dtype']!r:.60}")
        widths = found["widths"]
        named = all("@" in name and type(n) is int and n > 0 for name, n in widths.items())
        if not widths or not named:
            raise ValueError("no widths by hook@read")
        shards = {}
        for row in found["shards"]:
            shard = Shard(**row)
            number = shard_number(shard.file)
            counts = shard.traces, shard.rows
            if number is None or not all(type(n) is int and n >= 0 for n in counts):
                raise ValueError(f"shard {row!r:.200}")
            shards[number] = shard
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
            self.verify()  # before room is made for as many rows as the index says
            whole = torch.empty(self.n_rows, self.index.widths[self._keys[key]])
            for at, x in self.batches(key):
                whole[at] = torch.from_numpy(x)
            self._last = key, whole
        return self._last[1]

    def batches(
        self, key: Key, rows: int | None = None
    ) -> Iterator[tuple[slice, Float[np.ndarray, "batch d_model"]]]:
        """The matrix of one key in pieces of at most `rows` rows (None: a whole shard), and which rows they are.

        Only one piece is in memory at a time: `for at, x in shards.batches(key): fitter.update(x, labels[at])`
        fits the streamed estimators of `probes`. Raises `UserError` for a key that the store does not hold.
        """
        if key not in self:
            raise no_activations(key, self)
        begin = 0
        for shard in self.shards:
            for low in range(0, shard.rows, rows or shard.rows or 1):
                high = min(low + (rows or shard.rows), shard.rows)
                yield slice(begin + low, begin + high), self._read(shard, key, low, high)
            begin += shard.rows

    def verify(self) -> None:
        """Compare shards not read before with the index; raises `UserError` that names all that differ."""
        self._verify(self.shards)

    def _verify(self, shards: Sequence[Shard]) -> None:
        found = {
            shard.file: self._fault(shard) for shard in shards if shard.file not in self._verified
        }
        faults = {file: fault for file, fault in found.items() if fault}
        if faults:
            listed = ", ".join(f"{str(self.folder / f)!r} {fault}" for f, fault in faults.items())
            it = "it" if len(faults) == 1 else "these files"
            raise UserError(
                f"{listed}: remove {it} and collect (or run the same command) again, which computes only "
                "what is missing."
            )
        self._verified |= set(found)

    def _read(
        self, shard: Shard, key: Key, low: int, high: int
    ) -> Float[np.ndarray, "batch d_model"]:
        self._verify([shard])
        # Mapped anew each time, so that pages read before are let go.
        with safe_open(self.folder / shard.file, "pt") as file:
            return file.get_slice(self._keys[key])[low:high].float().numpy()

    def _fault(self, shard: Shard) -> str | None:
        """What is wrong with a shard's file, None where nothing is. What does not add up is never read."""
        path = self.folder / shard.file
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > min(size, MAX_HEADER):
            return f"holds {size} bytes and declares a header of {header} (at most {MAX_HEADER})"
        numbers = shard.rows * sum(self.index.widths.values())
        whole = 8 + header + numbers * DTYPES[self.index.dtype].itemsize
        if size != whole:
            return f"holds {size} bytes, not the {whole} of its header and its {numbers} numbers"
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
