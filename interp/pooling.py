"""Where activations are read, and one forward that pools them inside the hooks."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.models import Model, left_pad, positions_of
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
    """One forward over the traces; only pooled rows ever leave a hook."""
    ids, real = left_pad(
        [trace.tokens for trace in traces], model.tokenizer.pad_token_id or 0, model.device
    )
    width = ids.shape[1]
    spans: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for read in reads:
        rows, begins, ends = [], [], []
        for row, (trace, parts) in enumerate(zip(traces, segments, strict=True)):
            shift = width - len(trace.tokens)
            for part in parts:
                low, high = read_span(read, part.start, part.end)
                rows.append(row)
                begins.append(low + shift)
                ends.append(min(high, len(trace.tokens)) + shift)
        if any(low >= high for low, high in zip(begins, ends, strict=True)):
            raise UserError(
                f"Read position {read!r} lies past the end of a trace: choose an earlier window."
            )
        at = [torch.tensor(x, device=model.device) for x in (rows, begins, ends)]
        spans[read] = (at[0], at[1], at[2])
    pooled: dict[tuple[str, str], Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(resid: Float[Tensor, "batch pos d_model"], hook=None) -> None:
            for read, (rows, begins, ends) in spans.items():
                lengths = ends - begins
                total = torch.zeros(len(rows), resid.shape[-1], device=resid.device)
                # One gather per offset in the longest span: no copy larger than the answer.
                for offset in range(int(lengths.max()) if len(lengths) else 0):
                    inside = offset < lengths
                    total[inside] += resid[rows[inside], begins[inside] + offset].float()
                pooled[name, read] = (total / lengths[:, None]).cpu()

        return hook

    with model.bridge.hooks(fwd_hooks=[(name, keep(name)) for name in hooks]):
        model.bridge(
            ids, return_type=None, attention_mask=real.long(), position_ids=positions_of(real)
        )
    return pooled
