"""Segment activations: pooled batch by batch, streamed to disk."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.models import Model
from interp.pooling import READS, hook_name, pool_batch, read_span
from interp.runs import content_key
from interp.shard_writer import ShardWriter
from interp.shards import Key, Shards
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
            known = ", ".join(f"{hook}@{read}" for hook, read in self.values)
            raise UserError(f"No activations for {key[0]}@{key[1]}: this store holds {known}.")
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
            _Rows(self.values, torch.from_numpy(mask)),
            self.labels[mask],
            self.previous[mask],
            self.groups[mask],
            self.trace_index[mask],
            self.segment_index[mask],
            self.model,
        )


@dataclass(frozen=True)
class _Rows(Mapping[Key, Tensor]):
    """Some rows of other matrices, taken when they are asked for."""

    whole: Mapping[Key, Tensor]
    keep: Tensor

    def __getitem__(self, key: Key) -> Tensor:
        return self.whole[key][self.keep]

    def __contains__(self, key: object) -> bool:
        return key in self.whole

    def __iter__(self) -> Iterator[Key]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)


def _part_key(
    fingerprint: str,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    keys: Iterable[Key],
    dtype: str,
) -> str:
    """Names what a shard holds: another model, text, span, key or format is another shard."""
    spans = [[(s.start, s.end) for s in parts] for parts in segments]
    tokens = [trace.tokens for trace in traces]
    text = json.dumps([fingerprint, tokens, spans, list(keys), dtype])
    return hashlib.sha256(text.encode()).hexdigest()


class ActivationWriter:
    """Pools traces batch by batch into a folder, so that traces may come while others are generated.

    Each `append` is one forward and one shard. `Shards(folder)` reads what is complete at any time.
    After a kill, append the same batches again: those that are there cost nothing.

        with ActivationWriter(model, folder, dtype="bfloat16") as writer:
            for problems in batches:
                traces = generate(model, problems)
                writer.append(traces, segment_all(model, traces))
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        *,
        layers: Sequence[int] | None = None,
        sites: Sequence[str] = ("resid_post",),
        reads: Sequence[str] = READS,
        dtype: str = "float32",
    ) -> None:
        """Open `folder` for all layers or those given; numbers on disk are float32, bfloat16 or float16.

        Raises `UserError` where a layer, a site or a format does not exist, and for nothing to read.
        """
        wanted = range(model.n_layers) if layers is None else layers
        chosen = [model.check_layer(layer) for layer in wanted]
        self.hooks = [hook_name(site, layer) for site in sites for layer in chosen]
        if not self.hooks or not reads:
            raise UserError(
                f"Nothing to read at {len(chosen)} layers, {len(sites)} sites and {len(reads)} read "
                "positions: choose at least one of each."
            )
        self.model, self.reads, self.dtype = model, reads, dtype
        self.keys = [(hook, read) for hook in self.hooks for read in reads]
        for read in reads:
            read_span(read, 0, 1)  # an unknown one is told before anything is written
        widths = dict.fromkeys(self.keys, model.d_model)
        self._shards = ShardWriter(folder, model.fingerprint, widths, dtype)

    def append(self, traces: Sequence[Trace], segments: Sequence[Sequence[Segment]]) -> None:
        """Pool one batch of traces, unless it is there. Raises `UserError` for numbers that are not finite."""

        def pooled() -> dict[Key, Tensor]:
            found = pool_batch(self.model, traces, segments, self.hooks, self.reads)
            for (hook, read), values in found.items():
                if not torch.isfinite(values).all():
                    raise UserError(
                        f"Activations at {hook}@{read} of {self.model.name} are not finite: "
                        "check the weights or load the model in float32."
                    )
            return found

        key = _part_key(self.model.fingerprint, traces, segments, self.keys, self.dtype)
        self._shards.append(key, len(traces), pooled)

    def __enter__(self) -> "ActivationWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Remove what an earlier, longer collection left, once all batches are there."""
        if kind is None:
            self._shards.finish()


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
) -> ActivationStore:
    """Pool the residual stream at every segment and stream it to `folder`, one file per batch.

    Without a folder, the answer alone is kept, in memory. Layers default to all. Numbers are
    computed in float32 and rounded once to `dtype` (float32, bfloat16, float16) on disk. A
    collection that was interrupted goes on at the first missing shard.
    Raises `UserError` where there are no segments, where a layer does not exist and where an
    activation is not finite.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            store = collect(
                model, traces, segments, Path(temporary), layers=layers, sites=sites, reads=reads,
                dtype=dtype, batch_size=batch_size, advance=advance,
            )  # fmt: skip
            return replace(store, values=dict(store.values))
    if not any(len(parts) for parts in segments):
        raise UserError("There are no segments to read: give at least one trace with text.")
    asked = {"layers": layers, "sites": sites, "reads": reads, "dtype": dtype}
    with ActivationWriter(model, folder, **asked) as writer:
        for begin in range(0, len(traces), batch_size):
            part = slice(begin, begin + batch_size)
            writer.append(traces[part], segments[part])
            advance(len(traces[part]))
    return load_store(folder, traces, segments, model.name)


def load_store(
    folder: Path,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    model_name: str,
) -> ActivationStore:
    """Join what `collect` or an `ActivationWriter` left in `folder` with the segments' labels and problems.

    Matrices stay on disk until they are asked for. Of a store that still grows, give the first
    `Shards(folder).n_traces` traces. Raises `UserError` where the shards were not collected from
    these traces and segments, in this order.
    """
    shards = Shards(folder)
    begin = 0
    for shard in shards.shards:
        part = slice(begin, begin + shard.traces)
        own = _part_key(
            shards.index.model, traces[part], segments[part], shards, shards.index.dtype
        )
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
