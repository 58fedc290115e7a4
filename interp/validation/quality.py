"""What steering does to text beside its purpose: loops, traces without an end, length, neutral text."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.behaviors import segment
from interp.interventions import Intervention, forward, intervene
from interp.lens import MAX_LOGITS
from interp.models import Model
from interp.types import Segment, Trace
from probes import paired_bootstrap, paired_ratio_bootstrap

N_REPEATS = 4
"""As often as this the same sentence makes a loop."""
ROWS_PER_BATCH = 32


def loops(model: Model, traces: Sequence[Trace]) -> Float[np.ndarray, " trace"]:
    """1 for traces that say one sentence `N_REPEATS` times or more."""
    most = [
        max(Counter(s.text.strip() for s in segment(model, t)).values(), default=0) for t in traces
    ]
    return np.array([float(n >= N_REPEATS) for n in most])


def unended(traces: Sequence[Trace]) -> Float[np.ndarray, " trace"]:
    """1 for traces that hit the token limit, without a token that ends them."""
    return np.array([float(not t.stopped) for t in traces])


def unclosed(traces: Sequence[Trace]) -> Float[np.ndarray, " trace"]:
    """1 for traces that open `<think>` (in the prompt, maybe) and never close it."""
    whole = [t.prompt + t.text for t in traces]
    return np.array([float("<think>" in text and "</think>" not in text) for text in whole])


def broken(model: Model, traces: Sequence[Trace]) -> Float[np.ndarray, " trace"]:
    """1 for traces that loop or never end."""
    return np.maximum(loops(model, traces), unended(traces))


def lengths(traces: Sequence[Trace]) -> Float[np.ndarray, " trace"]:
    """Generated tokens."""
    return np.array([float(len(t.tokens) - t.n_prompt) for t in traces])


def compare_traces(
    model: Model, clean: Sequence[Trace], steered: Sequence[Trace], seed: int
) -> dict[str, dict]:
    """Steered beside clean, each as `{clean, steered, change, ci}`, the interval over problems."""
    groups = [t.problem_id for t in clean]
    measures = {
        "accuracy": lambda traces: np.array([float(t.correct) for t in traces]),
        "broken": lambda traces: broken(model, traces),
        "loops": lambda traces: loops(model, traces),
        "unended": unended,
        "unclosed": unclosed,
        "length": lengths,
    }
    table = {}
    for name, measure in measures.items():
        before, after = measure(clean), measure(steered)
        found = paired_bootstrap(after, before, groups, seed=seed)
        table[name] = {
            "clean": float(before.mean()),
            "steered": float(after.mean()),
            "change": found.value,
            "ci": [found.ci.low, found.ci.high],
        }
    return table


def share_change(
    before: Sequence[Sequence[Segment]],
    after: Sequence[Sequence[Segment]],
    behavior: str | None,
    seed: int,
) -> dict:
    """Change of the share of segments with a label (None: without one) as `{effect, ci}`, over traces."""
    parts = []
    for rows in (after, before):
        parts.append(np.array([sum(s.behavior == behavior for s in row) for row in rows], float))
        parts.append(np.array([len(row) for row in rows], float))
    found = paired_ratio_bootstrap(*parts, seed=seed)
    return {"effect": found.value, "ci": [found.ci.low, found.ci.high]}


@torch.no_grad()
def log_probabilities(
    model: Model, traces: Sequence[Trace]
) -> list[Float[torch.Tensor, "pos vocab"]]:
    """The model's log-probabilities at every token of each trace but the last, under active edits.

    Read in one batch: all prompts need the same length for a segment start to be told.
    """
    logits = forward(model, [trace.tokens for trace in traces], traces[0].n_prompt - 1)
    return [
        row[-len(trace.tokens) :][:-1].float().log_softmax(-1)
        for row, trace in zip(logits, traces, strict=True)
    ]


def batches(traces: Sequence[Trace], d_vocab: int) -> list[list[int]]:
    """Places of traces with prompts of one length, as many to a batch as `MAX_LOGITS` allows."""
    by_prompt: dict[int, list[int]] = {}
    for i, trace in enumerate(traces):
        by_prompt.setdefault(trace.n_prompt, []).append(i)
    longest = max(len(trace.tokens) for trace in traces)
    n = min(ROWS_PER_BATCH, max(1, MAX_LOGITS // (longest * d_vocab)))
    return [rows[k : k + n] for rows in by_prompt.values() for k in range(0, len(rows), n)]


def neutral_text(
    model: Model,
    edits: Sequence[Intervention],
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    seed: int,
) -> dict[str, dict]:
    """KL(clean||edited) a token, in nats, on the same text, by where it stands; and perplexity.

    `starts` are the tokens that begin a segment or end the text, where steering is meant to act; `prompt`,
    `think` and `answer` are all others. Intervals are over traces.
    """
    shifts: dict[int, tuple[np.ndarray, list[float]]] = {}
    for batch in batches(traces, model.bridge.cfg.d_vocab):
        texts = [traces[i] for i in batch]
        clean = log_probabilities(model, texts)
        with intervene(model, *edits):
            steered = log_probabilities(model, texts)
        for i, trace, before, after in zip(batch, texts, clean, steered, strict=True):
            kl = (before.exp() * (before - after)).sum(-1).clamp_min(0).double().cpu().numpy()
            said = torch.tensor(trace.tokens[1:], device=before.device)[:, None]
            new = slice(trace.n_prompt - 1, None)
            nll = [-float(p.gather(-1, said)[new, 0].sum()) for p in (before, after)]
            shifts[i] = kl, nll
    parts: dict[str, list[tuple[float, int]]] = {
        n: [] for n in ("prompt", "think", "answer", "starts")
    }
    losses: list[tuple[float, float, int]] = []
    for i, (trace, row) in enumerate(zip(traces, segments, strict=True)):
        kl, nll = shifts[i]
        place = np.full(len(trace.tokens), "think", dtype=object)
        place[: trace.n_prompt] = "prompt"
        for part in row:
            if part.behavior == "final-answer":
                place[part.start : part.end] = "answer"
            place[part.start] = "starts"
        if row:
            place[row[-1].end :] = "starts"  # to end the text is a choice, too
        place = place[1:]  # row t says token t + 1
        for name, rows in parts.items():
            rows.append((float(kl[place == name].sum()), int((place == name).sum())))
        losses.append((nll[0], nll[1], len(trace.tokens) - trace.n_prompt))
    found: dict[str, dict] = {}
    for name, rows in parts.items():
        sums, counts = np.array(rows).T
        if counts.sum() == 0 or np.count_nonzero(counts) < 2:
            found[name] = {"kl": None, "ci": None}
            continue
        estimate = paired_ratio_bootstrap(sums, counts, 0 * sums, np.ones_like(counts), seed=seed)
        found[name] = {"kl": estimate.value, "ci": [estimate.ci.low, estimate.ci.high]}
    before, after, n = np.array(losses).sum(0)
    found["perplexity"] = {"clean": float(np.exp(before / n)), "steered": float(np.exp(after / n))}
    return found
