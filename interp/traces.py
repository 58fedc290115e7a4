"""Traces: batched, KV-cached generation through TransformerLens, and their JSONL files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.models import Frame, Model, left_pad, positions_of
from interp.tasks import Countdown
from interp.types import Problem, Trace

MAX_NEW_TOKENS = 160


def prompt_tokens(model: Model, prompt: str) -> list[int]:
    """Token ids of a prompt with exactly one leading beginning-of-sequence token, if any exists."""
    ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    bos = model.tokenizer.bos_token_id
    return list(ids) if bos is None or ids[:1] == [bos] else [bos, *ids]


def _uniforms(seed: int, problem: str, sample: int, n: int) -> np.ndarray:
    # Keyed by row, not by place in the batch, so that a row's draws are its own.
    key = hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:16])).random(n)


def next_tokens(
    logits: Float[Tensor, "batch d_vocab"], uniforms: Float[Tensor, " batch"] | None
) -> Int[Tensor, " batch"]:
    """Greedy tokens, or samples at temperature 1 by inverting the cumulative distribution."""
    if uniforms is None:
        return logits.argmax(-1)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]
    return (cumulative > threshold).int().argmax(-1)


@torch.no_grad()
def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[Tensor, "row step"] | None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    rows: Int[Tensor, " row"] | None = None,
    min_active_share: float = 0.8,
) -> list[list[int]]:
    """Continue each prompt until its end-of-sequence token; returns the new tokens of each row.

    One forward for the prompts, then one-token forwards over the KV cache. Rows that have ended
    are dropped from the batch whenever the active share falls under `min_active_share`. `rows`
    are the indices that interventions see (default: the row's place in `prompts`).
    """
    device = model.device
    stop = {model.tokenizer.eos_token_id}
    boundary = model.boundary.to(device)
    ids, real = left_pad(prompts, model.tokenizer.pad_token_id or 0, device)
    rows = torch.arange(len(prompts), device=device) if rows is None else rows.to(device)
    places = list(range(len(prompts)))
    outputs: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    starts = torch.zeros_like(real)
    starts[:, -1] = True
    positions = positions_of(real)
    mask, cache = real, None
    for step in range(max_new_tokens):
        with model.framed(Frame(rows, real, starts, step)):
            logits, cache = model.bridge(
                ids,
                return_type="logits_and_cache",
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        draws = None if uniforms is None else uniforms[places, step].to(device)
        tokens = next_tokens(logits[:, -1], draws)
        for place, token in zip(places, tokens.tolist(), strict=True):
            if not ended[place]:
                outputs[place].append(token)
                ended[place] = token in stop
        active = [i for i, place in enumerate(places) if not ended[place]]
        if not active or step == max_new_tokens - 1:
            break
        if len(active) < min_active_share * len(places):
            keep = torch.tensor(active, device=device)
            cache.batch_select_indices(keep)
            places = [places[i] for i in active]
            rows, mask, tokens, positions = rows[keep], mask[keep], tokens[keep], positions[keep]
        # A row that has ended but is still carried along is padding from here on.
        real = torch.tensor([[not ended[place]] for place in places], device=device)
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        starts = boundary[ids] & real
        mask = torch.cat([mask, real], dim=1)
    return outputs


def generate(
    model: Model,
    problems: Sequence[Problem],
    grade: Callable[[Problem, str], bool] | None = None,
    *,
    sampled: bool = True,
    n_samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 512,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Trace]:
    """Generate and grade one trace per problem and sample, in order.

    Sampling is at temperature 1; a row's draws depend on `seed`, its problem and its sample number
    alone, so it gets the same tokens in any batch. `grade` defaults to the Countdown verifier.
    Interventions that are active on `model` apply, with a row's index in the returned list.
    """
    grade = grade or Countdown().grade
    asked = [(problem, k) for problem in problems for k in range(n_samples)]
    prompts = {p.prompt: prompt_tokens(model, p.prompt) for p in problems}
    traces = []
    for begin in range(0, len(asked), batch_size):
        part = asked[begin : begin + batch_size]
        uniforms = None
        if sampled:
            draws = [_uniforms(seed, problem.id, k, max_new_tokens) for problem, k in part]
            uniforms = torch.from_numpy(np.stack(draws))
        new = decode(
            model,
            [prompts[problem.prompt] for problem, _ in part],
            uniforms,
            max_new_tokens,
            rows=torch.arange(begin, begin + len(part)),
        )
        for (problem, k), tokens in zip(part, new, strict=True):
            traces.append(
                _trace(model, problem, prompts[problem.prompt], tokens, grade, sampled, k)
            )
        advance(len(part))
    return traces


def _trace(
    model: Model,
    problem: Problem,
    prompt: list[int],
    tokens: list[int],
    grade: Callable[[Problem, str], bool],
    sampled: bool,
    sample: int,
) -> Trace:
    stopped = tokens[-1] == model.tokenizer.eos_token_id
    text = model.tokenizer.decode(tokens[:-1] if stopped else tokens)
    return Trace(
        problem_id=problem.id,
        model=model.name,
        prompt=problem.prompt,
        text=text,
        tokens=(*prompt, *tokens),
        n_prompt=len(prompt),
        stopped=stopped,
        correct=stopped and grade(problem, text),
        sampled=sampled,
        sample=sample,
    )


def write_traces(traces: Sequence[Trace], path: Path) -> None:
    """Write traces as JSON lines."""
    path.write_text("".join(json.dumps(asdict(trace)) + "\n" for trace in traces))


def read_traces(path: Path) -> list[Trace]:
    """Read what `write_traces` wrote; raises `UserError` on an empty or malformed file."""

    def rows() -> Iterator[Trace]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                fields = json.loads(line)
                yield Trace(**{**fields, "tokens": tuple(fields["tokens"])})
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(
                    f"Line {number} of {str(path)!r} is no trace ({error}): expected JSON lines "
                    "as written by whenlens; regenerate the file."
                ) from error

    traces = list(rows())
    if not traces:
        raise UserError(
            f"{str(path)!r} holds no traces: expected at least one JSON line; regenerate the file."
        )
    return traces


def accuracy(traces: Sequence[Trace]) -> np.ndarray:
    """1.0 where a trace is correct, else 0.0, one per trace."""
    return np.array([float(trace.correct) for trace in traces])


__all__ = [
    "MAX_NEW_TOKENS",
    "accuracy",
    "decode",
    "generate",
    "next_tokens",
    "prompt_tokens",
    "read_traces",
    "write_traces",
]
