"""Traces: batched, KV-cached generation through TransformerLens, and their JSONL files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.cache import growing_cache
from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.jsonl import read_rows
from interp.models import (
    PROBLEM,
    Frame,
    Model,
    inputs_of,
    left_pad,
    look_every,
    positions_of,
    widened,
)
from interp.progress import Progress
from interp.tasks import Countdown
from interp.types import Problem, Trace

MAX_NEW_TOKENS = 160
BATCH_SIZE = 512
"""Rows decoded side by side: on a CPU a step costs little more for many of them than for few."""
NOT_SAID = -1


def prompt_tokens(model: Model, prompt: str) -> list[int]:
    """Token ids of a prompt in its template, after one beginning-of-sequence token where the tokenizer adds any.

    Some tokenizers have such a token and put none. Raises `UserError` for a token that was added to the
    tokenizer and that the model does not embed.
    """
    text = model.template.replace(PROBLEM, prompt)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if strange := [token for token in ids if token >= model.bridge.cfg.d_vocab]:
        word = model.tokenizer.convert_ids_to_tokens(strange[0])
        raise UserError(
            f"The prompt {prompt[:60]!r} has the token {word!r}, which {model.name} has no embedding for: leave "
            "it out, or use the tokenizer that belongs to these weights."
        )
    bos = model.tokenizer.bos_token_id
    added = [bos] if bos is not None and model.tokenizer("")["input_ids"][:1] == [bos] else []
    return list(ids) if ids[:1] == added else [*added, *ids]


def row_uniforms(seed: int, problem: str, sample: int | str, n: int) -> Float[np.ndarray, " n"]:
    """A row's own draws from [0, 1)."""
    # Keyed by row, not by place in the batch, so that a row's draws are its own.
    key = hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:16])).random(n)


def next_tokens(
    logits: Float[Tensor, "*batch d_vocab"],
    uniforms: Float[Tensor, "*batch"] | None,
    temperature: float = 1.0,
) -> Int[Tensor, "*batch"]:
    """Greedy tokens, or samples by inverting the cumulative distribution."""
    if uniforms is None:
        return logits.argmax(-1)
    cumulative = (widened(logits) / temperature).softmax(-1).double().cumsum_(-1)
    threshold = uniforms[..., None] * cumulative[..., -1:]
    found = torch.searchsorted(cumulative, threshold, right=True)[..., 0]
    return found.clamp_max(logits.shape[-1] - 1)  # of NaN, which is only found out later


class Batch:
    """Rows that are decoded side by side: what the next pass reads, and what each row has said.

    `ids`, `real` and `positions` [row, pos] are the next pass's tokens, `mask` [row, all pos] what it may
    attend to, `places` [row] the rows' places among the prompts, `going` [row] which have not ended. `ends` are
    the tokens that end a row (default: the model's). Every so many tokens (`look_every`) the host looks: then
    `over` says whether all have ended, and rows that have are dropped if the active share is under
    `min_active_share`.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        min_active_share: float = 0.8,
        ends: Sequence[int] | None = None,
    ) -> None:
        self.ids, self.real = left_pad(prompts, model.tokenizer.pad_token_id or 0, model.device)
        self.positions, self.mask = positions_of(self.real), self.real
        self.places = torch.arange(len(prompts), device=model.device)
        self.starts = torch.zeros_like(self.real)
        self.starts[:, -1] = True
        self.going = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
        self.over = False
        self._n_prompts, self._said = len(prompts), list[Tensor]()
        self._look_every = look_every(model.device)
        ends = model.ends if ends is None else ends
        self._ends = torch.tensor(ends, dtype=torch.long, device=model.device)
        self._min_active_share = min_active_share
        self._boundary = model.boundary.to(model.device)

    def inputs(self) -> dict:
        """Keyword arguments of the next pass, but for its cache."""
        return {
            "input_ids": self.ids,
            "attention_mask": self.mask.long(),
            "position_ids": self.positions,
            "use_cache": True,
            "logits_to_keep": 1,
        }

    def keep_last(self) -> None:
        """Read only the prompts' last tokens in the next pass: those before are in its cache."""
        self.ids, self.real, self.starts = self.ids[:, -1:], self.real[:, -1:], self.starts[:, -1:]
        self.positions = self.positions[:, -1:]

    def say(self, tokens: Int[Tensor, " row"]) -> Int[Tensor, " kept"] | None:
        """Append a token to every row still going; returns the rows to keep in caches, if not all.

        `going` [row] is then False for the rows that have ended but are still carried along.
        """
        self._said.append(self.by_prompt(tokens, NOT_SAID))
        self.going = self.going & (tokens[:, None] != self._ends).all(1)
        keep = None
        if len(self._said) % self._look_every == 0:
            n_going = int(self.going.sum())
            self.over = n_going == 0
            if 0 < n_going < self._min_active_share * len(self.going):
                keep = self.going.nonzero()[:, 0]
                self.places, self.mask, tokens = self.places[keep], self.mask[keep], tokens[keep]
                self.positions, self.going = self.positions[keep], self.going[keep]
        # A row that has ended but is still carried along is padding from here on.
        self.real = self.going[:, None]
        self.ids, self.positions = tokens[:, None], self.positions[:, -1:] + 1
        self.starts = self._boundary[self.ids] & self.real
        self.mask = torch.cat([self.mask, self.real], dim=1)
        return keep

    def by_prompt(
        self, values: Shaped[Tensor, " row"], otherwise: int | float
    ) -> Shaped[Tensor, " prompt"]:
        """Values of the rows still going at their prompts' places, and another elsewhere."""
        found = values.new_full((self._n_prompts,), otherwise)
        found[self.places] = torch.where(self.going, values, otherwise)
        return found

    def outputs(self) -> list[list[int]]:
        """Every prompt's new tokens."""
        return by_row(self._said, NOT_SAID)


def by_row(steps: list[Tensor], absent: int) -> list[list[int]]:
    """What each row has, of one tensor [row] a step, at the steps at which it has anything."""
    return [[x for x in row if x != absent] for row in torch.stack(steps, 1).tolist()]


def _read_shared(model: Model, prompts: Sequence[Sequence[int]], cache: Any) -> None:
    """Fill the cache with each row's prompt but for its last token, reading each distinct one once."""
    places: dict[tuple[int, ...], int] = {}
    rows = [places.setdefault(tuple(prompt[:-1]), len(places)) for prompt in prompts]
    ids, real = left_pad(list(places), model.tokenizer.pad_token_id or 0, model.device)
    everywhere = torch.arange(len(ids), device=model.device)
    with model.framed(Frame(everywhere, real, torch.zeros_like(real))):
        model.hf(
            **inputs_of(ids, real),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    cache.batch_select_indices(torch.tensor(rows, device=model.device))


@torch.no_grad()
def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[Tensor, "row step"] | None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    rows: Int[Tensor, " row"] | None = None,
    temperature: float = 1.0,
    min_active_share: float = 0.8,
    share_prompts: bool = False,
) -> list[list[int]]:
    """Continue each prompt until its end-of-sequence token; returns the new tokens of each row.

    One forward for the prompts, then one-token forwards over the KV cache. `rows` are the indices
    that interventions see (default: the row's place in `prompts`). With `share_prompts` prompts that several
    rows have are read once, up to their last token: right where interventions edit no token before it.
    """
    batch, cache = Batch(model, prompts, min_active_share), growing_cache(model)
    if share_prompts and min(map(len, prompts)) > 1:
        _read_shared(model, prompts, cache)
        batch.keep_last()
    rows = torch.arange(len(prompts)) if rows is None else rows
    rows = rows.to(model.device)
    if uniforms is not None:
        uniforms = uniforms.to(model.device)
    for step in range(max_new_tokens):
        with model.framed(Frame(rows[batch.places], batch.real, batch.starts, step)):
            logits = model.hf(past_key_values=cache, **batch.inputs()).logits
        draws = None if uniforms is None else uniforms[batch.places, step]
        keep = batch.say(next_tokens(logits[:, -1], draws, temperature))
        if batch.over:
            break
        if keep is not None:
            cache.batch_select_indices(keep)
    return batch.outputs()


def generate(
    model: Model,
    problems: Sequence[Problem],
    grade: Callable[[Problem, str], bool] | None = None,
    *,
    sampled: bool = True,
    n_samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
    advance: Callable[[int], None] = lambda n: None,
    share_prompts: bool = False,
) -> list[Trace]:
    """Generate and grade one trace per problem and sample, in order.

    Sampling is at the model's `temperature`; a row's draws depend on `seed`, its problem and its sample number
    alone, so it gets the same tokens in any batch. `grade` defaults to the Countdown verifier.
    Interventions that are active on `model` apply, with a row's index in the returned list; `share_prompts`
    is for those that edit no token of a prompt but its last one.
    """
    grade = grade or Countdown().grade
    asked = [(problem, k) for problem in problems for k in range(n_samples)]
    prompts = {p.prompt: prompt_tokens(model, p.prompt) for p in problems}
    traces = []
    for begin in range(0, len(asked), batch_size):
        part = asked[begin : begin + batch_size]
        uniforms = None
        if sampled:
            draws = [row_uniforms(seed, problem.id, k, max_new_tokens) for problem, k in part]
            uniforms = torch.from_numpy(np.stack(draws))
        new = decode(
            model,
            [prompts[problem.prompt] for problem, _ in part],
            uniforms,
            max_new_tokens,
            rows=torch.arange(begin, begin + len(part)),
            temperature=model.temperature,
            share_prompts=share_prompts,
        )
        for (problem, k), tokens in zip(part, new, strict=True):
            traces.append(
                graded(model, problem, prompts[problem.prompt], tokens, grade, sampled, k)
            )
        advance(len(part))
    return traces


def graded(
    model: Model,
    problem: Problem,
    prompt: list[int],
    tokens: list[int],
    grade: Callable[[Problem, str], bool],
    sampled: bool,
    sample: int,
) -> Trace:
    """The trace of a prompt and its new tokens, graded."""
    stopped = tokens[-1] in model.ends
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
    """Write traces as JSON lines, so that the file is whole or absent, whatever kills the process."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(asdict(trace)) + "\n" for trace in traces))
    partial.rename(path)


@dataclass(frozen=True)
class Job:
    """Traces of one model on some problems of a task, kept in a file of this name."""

    file: str
    model: Model
    problems: Sequence[Problem]
    grade: Callable[[Problem, str], bool]
    sampled: bool
    seed: int


def generate_all(
    folder: Path,
    jobs: Sequence[Job],
    progress: Progress,
    max_new_tokens: int = MAX_NEW_TOKENS,
    engine: Engine = HERE,
) -> None:
    """Generate every job's traces into its file, unless it is there already. A shard is a batch of a job."""
    missing = [job for job in jobs if not (folder / job.file).exists()]
    batches = {job.file: range(0, len(job.problems), BATCH_SIZE) for job in missing}
    parts = [
        replace(job, problems=job.problems[begin : begin + BATCH_SIZE])
        for job in missing
        for begin in batches[job.file]
    ]
    total, left = (sum(len(job.problems) for job in some) for some in (jobs, missing))
    with progress.bar("traces", total) as advance:
        advance(total - left)
        made = engine.map_shards(partial(_generate, max_new_tokens), parts)
        for job in missing:
            traces: list[Trace] = []
            for part in islice(made, len(batches[job.file])):
                traces += part
                advance(len(part))
            write_traces(traces, folder / job.file)


def _generate(max_new_tokens: int, job: Job) -> list[Trace]:
    return generate(
        job.model, job.problems, job.grade,
        sampled=job.sampled, seed=job.seed, max_new_tokens=max_new_tokens,
    )  # fmt: skip


def read_traces(path: Path) -> list[Trace]:
    """Read what `write_traces` wrote; raises `UserError` on an empty or malformed file."""

    traces, expected = [], "expected JSON lines as written by whenlens"
    for row in read_rows(path, expected):
        try:
            traces.append(Trace(**{**row.fields, "tokens": tuple(row.fields["tokens"])}))
        except (KeyError, TypeError) as error:
            raise row.fault(f"is no trace ({error})", expected) from error
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
    "Batch",
    "accuracy",
    "decode",
    "generate",
    "generate_all",
    "graded",
    "next_tokens",
    "prompt_tokens",
    "read_traces",
    "row_uniforms",
    "write_traces",
]
