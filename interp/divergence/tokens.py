"""How far two models' next-token distributions part, token by token, at the cost of two forwards."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine import HERE, Engine
from interp.layout import batches
from interp.lens import final_states, parts, unembed
from interp.pairs import Pair
from interp.texts import padded_for_both
from interp.types import Trace
from interp.vocabulary import Vocabulary

N_TOP = 5
"""How many of the likeliest tokens are kept."""
TOKENS = ("base_token", "thinking_token", "top_base", "top_thinking")
"""The fields of `TokenDivergence` that hold tokens."""
N_TOKENS = 1 << 12
"""Tokens of a batch, padding included."""


@dataclass(frozen=True)
class TokenDivergence:
    """What two models say of each generated token of one trace, before it is read.

    `kl_base_thinking` is KL(base||thinking), `kl_thinking_base` the other way, `js` the Jensen-Shannon
    divergence, entropies are each model's own; all in nats. `base_token` and `thinking_token` are the
    greedy ones, `rank_in_base` the rank of the thinking model's in the base (1 is the greedy one) and
    `rank_in_thinking` the other way. `top_base`, `top_thinking` are the likeliest tokens, `p_base` and
    `p_thinking` their probabilities, `p_base_promoted` the base's for the thinking model's token.
    """

    kl_base_thinking: Float[np.ndarray, " token"]
    kl_thinking_base: Float[np.ndarray, " token"]
    js: Float[np.ndarray, " token"]
    entropy_base: Float[np.ndarray, " token"]
    entropy_thinking: Float[np.ndarray, " token"]
    base_token: Int[np.ndarray, " token"]
    thinking_token: Int[np.ndarray, " token"]
    rank_in_base: Int[np.ndarray, " token"]
    rank_in_thinking: Int[np.ndarray, " token"]
    top_base: Int[np.ndarray, "token top"]
    top_thinking: Int[np.ndarray, "token top"]
    p_base: Float[np.ndarray, "token top"]
    p_thinking: Float[np.ndarray, "token top"]
    p_base_promoted: Float[np.ndarray, " token"]

    @property
    def differ(self) -> Bool[np.ndarray, " token"]:
        """Where the greedy tokens differ."""
        return self.base_token != self.thinking_token


def compare(
    base: Float[Tensor, "n d_vocab"], thinking: Float[Tensor, "n d_vocab"]
) -> dict[str, Tensor]:
    """The fields of `TokenDivergence` for n positions, in float32 whatever the logits' type."""
    log_p, log_q = base.float().log_softmax(-1), thinking.float().log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    n_top = min(N_TOP, log_p.shape[-1])
    (p_base, top_base), (p_thinking, top_thinking) = p.topk(n_top), q.topk(n_top)
    own_base, own_thinking = top_base[:, :1], top_thinking[:, :1]
    promoted = log_p.gather(1, own_thinking)
    return {
        "kl_base_thinking": (p * (log_p - log_q)).sum(-1).clamp_min(0),
        "kl_thinking_base": (q * (log_q - log_p)).sum(-1).clamp_min(0),
        "js": ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)).clamp_min(0) / 2,
        "entropy_base": -(p * log_p).sum(-1),
        "entropy_thinking": -(q * log_q).sum(-1),
        "base_token": own_base[:, 0],
        "thinking_token": own_thinking[:, 0],
        "rank_in_base": 1 + (log_p > promoted).sum(-1),
        "rank_in_thinking": 1 + (log_q > log_q.gather(1, own_base)).sum(-1),
        "top_base": top_base,
        "top_thinking": top_thinking,
        "p_base": p_base,
        "p_thinking": p_thinking,
        "p_base_promoted": promoted[:, 0].exp(),
    }


def score(
    pair: Pair,
    vocabulary: Vocabulary,
    traces: Sequence[Trace],
    advance: Callable[[int], None] = lambda n: None,
    engine: Engine = HERE,
) -> list[TokenDivergence]:
    """Both models read every trace, each after its own prompt; one forward of each, and no more.

    Traces are as the base reads them (`told_to`).
    Distributions are over the shared `vocabulary`, exact in float32. The unembedding runs over parts of
    the positions, so that memory does not grow with vocabulary x length. A batch is a shard.
    """
    found: list[TokenDivergence | None] = [None] * len(traces)
    rows = batches([len(t.tokens) for t in traces], N_TOKENS)
    shards = [[traces[i] for i in row] for row in rows]
    scored = engine.map_shards(partial(_score_batch, pair, vocabulary), shards)
    for row, part in zip(rows, scored, strict=True):
        for i, one in zip(row, part, strict=True):
            found[i] = one
        advance(len(row))
    return [one for one in found if one is not None]


@torch.no_grad()
def _score_batch(
    pair: Pair, vocabulary: Vocabulary, traces: Sequence[Trace]
) -> list[TokenDivergence]:
    read = padded_for_both(pair, traces)
    counts = [len(t.tokens) - t.n_prompt for t in traces]
    width = read["base"][0].shape[1]
    from_end = torch.arange(width, 0, -1, device=pair.base.device)
    # Position t says token t + 1: all from the last prompt token to the one before the last.
    reads = (from_end > 1) & (from_end <= 1 + torch.tensor(counts, device=from_end.device)[:, None])
    models = {"base": pair.base, "thinking": pair.thinking}
    states = [final_states(m, *read[name])[reads.to(m.device)] for name, m in models.items()]
    said = {}
    for rows_here in parts(len(states[0]), vocabulary.size):
        logits = [
            vocabulary.shared_logits(unembed(m, s[rows_here]))
            for m, s in zip((pair.base, pair.thinking), states, strict=True)
        ]
        for name, values in compare(*logits).items():
            # Filled in place: small tensors kept between large ones would pin the heap.
            if name not in said:
                said[name] = torch.empty(len(states[0]), *values.shape[1:], dtype=values.dtype)
            said[name][rows_here] = values.cpu()
    for name in TOKENS:
        said[name] = vocabulary.ids_of(said[name])
    ends = np.cumsum(counts)[:-1]
    columns = {name: np.split(values.numpy(), ends) for name, values in said.items()}
    return [
        TokenDivergence(**{name: parts[k] for name, parts in columns.items()})
        for k in range(len(traces))
    ]
