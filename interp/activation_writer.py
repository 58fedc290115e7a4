"""Pooled activations written while traces are still being made."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.models import Model
from interp.pooling import READS, hook_name, pool_batch, read_span
from interp.runs import content_key
from interp.shard_writer import ShardWriter
from interp.shards import Key
from interp.types import Segment, Trace

Batch = tuple[Sequence[Trace], Sequence[Sequence[Segment]]]
"""Some traces, and the segments of each."""


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
        self._shards = ShardWriter(folder, model.numbers, widths, dtype)

    def append(self, traces: Sequence[Trace], segments: Sequence[Sequence[Segment]]) -> None:
        """Pool one batch of traces, unless it is there. Raises `UserError` for numbers that are not finite."""
        self.append_all([(traces, segments)])

    def append_all(
        self,
        batches: Sequence[Batch],
        advance: Callable[[int], None] = lambda n: None,
        engine: Engine = HERE,
    ) -> None:
        """Pool batches of traces as shards of work, those that are there excepted, and write them in order.

        One is written while the next is computed; all are on disk in the end.
        """
        keys = [part_key(self.model.numbers, *batch, self.keys, self.dtype) for batch in batches]
        work = partial(_pooled, self.model, self.hooks, self.reads)
        made = engine.map_shards(work, [batches[n] for n in self._shards.missing(keys)])
        for key, (traces, _) in zip(keys, batches, strict=True):
            self._shards.append_behind(key, len(traces), made.__next__)
            advance(len(traces))
        self._shards.settle()

    def __enter__(self) -> "ActivationWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Remove what an earlier, longer collection left, once all batches are there."""
        try:
            if kind is None:
                self._shards.finish()
        finally:  # also what was computed before an error, or Ctrl-C, is kept
            self._shards.close()


def _pooled(
    model: Model, hooks: Sequence[str], reads: Sequence[str], batch: Batch
) -> dict[Key, Tensor]:
    found = pool_batch(model, *batch, hooks, reads)
    for (hook, read), values in found.items():
        if not torch.isfinite(values).all():
            raise UserError(
                f"Activations at {hook}@{read} of {model.name} are not finite: "
                "check the weights or load the model in float32."
            )
    return found


def part_key(
    fingerprint: str,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    keys: Iterable[Key],
    dtype: str,
) -> str:
    """Names what a shard holds: another model, text, span, key or format is another shard."""
    spans = [[(s.start, s.end) for s in parts] for parts in segments]
    tokens = [trace.tokens for trace in traces]
    return content_key(fingerprint, tokens, spans, list(keys), dtype)
