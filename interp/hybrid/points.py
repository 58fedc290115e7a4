"""Where the two models part along given traces, ready for the base to be asked again under edits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.models import Model, positions_of, widened
from interp.pairs import Pair
from interp.queries import KeyValues, key_values, logits_above, read_cached
from interp.texts import padded_for_both
from interp.types import Trace

N_PER_BATCH = 128


@dataclass(frozen=True)
class Points:
    """Positions of a batch of traces at which the next token is decided.

    Rows are traces, `trace` their places in the caller's list; a row's points stand at token `at`
    (token t decides token t + 1), padded to the longest row: `real` says which are points.
    `base_resid[layer]` and `thinking_resid` are the residual streams there, `target` the thinking
    model's greedy token, `written` the trace's own, `base_logits` what the unedited base says.
    """

    model: Model
    trace: Int[Tensor, " row"]
    at: Int[Tensor, "row query"]
    real: Bool[Tensor, "row query"]
    base_resid: dict[int, Float[Tensor, "row query d_model"]]
    thinking_resid: Float[Tensor, "row query d_model"]
    base_logits: Float[Tensor, "row query d_vocab"]
    target: Int[Tensor, "row query"]
    written: Int[Tensor, "row query"]
    seen: Bool[Tensor, "row query pos"]
    positions: Int[Tensor, "row query"]
    kv: KeyValues

    @property
    def differ(self) -> Bool[Tensor, "row query"]:
        """Points at which the greedy tokens of the two models differ."""
        return self.real & (self.base_logits.argmax(-1) != self.target)

    def logits(
        self, layer: int, resid: Float[Tensor, "row query d_model"]
    ) -> Float[Tensor, "row query d_vocab"]:
        """The base's logits with its residual stream at the points replaced, each point alone."""
        return logits_above(self.model, layer, resid, self.kv, self.seen, self.positions)

    def where(self, mask: Bool[Tensor, "row query"]) -> "Points | None":
        """The points that a mask says; rows without any are left out, None where none is left."""
        mask = mask & self.real
        rows = mask.any(1).nonzero()[:, 0]
        if not len(rows):
            return None
        mask = mask[rows]
        width = int(mask.sum(1).max())
        # Points first, in order, then as much padding as the row needs.
        index = mask.int().argsort(dim=1, descending=True, stable=True)[:, :width]

        def pick(x: Tensor) -> Tensor:
            x = x[rows]
            shape = (*index.shape, *x.shape[2:])
            return x.gather(1, index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand(shape))

        return Points(
            model=self.model,
            trace=self.trace[rows.cpu()],
            at=pick(self.at),
            real=mask.gather(1, index),
            base_resid={layer: pick(resid) for layer, resid in self.base_resid.items()},
            thinking_resid=pick(self.thinking_resid),
            base_logits=pick(self.base_logits),
            target=pick(self.target),
            written=pick(self.written),
            seen=pick(self.seen),
            positions=pick(self.positions),
            kv=[(k[rows], v[rows]) for k, v in self.kv],
        )


def select(points: Sequence[Points], masks: Sequence[Bool[Tensor, "row query"]]) -> list[Points]:
    """The points that the masks say, of every batch that has any."""
    found = [p.where(mask) for p, mask in zip(points, masks, strict=True)]
    return [p for p in found if p is not None]


def disagreements(points: Sequence[Points]) -> list[Points]:
    """The points at which the models differ; raises `UserError` where they never do."""
    found = select(points, [p.differ for p in points])
    if not found:
        raise UserError(
            "Base and thinking model choose the same token at every place of the traces to fit, so "
            "there is nothing to steer: choose a pair that differs."
        )
    return found


def entropy_threshold(points: Sequence[Points]) -> float:
    """The base's entropy, in nats, that tells disagreement from agreement with the best F1."""
    log_p = widened(torch.cat([p.base_logits[p.real] for p in points])).log_softmax(-1)
    differ = torch.cat([p.differ[p.real] for p in points])
    entropy, order = (-(log_p.exp() * log_p).sum(-1)).sort(descending=True)
    hits = differ[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1, device=hits.device) + hits[-1])
    return float(entropy[f1.argmax()])


@torch.no_grad()
def read_points(
    pair: Pair,
    traces: Sequence[Trace],
    layers: Sequence[int],
    thinking_layer: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Points]:
    """Both models read the traces, each after its own prompt; every generated token's position is a point.

    Traces are as the base reads them (`told_to`). No token is said that one of the models does not know.
    """
    sayable = pair.vocabulary.sayable
    order = sorted(range(len(traces)), key=lambda i: len(traces[i].tokens))
    found = []
    for begin in range(0, len(order), N_PER_BATCH):
        rows = order[begin : begin + N_PER_BATCH]
        part = [traces[i] for i in rows]
        read = padded_for_both(pair, part)
        ids, real = read["base"]
        base_resid, base_logits, cache = read_cached(pair.base, ids, real, layers)
        thinking_resid, thinking_logits, _ = read_cached(
            pair.thinking, *read["thinking"], [thinking_layer]
        )
        place = torch.arange(ids.shape[1], device=ids.device)
        shift = ids.shape[1] - torch.tensor([len(t.tokens) for t in part], device=ids.device)
        first = shift + torch.tensor([t.n_prompt for t in part], device=ids.device) - 1
        every = Points(
            model=pair.base,
            trace=torch.tensor(rows),
            at=place - shift[:, None],
            real=(place >= first[:, None]) & (place < ids.shape[1] - 1),
            base_resid=base_resid,
            thinking_resid=thinking_resid[thinking_layer],
            base_logits=sayable(base_logits),
            target=sayable(thinking_logits).argmax(-1),
            written=torch.cat([ids[:, 1:], ids[:, :1]], 1),
            seen=(place < place[:, None]) & real[:, None],
            positions=positions_of(real),
            kv=key_values(cache),
        )
        found += select([every], [every.real])
        advance(len(part))
    return found
