"""What the figures show of a hybrid run: where it steered, and traces side by side."""

from collections.abc import Sequence

import numpy as np

from interp.hybrid.decode import Decoded
from interp.models import Model
from interp.pairs import Pair
from interp.types import Problem, Segment, Trace

N_BINS = 10
N_EXAMPLES = 4


def firing(
    traces: Sequence[Trace], segments: Sequence[Sequence[Segment]], rows: Sequence[Decoded]
) -> dict:
    """Steered tokens by place in the trace and by the behavior of the sentence they are part of."""
    tokens = np.zeros(N_BINS, int)
    steered: dict[str, np.ndarray] = {}
    for trace, parts, row in zip(traces, segments, rows, strict=True):
        labels = ["other"] * len(row.tokens)
        for part in parts:
            for at in range(part.start, part.end):
                labels[at - trace.n_prompt] = part.behavior or "other"
        for i, (label, category) in enumerate(zip(labels, row.steered, strict=True)):
            place = i * N_BINS // len(row.tokens)
            tokens[place] += 1
            if category >= 0:
                steered.setdefault(label, np.zeros(N_BINS, int))[place] += 1
    return {
        "bins": [i / N_BINS for i in range(N_BINS + 1)],
        "tokens": tokens.tolist(),
        "steered": {label: counts.tolist() for label, counts in sorted(steered.items())},
    }


def pieces(model: Model, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds to the trace."""
    texts = [model.tokenizer.decode(list(tokens[:n])) for n in range(len(tokens) + 1)]
    return [after[len(before) :] for before, after in zip(texts, texts[1:], strict=False)]


def examples(
    pair: Pair,
    problems: Sequence[Problem],
    base: Sequence[Trace],
    hybrid: Sequence[Trace],
    rows: Sequence[Decoded],
    thinking: Sequence[Trace],
    labels: Sequence[str | None],
) -> list[dict]:
    """Traces side by side: first where steering gained an answer, then where it lost or missed one."""

    def plain(model: Model, trace: Trace) -> dict:
        texts = pieces(model, trace.tokens[trace.n_prompt :])
        tokens = [{"text": t, "steered": False, "changed": False, "label": None} for t in texts]
        return {"correct": trace.correct, "tokens": tokens}

    gained = [
        not b.correct and h.correct and t.correct
        for b, h, t in zip(base, hybrid, thinking, strict=True)
    ]
    missed = [h.correct < t.correct for h, t in zip(hybrid, thinking, strict=True)]
    order = [*np.flatnonzero(gained)[: N_EXAMPLES - 1], *np.flatnonzero(missed)[:1]]
    found = []
    for i in order or range(min(N_EXAMPLES, len(problems))):
        row = rows[i]
        tokens = [
            {
                "text": text,
                "steered": category >= 0,
                "changed": changed,
                "label": labels[category] if category >= 0 else None,
            }
            for text, category, changed in zip(
                pieces(pair.base, row.tokens), row.steered, row.changed, strict=True
            )
        ]
        found.append(
            {
                "problem": problems[i].prompt,
                "base": plain(pair.base, base[i]),
                "hybrid": {"correct": hybrid[i].correct, "tokens": tokens},
                "thinking": plain(pair.thinking, thinking[i]),
            }
        )
    return found
