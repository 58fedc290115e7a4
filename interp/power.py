"""Power sampling: traces from p(x)^alpha of a base model alone (Karan & Du 2510.14901, alg. 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.lens import final_states, parts, unembed
from interp.models import Model, frame_of, left_pad
from interp.tasks import Countdown
from interp.traces import MAX_NEW_TOKENS, decode, graded, prompt_tokens, row_uniforms
from interp.types import Problem, Trace

ALPHA, BLOCK, N_STEPS = 4.0, 32, 3


@dataclass(frozen=True)
class PowerSample:
    """One draw: its new `tokens`, as `decode` returns them, its cost and its chain's acceptance.

    `n_sampled` counts the tokens sampled for it in all, rejected ones too; `accepted` is the share
    of accepted Metropolis-Hastings steps.
    """

    tokens: list[int]
    n_sampled: int
    accepted: float


@dataclass
class _Chain:
    prompt: Sequence[int]
    id: str
    trace: list[int] = field(default_factory=list)
    log_z: float = 0.0
    n_sampled: int = 0
    n_accepted: int = 0


def power_sample(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    ids: Sequence[str],
    seed: int = 0,
    alpha: float = ALPHA,
    block: int = BLOCK,
    n_steps: int = N_STEPS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 512,
    advance: Callable[[int], None] = lambda n: None,
) -> list[PowerSample]:
    """One trace per prompt, drawn from p(x)^alpha / Z over whole traces of `max_new_tokens` at most.

    Block by block, open traces grow by `block` tokens at temperature 1 / alpha; then every trace,
    ended ones too, makes `n_steps` Metropolis-Hastings steps: cut at a uniform token and resample
    to the block's end, or an earlier end of sequence, at temperature 1 / alpha. As log q = alpha
    log p - log z, where z sums p^alpha over the vocabulary, the ratio of eq. 9 is prod z(x') /
    prod z(x), here times len(x) / len(x') for the choice of the cut. Exact as `n_steps` grows.

    The cost is about T + n_steps / 2 x sum over blocks b of min(b x block, T) tokens for a trace of
    T: 6 to 8 plain traces of 25 to 100 tokens at the defaults. A row's draws depend on `seed` and
    its id alone. The calls of `advance` add up to `len(prompts)`. Raises `UserError` for a setting
    out of range.
    """
    _check(alpha, block, n_steps, max_new_tokens)
    if len(ids) != len(prompts):
        raise UserError(
            f"There are {len(ids)} ids for {len(prompts)} prompts: a prompt's id keys its draws; "
            "give one for each."
        )
    chains = [_Chain(prompt, id) for prompt, id in zip(prompts, ids, strict=True)]
    ends = [*range(block, max_new_tokens, block), max_new_tokens]
    moves = [(end, step) for end in ends for step in range(n_steps + 1)]
    for move, (end, step) in enumerate(moves):
        # Step 0 grows the open traces: it cuts behind the last token and is always taken.
        moving = [c for c in chains if step or not set(c.trace[-1:]) & set(model.ends)]
        draws = [row_uniforms(seed, f"{c.id}/power", move, 2 + end) for c in moving]
        cuts = [
            int(u[0] * len(c.trace)) if step else len(c.trace)
            for c, u in zip(moving, draws, strict=True)
        ]
        found = _resample(model, moving, cuts, [u[2:] for u in draws], end, alpha, batch_size)
        for c, cut, u, (trace, log_z) in zip(moving, cuts, draws, found, strict=True):
            c.n_sampled += len(trace) - cut
            if step:
                log_ratio = log_z - c.log_z + math.log(len(c.trace) / len(trace))
                if u[1] >= math.exp(min(0.0, log_ratio)):
                    continue
                c.n_accepted += 1
            c.trace, c.log_z = trace, log_z
        done = [len(chains) * n // len(moves) for n in (move, move + 1)]
        advance(done[1] - done[0])
    n_made = n_steps * len(ends)
    return [PowerSample(c.trace, c.n_sampled, c.n_accepted / n_made) for c in chains]


def power_traces(
    model: Model,
    problems: Sequence[Problem],
    grade: Callable[[Problem, str], bool] | None = None,
    *,
    seed: int = 0,
    alpha: float = ALPHA,
    block: int = BLOCK,
    n_steps: int = N_STEPS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[list[Trace], list[int]]:
    """One graded trace per problem by `power_sample`, and the tokens sampled for each.

    `grade` defaults to the Countdown verifier.
    """
    grade = grade or Countdown().grade
    prompts = [prompt_tokens(model, problem.prompt) for problem in problems]
    samples = power_sample(
        model,
        prompts,
        ids=[problem.id for problem in problems],
        seed=seed,
        alpha=alpha,
        block=block,
        n_steps=n_steps,
        max_new_tokens=max_new_tokens,
        advance=advance,
    )
    traces = [
        graded(model, problem, prompt, sample.tokens, grade, True, 0)
        for problem, prompt, sample in zip(problems, prompts, samples, strict=True)
    ]
    return traces, [sample.n_sampled for sample in samples]


def _resample(
    model: Model,
    chains: Sequence[_Chain],
    cuts: Sequence[int],
    uniforms: Sequence[np.ndarray],
    end: int,
    alpha: float,
    batch_size: int,
) -> list[tuple[list[int], float]]:
    """Each trace continued from its cut to `end` tokens at temperature 1 / alpha, and its log z."""
    found: list[tuple[list[int], float]] = [([], 0.0)] * len(chains)
    # Rows with about as many tokens to sample go together: `decode` runs for the longest.
    order = sorted(range(len(chains)), key=cuts.__getitem__)
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        heads = [chains[i].trace[: cuts[i]] for i in part]
        tails = decode(
            model,
            [[*chains[i].prompt, *head] for i, head in zip(part, heads, strict=True)],
            torch.from_numpy(np.stack([uniforms[i] for i in part])),
            end - min(map(len, heads)),
            temperature=1 / alpha,
        )
        changed = []
        for i, head, tail in zip(part, heads, tails, strict=True):
            found[i] = ([*head, *tail][:end], chains[i].log_z)
            if found[i][0] != chains[i].trace:
                changed.append(i)
        sums = _log_z(model, [(chains[i].prompt, found[i][0]) for i in changed], alpha)
        for i, log_z in zip(changed, sums, strict=True):
            found[i] = (found[i][0], log_z)
    return found


@torch.no_grad()
def _log_z(
    model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], alpha: float
) -> list[float]:
    """For each (prompt, trace), the sum over the trace's tokens of log z, in nats."""
    if not pairs:
        return []
    texts = [[*prompt, *trace[:-1]] for prompt, trace in pairs]
    ids, real = left_pad(texts, model.tokenizer.pad_token_id or 0, model.device)
    # The last token of a prompt says the first of its trace.
    first = ids.shape[1] - torch.tensor([len(trace) for _, trace in pairs], device=ids.device)
    inside = torch.arange(ids.shape[1], device=ids.device) >= first[:, None]
    with model.framed(frame_of(model, ids, real, first)):
        states: Float[Tensor, "token d_model"] = final_states(model, ids, real)[inside]
    log_z = states.new_empty(len(states), dtype=torch.float64)
    for part in parts(len(states), model.bridge.cfg.d_vocab):
        log_p = unembed(model, states[part]).double().log_softmax(-1)
        log_z[part] = (alpha * log_p).logsumexp(-1)
    rows = inside.nonzero()[:, 0].cpu()
    # On the CPU sums have one order.
    return torch.zeros(len(pairs), dtype=log_z.dtype).index_add_(0, rows, log_z.cpu()).tolist()


def _check(alpha: float, block: int, n_steps: int, max_new_tokens: int) -> None:
    if not 1 <= alpha < math.inf:
        raise UserError(f"alpha is {alpha}: expected a finite power of at least 1; 4 is usual.")
    counts = {"block": block, "n_steps": n_steps, "max_new_tokens": max_new_tokens}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}: expected a count of at least 1; raise it.")


__all__ = ["PowerSample", "power_sample", "power_traces"]
