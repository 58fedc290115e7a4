"""What arms did on problems: generated shard by shard, kept as JSON, read back as arrays."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.engine import Engine
from interp.hybrid.decode import Arm, Decoded
from interp.hybrid.writing import Writer
from interp.runs import content_key, read_json, write_json
from interp.setup import Setup
from interp.types import Problem, Trace

SHARD = 512
FIELDS = (
    "correct", "stopped", "n_prompt", "n_tokens", "steered", "changed", "eligible", "edited", "passes",
)  # fmt: skip
Write = Callable[[Sequence[Problem]], tuple[list[Trace], list[Decoded]]]
"""Writes a graded trace for each problem, and says what was done in it."""


@dataclass(frozen=True)
class Outcome:
    """One arm on the problems with one seed: a number for each problem, wall time in seconds.

    `rows` are the decoded rows, where these were kept.
    """

    numbers: dict[str, Float[np.ndarray, " problem"]]
    seconds: float
    rows: list[Decoded] | None = None

    def __getitem__(self, field: str) -> Float[np.ndarray, " problem"]:
        return self.numbers[field]


def numbers_of(traces: Sequence[Trace], rows: Sequence[Decoded]) -> dict[str, list[float]]:
    """`FIELDS` of each row."""
    found: dict[str, list[float]] = {field: [] for field in FIELDS}
    for trace, row in zip(traces, rows, strict=True):
        values = (
            trace.correct,
            trace.stopped,
            trace.n_prompt,
            len(row.tokens),
            sum(c >= 0 for c in row.steered),
            sum(row.changed),
            row.eligible,
            row.edited,
            row.passes,
        )
        for field, value in zip(FIELDS, values, strict=True):
            found[field].append(float(value))
    return found


@dataclass(frozen=True, eq=False)
class Asked:
    """An outcome that is wanted: its name and seed, and `make`, which says how traces are written.

    Nothing is made where the outcome is there already. With `keep_rows`, decoded rows are kept.
    """

    name: str
    seed: int
    make: Callable[[], Write]
    keep_rows: bool = False


class Bench:
    """Runs arms on one split's problems. `folder` keeps every finished shard of every arm."""

    def __init__(
        self, writer: Writer, problems: Sequence[Problem], folder: Path, engine: Engine
    ) -> None:
        self.writer, self.problems = writer, list(problems)
        self.folder, self.engine = folder, engine
        self._begins = range(0, len(self.problems), SHARD)

    @classmethod
    def of(cls, setup: Setup, split: str, folder: Path, limit: int | None = None) -> "Bench":
        """For one split of a run, or its first problems."""
        return cls(Writer.of(setup), setup.splits[split][:limit], folder, setup.engine)

    def arm(self, name: str, seed: int, make: Callable[[], Arm], keep_rows: bool = False) -> Asked:
        """An arm's outcome with one seed."""
        return Asked(name, seed, lambda: partial(self.writer.decode, make(), seed), keep_rows)

    def outcomes(
        self, asked: Sequence[Asked], advance: Callable[[int], None] = lambda n: None
    ) -> list[Outcome]:
        """All that is asked, in order; shards that are there already are not written again.

        Arms are made here, one after the other, while those before are being written.
        """
        missing = [
            (one, begin)
            for one in asked
            for begin in self._begins
            if not self._path(one, begin).exists()
        ]
        written, found = self.engine.map_shards(_written, self._shards(missing)), []
        wanted = set(missing)
        for one in asked:
            for begin in self._begins:
                if (one, begin) in wanted:
                    write_json(self._path(one, begin), {"arm": one.name, **next(written)})
            found.append(self._read(one))
            advance(1)
        return found

    def _path(self, one: Asked, begin: int) -> Path:
        return self.folder / f"{content_key(one.name)}-{one.seed}-{begin // SHARD}.json"

    def _shards(
        self, missing: Sequence[tuple[Asked, int]]
    ) -> Iterator[tuple[Write, list[Problem], bool]]:
        made: dict[Asked, Write] = {}
        for one, begin in missing:
            if one not in made:
                made = {one: one.make()}
            yield made[one], self.problems[begin : begin + SHARD], one.keep_rows

    def _read(self, one: Asked) -> Outcome:
        parts = [read_json(self._path(one, begin)) for begin in self._begins]
        rows = [Decoded(*row) for part in parts for row in part.get("rows", [])]
        return Outcome(
            {field: np.array([v for part in parts for v in part[field]]) for field in FIELDS},
            sum(part["seconds"] for part in parts),
            rows if one.keep_rows else None,
        )


def _written(shard: tuple[Write, list[Problem], bool]) -> dict:
    """What a shard's file holds, but for its name."""
    write, problems, keep_rows = shard
    start = time.perf_counter()
    traces, rows = write(problems)
    found = {"seconds": time.perf_counter() - start, **numbers_of(traces, rows)}
    if keep_rows:
        found["rows"] = [[r.tokens, r.steered, r.changed] for r in rows]
    return found
