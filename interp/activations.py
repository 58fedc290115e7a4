"""Segment activations: pooled batch by batch, streamed to disk."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activation_writer import ActivationWriter, part_key
from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.models import Model
from interp.pooling import READS
from interp.runs import content_key
from interp.shards import Key, Shards, no_activations
from interp.types import Segment, Trace


def previous_behaviors(segments: Sequence[Segment]) -> list[str]:
    """The behavior of the segment before each of one trace's: "start" at first, "" where none fits."""
    return ["start", *(segment.behavior or "" for segment in segments)][: len(segments)]


@dataclass(frozen=True)
class ActivationStore:
    """Pooled activations of all segments of some traces, one matrix per (hook, read position).

    Row i belongs to segment `segment_index[i]` of trace `trace_index[i]`, with behavior
    `labels[i]` ("" where none fits) and problem `groups[i]`; `previous[i]` is the behavior of the
    segment before it in the trace.

    `values` are tensors in memory, or `Shards` that read one matrix when it is asked for.
    """

    values: Mapping[Key, Float[Tensor, "segment d_model"]]
    labels: np.ndarray
    previous: np.ndarray
    groups: np.ndarray
    trace_index: np.ndarray
    segment_index: np.ndarray
    model: str

    def __getitem__(self, key: Key) -> np.ndarray:
        """The matrix [segment, d_model] of one hook name and read position."""
        if key not in self.values:
            raise no_activations(key, self.values)
        return self.values[key].numpy()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def split_key(self) -> str:
        """A short name for the set of its problems: what a direction fitted on them states."""
        return content_key(sorted(set(self.groups.tolist())))

    def rows(self, mask: np.ndarray) -> "ActivationStore":
        """The segments that a boolean mask says."""
        return ActivationStore(
            Lazy(tuple(self.values), partial(_rows, self.values, torch.from_numpy(mask))),
            self.labels[mask],
            self.previous[mask],
            self.groups[mask],
            self.trace_index[mask],
            self.segment_index[mask],
            self.model,
        )


Name = TypeVar("Name")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Lazy(Mapping[Name, Value]):
    """Values made each time they are asked for: of many matrices one is in memory."""

    names: Sequence[Name]
    make: Callable[[Name], Value]

    def __getitem__(self, name: Name) -> Value:
        if name not in self.names:
            raise KeyError(name)
        return self.make(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names  # the inherited one would make it

    def __iter__(self) -> Iterator[Name]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _rows(values: Mapping[Key, Tensor], keep: Tensor, key: Key) -> Tensor:
    return values[key][keep]


def collect(
    model: Model,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    folder: Path | None = None,
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = ("resid_post",),
    reads: Sequence[str] = READS,
    dtype: str = "float32",
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
    engine: Engine = HERE,
) -> ActivationStore:
    """Pool the residual stream at every segment and stream it to `folder`, one file per batch.

    Without a folder, the answer alone is kept, in memory. Layers default to all. Numbers are
    computed in float32 and rounded once to `dtype` (float32, bfloat16, float16) on disk. A
    collection that was interrupted goes on at the first missing shard.
    Raises `UserError` where there are no segments, where a layer does not exist, where an
    activation is not finite, and for a folder while the model is hooked or edited.
    """
    if folder is not None and model.bridge.list_hooks():
        raise UserError(
            f"Activations of {model.name} were to be kept in {str(folder)!r} while it is hooked or edited, which "
            "their files could not tell: leave the folder out, and the answer is kept in memory."
        )
    if not any(len(parts) for parts in segments):
        raise UserError("There are no segments to read: give at least one trace with text.")
    asked = {"layers": layers, "sites": sites, "reads": reads, "dtype": dtype}
    parts = [slice(begin, begin + batch_size) for begin in range(0, len(traces), batch_size)]
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        with ActivationWriter(model, Path(place), **asked) as writer:
            writer.append_all([(traces[p], segments[p]) for p in parts], advance, engine)
        store = load_store(Path(place), traces, segments, model.name)
        return replace(store, values=dict(store.values)) if folder is None else store


def load_store(
    folder: Path,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    model_name: str,
) -> ActivationStore:
    """Join what `collect` or an `ActivationWriter` left in `folder` with the segments' labels and problems.

    Matrices stay on disk until they are asked for. Of a store that still grows, give the first
    `Shards(folder).n_traces` traces. Raises `UserError` where the shards were not collected from
    these traces and segments, in this order, or a file is damaged.
    """
    shards = Shards(folder)
    shards.verify()
    begin = 0
    for shard in shards.shards:
        part = slice(begin, begin + shard.traces)
        own = part_key(shards.index.model, traces[part], segments[part], shards, shards.index.dtype)
        if own != shard.key:
            raise UserError(
                f"{shard.file} in {str(folder)!r} was not collected from traces {begin} to "
                f"{part.stop - 1} as they are given: give the traces and segments of the "
                "collection, in its order, or collect again."
            )
        begin = part.stop
    if begin != len(traces):
        raise UserError(
            f"{str(folder)!r} holds the activations of {begin} traces and {len(traces)} are given: "
            "give the same traces, or collect the rest first."
        )
    rows = [(t, s) for t, found in enumerate(segments) for s in range(len(found))]
    labels = [segments[t][s].behavior or "" for t, s in rows]
    previous = [before for found in segments for before in previous_behaviors(found)]
    return ActivationStore(
        values=shards,
        labels=np.array(labels),
        previous=np.array(previous),
        groups=np.array([traces[t].problem_id for t, _ in rows]),
        trace_index=np.array([t for t, _ in rows]),
        segment_index=np.array([s for _, s in rows]),
        model=model_name,
    )
