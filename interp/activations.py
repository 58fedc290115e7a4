"""Segment activations: pooled batch by batch, streamed to disk."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.models import Model
from interp.pooling import READS, hook_name, pool_batch
from interp.runs import content_key
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
    """

    values: dict[tuple[str, str], Float[Tensor, "segment d_model"]]
    labels: np.ndarray
    previous: np.ndarray
    groups: np.ndarray
    trace_index: np.ndarray
    segment_index: np.ndarray
    model: str

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
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
        keep = torch.from_numpy(mask)
        return ActivationStore(
            {key: values[keep] for key, values in self.values.items()},
            self.labels[mask],
            self.previous[mask],
            self.groups[mask],
            self.trace_index[mask],
            self.segment_index[mask],
            self.model,
        )


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04d}.safetensors"


def _part_key(model, traces, segments, hooks, reads) -> str:
    spans = [[(s.start, s.end) for s in parts] for parts in segments]
    tokens = [trace.tokens for trace in traces]
    text = json.dumps([model.fingerprint, tokens, spans, list(hooks), list(reads)])
    return hashlib.sha256(text.encode()).hexdigest()


def _is_current(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("key") == key


def _pool_shard(
    model: Model,
    hooks: Sequence[str],
    reads: Sequence[str],
    shard: tuple[Sequence[Trace], Sequence[Sequence[Segment]]],
) -> dict[tuple[str, str], Tensor]:
    return pool_batch(model, *shard, hooks, reads)


def collect(
    model: Model,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    folder: Path | None = None,
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = ("resid_post",),
    reads: Sequence[str] = READS,
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda n: None,
    engine: Engine = HERE,
) -> ActivationStore:
    """Pool the residual stream at every segment and stream it to `folder`, one file per batch.

    Without a folder, the answer alone is kept. Layers default to all. A collection that was
    interrupted goes on at the first missing shard.
    Raises `UserError` where there are no segments, where a layer does not exist and where an
    activation is not finite.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return collect(
                model, traces, segments, Path(temporary), layers=layers, sites=sites, reads=reads,
                batch_size=batch_size, advance=advance, engine=engine,
            )  # fmt: skip
    wanted = range(model.n_layers) if layers is None else layers
    chosen = [model.check_layer(layer) for layer in wanted]
    hooks = [hook_name(site, layer) for site in sites for layer in chosen]
    if not hooks or not reads:
        raise UserError(
            f"Nothing to read at {len(chosen)} layers, {len(sites)} sites and {len(reads)} read "
            "positions: choose at least one of each."
        )
    if not any(len(parts) for parts in segments):
        raise UserError("There are no segments to read: give at least one trace with text.")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [slice(begin, begin + batch_size) for begin in range(0, len(traces), batch_size)]
    keys = [_part_key(model, traces[p], segments[p], hooks, reads) for p in parts]
    missing = [n for n, k in enumerate(keys) if not _is_current(_shard_path(folder, n), k)]
    shards = [(traces[parts[n]], segments[parts[n]]) for n in missing]
    made = engine.map_shards(partial(_pool_shard, model, hooks, reads), shards)
    for number, (part, key) in enumerate(zip(parts, keys, strict=True)):
        if number in missing:
            path, pooled = _shard_path(folder, number), next(made)
            for (hook, read), values in pooled.items():
                if not torch.isfinite(values).all():
                    raise UserError(
                        f"Activations at {hook}@{read} of {model.name} are not finite: "
                        "check the weights or load the model in float32."
                    )
            unfinished = path.with_suffix(".partial")
            tensors = {f"{hook}@{read}": v.contiguous() for (hook, read), v in pooled.items()}
            save_file(tensors, unfinished, metadata={"key": key})
            unfinished.rename(path)
        advance(len(traces[part]))
    for stale in sorted(folder.glob("shard-*.safetensors"))[number + 1 :]:
        stale.unlink()
    return load_store(folder, traces, segments, model.name)


def load_store(
    folder: Path,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    model_name: str,
) -> ActivationStore:
    """Read the shards of `collect` back, joined with the segments' labels and problems."""
    parts: dict[tuple[str, str], list[Tensor]] = {}
    for path in sorted(folder.glob("shard-*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                hook, read = key.split("@")
                parts.setdefault((hook, read), []).append(file.get_tensor(key))
    rows = [(t, s) for t, found in enumerate(segments) for s in range(len(found))]
    labels = [segments[t][s].behavior or "" for t, s in rows]
    previous = [before for found in segments for before in previous_behaviors(found)]
    return ActivationStore(
        values={key: torch.cat(values) for key, values in parts.items()},
        labels=np.array(labels),
        previous=np.array(previous),
        groups=np.array([traces[t].problem_id for t, _ in rows]),
        trace_index=np.array([t for t, _ in rows]),
        segment_index=np.array([s for _, s in rows]),
        model=model_name,
    )
