"""Decision points: what a model would start next, rescored cheaply under an edit."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import previous_behaviors
from interp.models import Model, left_pad, positions_of
from interp.queries import Above, key_values, logits_above, read_cached
from interp.types import Segment, Trace
from probes import rng


def first_token_shares(
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    behaviors: Sequence[str],
    d_vocab: int,
) -> Float[Tensor, "d_vocab behavior"]:
    """P(behavior | first token of the segment), counted over segments; 0 for unseen tokens."""
    counts = torch.zeros(d_vocab, len(behaviors))
    totals = torch.zeros(d_vocab)
    for trace, parts in zip(traces, segments, strict=True):
        for part in parts:
            token = trace.tokens[part.start]
            totals[token] += 1
            if part.behavior in behaviors:
                counts[token, behaviors.index(part.behavior)] += 1
    return counts / totals.clamp_min(1)[:, None]


class DecisionPoints:
    """A sample of `before` positions of a model's own traces, with cached keys and values.

    `resid[layer]` [point, d_model] is the clean residual stream at the point, `clean`
    [point, behavior] what the unedited model would start next, `previous` [point] the behavior of
    the segment that ends there, `groups` [point] the problem. `probabilities`
    recomputes only the blocks above an edited layer, and only at the edited position; every
    earlier position keeps its clean keys and values. Pickled, they are the texts, to be read again.
    """

    def __init__(
        self,
        model: Model,
        traces: Sequence[Trace],
        segments: Sequence[Sequence[Segment]],
        shares: Float[Tensor, "d_vocab behavior"],
        n_points: int,
        seed: int = 0,
    ) -> None:
        self.model, self.shares = model, shares.to(model.device)
        found = [
            (t, part.start - 1, previous)
            for t, parts in enumerate(segments)
            for part, previous in zip(parts, previous_behaviors(parts), strict=True)
        ]
        chosen = rng(seed, "decision points").permutation(len(found))[:n_points]
        points = [found[i] for i in sorted(chosen)]
        used = sorted({t for t, _, _ in points})
        self.groups = np.array([traces[t].problem_id for t, _, _ in points])
        self.previous = np.array([previous for _, _, previous in points])
        self._texts = [traces[t].tokens for t in used]
        self._at = [(used.index(t), pos) for t, pos, _ in points]
        self._read()

    def __getstate__(self) -> dict:
        kept = ("model", "shares", "groups", "previous", "_texts", "_at")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._read()

    @torch.no_grad()
    def _read(self) -> None:
        model = self.model
        ids, real = left_pad(self._texts, model.tokenizer.pad_token_id or 0, model.device)
        width = ids.shape[1]
        rows = torch.tensor([row for row, _ in self._at], device=model.device)
        places = torch.tensor(
            [pos + width - len(self._texts[row]) for row, pos in self._at], device=model.device
        )
        kept, cache = read_cached(
            model, ids, real, range(model.n_layers), lambda resid: resid[rows, places]
        )
        self.resid = [kept[layer] for layer in range(model.n_layers)]
        self._positions = positions_of(real)[rows, places][:, None]
        self._before = real[rows] & (torch.arange(width, device=model.device) < places[:, None])
        self._kv = key_values(cache, rows)
        self._telling = self.shares.any(1).nonzero()[:, 0]  # tokens that say anything of a behavior
        # Every effect is a change from this, so it is computed once.
        self.clean = self.probabilities(0, self.resid[0])

    def __len__(self) -> int:
        return len(self.groups)

    @torch.no_grad()
    def logits(
        self, layer: int, resid: Float[Tensor, "*edit point d_model"], above: Above | None = None
    ) -> Float[Tensor, "*edit point d_vocab"]:
        """Next-token logits when the output of block `layer` is `resid` at the points.

        `above(k, resid)` edits the output of each later block k in turn.

        A leading axis scores several edits in one forward pass.
        """
        edits = resid if resid.ndim == 3 else resid[None]
        out = logits_above(
            self.model,
            layer,
            edits.transpose(0, 1),
            self._kv,
            self._before[:, None].expand(-1, len(edits), -1),
            self._positions.expand(-1, len(edits)),
            above,
        )
        return out.transpose(0, 1).reshape(*resid.shape[:-1], -1)

    def probabilities(
        self, layer: int, resid: Float[Tensor, "*edit point d_model"], above: Above | None = None
    ) -> Float[Tensor, "*edit point behavior"]:
        """Probability that the next segment is each behavior, read off its first token."""
        logits = self.logits(layer, resid, above).transpose(0, -2)  # as they lie in memory
        p = logits.softmax(-1)[..., self._telling] @ self.shares[self._telling]
        return p.transpose(0, -2)
