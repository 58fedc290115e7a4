"""Where activations are read, and one forward that pools them inside the hooks."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from interp.errors import UserError
from interp.layout import packed, padded
from interp.models import Model, frame_of
from interp.types import Segment, Trace

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
READS = ("before", "first", "mean", "-13:-8")


def hook_name(site: str, layer: int) -> str:
    """`blocks.2.hook_resid_post` for `("resid_post", 2)`; raises `UserError` for another site."""
    if site not in SITES:
        raise UserError(f"Unknown site {site!r}: choose one of {', '.join(SITES)}.")
    return f"blocks.{layer}.hook_{site}"


def read_span(read: str, start: int, end: int) -> tuple[int, int]:
    """The token span [from, to) that a read position pools, for a segment [start, end).

    `before`: the token that predicts the segment's first. `first`: the first token. `mean`: from
    one before the start to the end (Venhoff et al. 2510.07364). `"a:b"`: tokens start+a to start+b,
    both included, cut at the beginning of the text (Ward et al. 2507.12638 read -13 to -8).
    """
    if read == "before":
        return start - 1, start
    if read == "first":
        return start, start + 1
    if read == "mean":
        return start - 1, end
    try:
        low, high = (int(part) for part in read.split(":"))
    except ValueError:
        raise UserError(
            f"Unknown read position {read!r}: choose before, first, mean, or a window of token "
            "offsets such as -13:-8."
        ) from None
    if low > high:
        raise UserError(f"Window {read!r} is empty: its first offset must not exceed its last.")
    return max(0, start + low), max(0, start + high) + 1


@torch.no_grad()
def pool_batch(
    model: Model,
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    hooks: Sequence[str],
    reads: Sequence[str],
) -> dict[tuple[str, str], Float[Tensor, "segment d_model"]]:
    """One forward over the traces; only means over read spans ever leave a hook, in float32.

    It makes no logits, and unless there are other hooks it reads a beginning that texts have in common once
    where that saves work, and ends with the last block that is read. Raises `UserError` where a span lies
    outside of its trace.
    """
    alone, texts = not model.bridge.list_hooks(), [trace.tokens for trace in traces]
    layout = (packed(model, texts) if alone else None) or padded(model, texts)
    n_segments = sum(map(len, segments))
    spans = [
        _span(read, part, text)
        for read in reads
        for text, parts in zip(layout.places, segments, strict=True)
        for part in parts
    ]
    places = torch.tensor([x for span in spans for x in span], dtype=torch.long).to(model.device)
    lengths = torch.tensor([len(span) for span in spans], dtype=torch.long).to(model.device)
    begins = lengths.cumsum(0) - lengths
    pooled: dict[tuple[str, str], Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(resid: Float[Tensor, "batch pos d_model"], hook=None) -> None:
            # Sums rows as it reads them: what is gathered is never copied.
            at, first, counts = (x.to(resid.device) for x in (places, begins, lengths))
            total = embedding_bag(at, resid.flatten(0, 1).float(), first, mode="sum")
            means = on_host(total / counts[:, None]).unflatten(0, (len(reads), n_segments))
            pooled.update(((name, read), rows) for read, rows in zip(reads, means, strict=True))
            if alone and len(pooled) == len(hooks) * len(reads):
                raise _AllRead

        return hook

    seen = nullcontext()
    if not alone:  # interventions edit where they would while the trace is generated
        ids, until = layout.inputs["input_ids"], torch.tensor([len(text) for text in texts])
        real = torch.arange(ids.shape[1]) < until[:, None]
        decided = torch.tensor([t.n_prompt - 1 for t in traces])
        seen = model.framed(frame_of(model, ids, real.to(ids.device), decided))
    reading = model.bridge.hooks(fwd_hooks=[(name, keep(name)) for name in hooks])
    with seen, reading, suppress(_AllRead):
        model.hf.base_model(**layout.inputs, use_cache=False)
    if model.device.type == "cuda":
        for device in range(torch.cuda.device_count()):  # copies are underway until here
            torch.cuda.synchronize(device)
    return pooled


def on_host(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A copy on the host; from a GPU without waiting for it, so it holds nothing before it is synchronized."""
    if values.device.type != "cuda":
        return values.cpu()
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return pinned.copy_(values, non_blocking=True)


class _AllRead(Exception):
    """Ends a forward pass of which nothing more is needed."""


def _span(read: str, part: Segment, places: Sequence[int]) -> Sequence[int]:
    """Where a read span's tokens are, of its text's `places`."""
    low, high = read_span(read, part.start, part.end)
    found = places[max(0, low) : high]
    beyond = ":" not in read and high > len(places)  # a window is cut where the text ends
    if low < 0 or beyond or not found:
        raise UserError(
            f"Read position {read!r} of the segment at tokens {part.start} to {part.end} lies outside of its "
            f"trace of {len(places)} tokens: choose another position, or leave the segment out."
        )
    return found
