"""Pooled activations written while traces are still being made."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from interp.errors import UserError
from interp.models import Model
from interp.pooling import READS, hook_name, pool_batch, read_span
from interp.shard_writer import ShardWriter
from interp.shards import Key
from interp.types import Segment, Trace


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

        key = part_key(self.model.fingerprint, traces, segments, self.keys, self.dtype)
        self._shards.append(key, len(traces), pooled)

    def __enter__(self) -> "ActivationWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Remove what an earlier, longer collection left, once all batches are there."""
        if kind is None:
            self._shards.finish()


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
    text = json.dumps([fingerprint, tokens, spans, list(keys), dtype])
    return hashlib.sha256(text.encode()).hexdigest()
