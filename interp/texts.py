"""One text as both models of a pair read it: each after its own prompt, up to the first token that one lacks."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from interp.models import Model, left_pad
from interp.pairs import SHARED_PAD, Pair
from interp.presets import MODELS
from interp.traces import prompt_tokens
from interp.types import Segment, Trace


def told_to(model: Model, pair: Pair, traces: Sequence[Trace]) -> list[Trace]:
    """The traces as one model of the pair reads them: what was written, after the prompt that it is asked in.

    A trace ends before the first written token that does not mean the same to both models. Where both are asked
    in the same tokens of one vocabulary, the traces are what they were.
    """
    if pair.alike:
        return list(traces)
    prompts: dict[str, tuple[int, ...]] = {}
    found = []
    for trace in traces:
        if trace.prompt not in prompts:
            prompts[trace.prompt] = tuple(prompt_tokens(model, trace.prompt))
        prompt, written = prompts[trace.prompt], trace.tokens[trace.n_prompt :]
        n = pair.vocabulary.n_known(written)
        found.append(
            replace(
                trace,
                tokens=(*prompt, *written[:n]),
                n_prompt=len(prompt),
                stopped=trace.stopped and n == len(written),
            )
        )
    return found


def moved(
    segments: Sequence[Sequence[Segment]], traces: Sequence[Trace], told: Sequence[Trace]
) -> list[list[Segment]]:
    """Segments of traces in the same traces told to a model; those that do not end there are left out."""
    found = []
    for parts, trace, new in zip(segments, traces, told, strict=True):
        by = new.n_prompt - trace.n_prompt
        shifted = [replace(part, start=part.start + by, end=part.end + by) for part in parts]
        found.append([part for part in shifted if part.end <= len(new.tokens)])
    return found


def padded_for_both(
    pair: Pair, traces: Sequence[Trace]
) -> dict[str, tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]]:
    """Tokens and the mask of real ones for `base` and `thinking`, padded on the left to one width.

    So what was written stands in the same columns of both.
    """
    models = dict(zip(MODELS, (pair.base, pair.thinking), strict=True))
    rows = {name: [t.tokens for t in told_to(m, pair, traces)] for name, m in models.items()}
    if rows["base"] == rows["thinking"]:
        return dict.fromkeys(rows, left_pad(rows["base"], SHARED_PAD, pair.base.device))
    width = max(len(row) for both in rows.values() for row in both)
    found = {}
    for name, model in models.items():
        ids, real = left_pad(rows[name], SHARED_PAD, model.device)
        more = (width - ids.shape[1], 0)
        found[name] = pad(ids, more, value=SHARED_PAD), pad(real, more, value=False)
    return found
