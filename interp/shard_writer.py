"""Activations to disk, one shard at a time: whatever kills the process, what is there is whole."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import UserError, unknown_name
from interp.shards import DTYPES, Index, Key, Shard, file_digest, shard_number, shard_path


class ShardWriter:
    """Appends shards to a folder, and goes on where an earlier writer of the same shards stopped.

    A shard is written beside its place, flushed to disk and renamed; only then does the index name
    it. What no index names is written again, so a process may be killed at any moment and the folder
    read at any moment: readers see the shards that the index names.

    One thread writes; the caller waits for it (`append`), or computes the next shard meanwhile (`append_behind`).
    """

    def __init__(self, folder: Path, model: str, widths: dict[Key, int], dtype: str) -> None:
        """Open `folder`, made where it is missing.

        `model` is the fingerprint of the model, `widths` has the d_model of each (hook, read), `dtype`
        is the format on disk: float32, bfloat16 or float16. Shards of another model, other keys or
        another format are given up. Raises `UserError` for an unknown format, and for an index that
        cannot be read.
        """
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        self.folder, self.n = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        for left in [*folder.glob("shard-*.partial"), *folder.glob("index.json.partial")]:
            left.unlink()
        named = {f"{hook}@{read}": width for (hook, read), width in widths.items()}
        self.index = Index(model, dtype, named, {})
        if (folder / "index.json").exists():
            found = Index.load(folder)
            if replace(found, shards={}) == self.index:
                self.index = found
        self.index.save(folder)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Which of the next shards, by their keys, `append` will write."""
        numbers = range(self.n, self.n + len(keys))
        known = [self.index.shards.get(number) for number in numbers]
        other = [shard and shard.key != key for shard, key in zip(known, keys, strict=True)]
        same = other.index(True) if True in other else len(keys)
        return [
            i
            for i, (number, key) in enumerate(zip(numbers, keys, strict=True))
            if i >= same or not self._holds(number, key)
        ]

    def _holds(self, number: int, key: str) -> bool:
        """Whether the shard of that number is there, whole and with that key."""
        known = self.index.shards.get(number)
        return known is not None and known.key == key and shard_path(self.folder, number).is_file()

    def append(
        self,
        key: str,
        n_traces: int,
        work: Callable[[], Mapping[Key, Float[Tensor, "segment d_model"]]],
    ) -> None:
        """Write what `work` returns as the next shard, unless the index names that shard with the same `key`.

        Numbers are rounded once, here. Raises `UserError` where one of them is too large for the format.
        """
        self.append_behind(key, n_traces, work)
        self.settle()

    def append_behind(
        self,
        key: str,
        n_traces: int,
        work: Callable[[], Mapping[Key, Float[Tensor, "segment d_model"]]],
    ) -> None:
        """As `append`, but for the disk: `work` runs while the shard before is written, this one is after that.

        So one shard at most waits in memory. What goes wrong on disk is raised by the next shard that is
        computed, by `settle` or by `finish`. What `work` gave must not be changed afterwards.
        """
        number, self.n = self.n, self.n + 1
        if self._holds(number, key):
            return
        known = self.index.shards.get(number)
        if known is not None:
            # Its file is about to change, and after other content nothing can be told of the rest.
            self.settle()
            self._forget(lambda n: n == number if known.key == key else n >= number)
        tensors = self._checked(work())
        self.settle()
        self._writing = self._thread.submit(self._write, number, key, n_traces, tensors)

    def settle(self) -> None:
        """Wait until all is on disk; raises what went wrong there."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for what is being written, whatever came in between; nothing can be appended after it."""
        self._thread.shutdown()

    def _write(self, number: int, key: str, n_traces: int, tensors: dict[str, Tensor]) -> None:
        # The thread's part. The caller changes the index only while nothing is being written.
        path = shard_path(self.folder, number)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"key": key})
        _flush(partial)
        rows = len(next(iter(tensors.values())))
        shard = Shard(path.name, n_traces, rows, key, file_digest(partial))
        os.replace(partial, path)
        _flush(self.folder)
        self.index.shards[number] = shard
        self.index.save(self.folder)

    def finish(self) -> None:
        """Wait for the last shard, and remove what an earlier, longer collection left after it."""
        self.settle()
        self._forget(lambda n: n >= self.n)
        for path in self.folder.iterdir():
            number = shard_number(path.name)
            if number is not None and number >= self.n:
                path.unlink()

    def _forget(self, which: Callable[[int], bool]) -> None:
        gone = [n for n in self.index.shards if which(n)]
        for number in gone:
            del self.index.shards[number]
        if gone:
            self.index.save(self.folder)

    def _checked(self, values: Mapping[Key, Tensor]) -> dict[str, Tensor]:
        """The tensors by name, in the format on disk."""
        tensors = {f"{hook}@{read}": x for (hook, read), x in values.items()}
        widths = {name: x.shape[-1] for name, x in tensors.items()}
        if widths != self.index.widths or len({len(x) for x in tensors.values()}) != 1:
            shapes = {name: tuple(x.shape) for name, x in tensors.items()}
            raise UserError(
                f"A shard of {shapes} does not fit a store of widths {self.index.widths}: give one "
                "matrix [segment, d_model] for each, of the same segments."
            )
        return {name: self._rounded(name, x) for name, x in tensors.items()}

    def _rounded(self, name: str, x: Tensor) -> Tensor:
        rounded = x.to(DTYPES[self.index.dtype]).contiguous()
        if not torch.isfinite(rounded).all():
            raise UserError(
                f"Activations at {name} reach {float(x.abs().max()):.3g}, which {self.index.dtype} "
                "cannot hold: collect them as bfloat16 or float32."
            )
        return rounded


def _flush(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, outlast the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
