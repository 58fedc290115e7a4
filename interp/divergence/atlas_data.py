"""Traces token by token, as the atlas shows them (`atlas.json`)."""

from collections.abc import Mapping, Sequence

import numpy as np

from interp.divergence.tokens import TokenDivergence
from interp.hybrid.shown import pieces
from interp.models import Model
from interp.types import Segment, Trace

DIGITS = 4


def trace_record(
    model: Model,
    source: str,
    trace: Trace,
    segments: Sequence[Segment],
    found: TokenDivergence,
    lens: Mapping[int, Sequence[float]],
    patching: Mapping[int, Mapping[str, Sequence[Sequence[float]]]],
) -> dict:
    """One entry of `atlas.json: traces`; `lens` and `patching` are by place."""

    def numbers(values: np.ndarray) -> list:
        return [round(float(v), DIGITS) for v in values]

    def top(ids: np.ndarray, shares: np.ndarray) -> list:
        return [
            [
                [model.tokenizer.decode([int(t)]), round(float(p), DIGITS)]
                for t, p in zip(*row, strict=True)
            ]
            for row in zip(ids, shares, strict=True)
        ]

    return {
        "id": trace.problem_id,
        "problem": trace.prompt,
        "source": source,
        "correct": trace.correct,
        "tokens": pieces(model, trace.tokens[trace.n_prompt :]),
        "js": numbers(found.js),
        "kl": numbers(found.kl_thinking_base),
        "h_base": numbers(found.entropy_base),
        "h_thinking": numbers(found.entropy_thinking),
        "rank": found.rank_in_base.tolist(),
        "disagree": np.flatnonzero(found.differ).tolist(),
        "top_base": top(found.top_base, found.p_base),
        "top_thinking": top(found.top_thinking, found.p_thinking),
        "segments": [
            {
                "start": s.start - trace.n_prompt,
                "end": s.end - trace.n_prompt,
                "behavior": s.behavior,
            }
            for s in segments
        ],
        "lens": {str(t): [round(float(v), DIGITS) for v in curve] for t, curve in lens.items()},
        "patching": {str(t): dict(one) for t, one in patching.items()},
    }
