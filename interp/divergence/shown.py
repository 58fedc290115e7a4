"""What the base would have written: counterfactual text at divergences."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.divergence.explained import Directions, Divergences, Use, closed
from interp.divergence.tokens import TokenDivergence
from interp.models import Model
from interp.pairs import Pair
from interp.texts import told_to
from interp.traces import decode
from interp.types import Trace

N_EXAMPLES = 8
N_CONTEXT = 24
"""Tokens of context that an example shows."""
N_TEXT = 24
"""Tokens that an example's continuations may have."""


def sentence(model: Model, prompts: Sequence[Sequence[int]], first: Sequence[int]) -> list[str]:
    """The first token and what the model says after it, to the end of the sentence."""
    starts = [[*p, t] for p, t in zip(prompts, first, strict=True)]
    found = []
    for token, rest in zip(first, decode(model, starts, None, N_TEXT - 1), strict=True):
        tokens = [token, *rest]
        ends = [i for i, t in enumerate(tokens) if model.boundary[t]]
        found.append(model.tokenizer.decode(tokens[: ends[0] + 1] if ends else tokens).strip())
    return found


def counterfactuals(
    pair: Pair,
    traces: Sequence[Trace],
    found: Sequence[TokenDivergence],
    report: Divergences,
    use: Use,
    known: Directions,
    after: Float[np.ndarray, "direction divergence"],
) -> list[dict]:
    """`explained.examples`: for each direction in turn, high divergences that it explains.

    `after` is the KL that each direction leaves.
    """
    order = [np.flatnonzero(row & report.high) for row in closed(report.kl, after)]
    chosen: list[tuple[int, int]] = []
    for k in range(N_EXAMPLES):
        for i, rows in enumerate(order):
            if k < len(rows) and len(chosen) < N_EXAMPLES:
                chosen.append((i, int(rows[k])))
    if not chosen:
        return []
    shifts = known.shifts(use)
    tokens = report.edited(
        use.layer,
        lambda resid, _: resid[:, None] + shifts.to(resid.device),
        lambda logits, thinking, base: logits.argmax(-1),
    ).astype(int)
    tokens = report.vocabulary.ids_of(torch.from_numpy(tokens)).numpy()
    places = [(int(report.trace[n]), int(report.place[n])) for _, n in chosen]
    prompts, theirs_told = (
        [list(told[i].tokens[: told[i].n_prompt + t]) for i, t in places]
        for told in (traces, told_to(pair.thinking, pair, traces))
    )
    ours = [int(found[i].base_token[t]) for i, t in places]
    theirs = [int(found[i].thinking_token[t]) for i, t in places]
    said = {
        "steered_text": sentence(pair.base, prompts, [int(tokens[i, n]) for i, n in chosen]),
        "base_text": sentence(pair.base, prompts, ours),
        "thinking_text": sentence(pair.thinking, theirs_told, theirs),
    }
    text = pair.base.tokenizer.decode
    return [
        {
            "trace": traces[i].problem_id,
            "at": t,
            "context": text(prompt[-N_CONTEXT:]),
            "thinking_token": text([theirs[k]]),
            "base_token": text([ours[k]]),
            "behavior": known.behaviors[b],
            "kl_before": float(report.kl[n]),
            "kl_after": float(after[b, n]),
            **{name: texts[k] for name, texts in said.items()},
        }
        for k, ((b, n), (i, t), prompt) in enumerate(zip(chosen, places, prompts, strict=True))
    ]
