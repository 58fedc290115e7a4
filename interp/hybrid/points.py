"""Where the two models part along given traces, ready for the base to be asked again under edits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.layout import batches
from interp.lens import MAX_LOGITS, lens, parts
from interp.models import Model, positions_of, widened
from interp.pairs import Pair
from interp.queries import KeyValues, key_values, logits_above, read_cached
from interp.texts import padded_for_both
from interp.types import Trace
from interp.vocabulary import Vocabulary

N_PER_BATCH = 128
MOST_LOGITS = 2 * MAX_LOGITS
"""Logits of a batch if the base were asked at all of its tokens; vectors are trained at a part of them."""


@dataclass(frozen=True)
class Points:
    """Positions of a batch of traces at which the next token is decided.

    Rows are traces, `trace` their places in the caller's list; a row's points stand at token `at`
    (token t decides token t + 1), padded to the longest row: `real` says which are points.
    `base_resid[layer]` and `thinking_resid` are the residual streams there, `target` the thinking
    model's greedy token, `written` the trace's own. Of the unedited base, `base_token` is the greedy one,
    `base_entropy` its entropy and `base_loss` its cross-entropy at `written`, both in nats.
    """

    model: Model
    vocabulary: Vocabulary
    trace: Int[Tensor, " row"]
    at: Int[Tensor, "row query"]
    real: Bool[Tensor, "row query"]
    base_resid: dict[int, Float[Tensor, "row query d_model"]]
    thinking_resid: Float[Tensor, "row query d_model"]
    base_token: Int[Tensor, "row query"]
    base_entropy: Float[Tensor, "row query"]
    base_loss: Float[Tensor, "row query"]
    target: Int[Tensor, "row query"]
    written: Int[Tensor, "row query"]
    seen: Bool[Tensor, "row query pos"]
    positions: Int[Tensor, "row query"]
    kv: KeyValues

    @property
    def differ(self) -> Bool[Tensor, "row query"]:
        """Points at which the greedy tokens of the two models differ."""
        return self.real & (self.base_token != self.target)

    def base_logits(self) -> Float[Tensor, "n d_vocab"]:
        """What the unedited base says at the points, one row after the other."""
        last = self.base_resid[self.model.n_layers - 1]
        return self.vocabulary.sayable(lens(self.model, last[self.real]))

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
            vocabulary=self.vocabulary,
            trace=self.trace[rows.cpu()],
            at=pick(self.at),
            real=mask.gather(1, index),
            base_resid={layer: pick(resid) for layer, resid in self.base_resid.items()},
            thinking_resid=pick(self.thinking_resid),
            base_token=pick(self.base_token),
            base_entropy=pick(self.base_entropy),
            base_loss=pick(self.base_loss),
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
    differ = torch.cat([p.differ[p.real] for p in points])
    entropy, order = torch.cat([p.base_entropy[p.real] for p in points]).sort(descending=True)
    hits = differ[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1, device=hits.device) + hits[-1])
    return float(entropy[f1.argmax()])


@torch.no_grad()
def read_points(
    pair: Pair,
    traces: Sequence[Trace],
    layers: Sequence[int],
    thinking_layer: int,
    keep: Callable[[Points], Bool[Tensor, "row query"]] = lambda points: points.real,
) -> list[Points]:
    """Both models read the traces, each after its own prompt; every generated token's position is a point.

    Of each batch the points that `keep` says stay in memory. Traces are as the base reads them (`told_to`).
    No token is said that one of the models does not know.
    """
    last, thinking_last = (m.n_layers - 1 for m in (pair.base, pair.thinking))
    n_tokens = MOST_LOGITS // pair.base.bridge.cfg.d_vocab
    found = []
    for rows in batches([len(t.tokens) for t in traces], n_tokens, N_PER_BATCH):
        part = [traces[i] for i in rows]
        read = padded_for_both(pair, part)
        ids, real = read["base"]
        base_resid, cache = read_cached(pair.base, ids, real, sorted({*layers, last}))
        thinking_resid, _ = read_cached(
            pair.thinking, *read["thinking"], sorted({thinking_layer, thinking_last})
        )
        place = torch.arange(ids.shape[1], device=ids.device)
        shift = ids.shape[1] - torch.tensor([len(t.tokens) for t in part], device=ids.device)
        first = shift + torch.tensor([t.n_prompt for t in part], device=ids.device) - 1
        points = (place >= first[:, None]) & (place < ids.shape[1] - 1)
        written = torch.cat([ids[:, 1:], ids[:, :1]], 1)
        said = _said(pair, base_resid[last], thinking_resid[thinking_last], written, points)
        every = Points(
            model=pair.base,
            vocabulary=pair.vocabulary,
            trace=torch.tensor(rows),
            at=place - shift[:, None],
            real=points,
            base_resid=base_resid,
            thinking_resid=thinking_resid[thinking_layer],
            written=written,
            **said,
            seen=(place < place[:, None]) & real[:, None],
            positions=positions_of(real),
            kv=key_values(cache),
        )
        found += select([every], [keep(every)])
    return found


def _said(
    pair: Pair,
    base: Float[Tensor, "row pos d_model"],
    thinking: Float[Tensor, "row pos d_model"],
    written: Int[Tensor, "row pos"],
    points: Bool[Tensor, "row pos"],
) -> dict[str, Tensor]:
    """What `Points` keeps of both models' logits, from their last residual streams; 0 where no point is."""
    vocabulary, at = pair.vocabulary, points.nonzero(as_tuple=True)
    ints, floats = torch.zeros_like(written), base.new_zeros(written.shape)
    found = {
        "target": ints,
        "base_token": ints.clone(),
        "base_entropy": floats,
        "base_loss": floats.clone(),
    }
    for part in parts(len(at[0]), pair.base.bridge.cfg.d_vocab):
        here = tuple(index[part] for index in at)
        said = vocabulary.sayable(lens(pair.base, base[here]))
        log_p = widened(said).log_softmax(-1)
        found["target"][here] = vocabulary.sayable(lens(pair.thinking, thinking[here])).argmax(-1)
        found["base_token"][here] = said.argmax(-1)
        found["base_entropy"][here] = -(log_p.exp() * log_p).sum(-1)
        found["base_loss"][here] = -log_p.gather(-1, written[here][:, None])[:, 0]
    return found
