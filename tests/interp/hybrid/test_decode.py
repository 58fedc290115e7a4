"""Hybrid decoding equals a slow loop: one row, no cache, a full forward for each candidate."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.errors import UserError
from interp.hybrid.controllers import (
    Categories,
    at_disagreements,
    at_entropy,
    at_first_token,
    at_random,
)
from interp.hybrid.decode import (
    GRID,
    THINKING_TOKEN,
    Arm,
    decode_hybrid,
    logit_bias,
    steered,
)
from interp.traces import decode, prompt_tokens
from tests.interp.conftest import PROBLEMS, at_last, pick
from tests.interp.hybrid.conftest import LAYER, THINKING_LAYER

N_NEW = 20
CATEGORIES = Categories(("one", "two"), lambda resid: (resid.sum(-1) > 0).long())
NOTHING = torch.zeros(32)
BIASES = torch.randn(2, 161, generator=torch.Generator().manual_seed(3)) * 20
WHEN = {
    "disagreement": lambda base, thinking, step, u: base.argmax() != thinking.argmax(),
    "entropy": lambda base, thinking, step, u: entropy(base) > 1.0,
    "first-token": lambda base, thinking, step, u: step == 0,
    "random": lambda base, thinking, step, u: u < 0.3,
}


def entropy(logits):
    p = np.exp(logits.double().numpy() - float(logits.max()))
    p = p / p.sum()
    return -(p * np.log(np.maximum(p, 1e-300))).sum()


def controllers():
    return {
        "disagreement": at_disagreements("d", CATEGORIES),
        "entropy": at_entropy(1.0),
        "first-token": at_first_token(),
        "random": at_random(CATEGORIES, 0.3),
    }


@pytest.fixture(scope="module")
def prompts(pair):
    """Prompts of very different lengths, so that left padding matters."""
    base = [prompt_tokens(pair.base, p.prompt) for p in PROBLEMS]
    return [row + row[1:] * (i % 4) + row[1 : 1 + i] for i, row in enumerate(base)]


@pytest.fixture(scope="module")
def draws(prompts):
    return torch.from_numpy(np.random.default_rng(0).random((len(prompts), N_NEW, 3)))


def slow_row(
    slow, slow_thinking, vectors, prompt, draws, when, proposal, judge, sampled, eos, boundary
):
    """Tokens, and the category or -1, step by step; every candidate is one full forward.

    At last the number of tokens that may be steered.
    """
    tokens, used, changed, eligible = list(prompt), [], [], 0
    for step in range(N_NEW):
        u = float(draws[step, 0]) if sampled else None
        base, thinking = slow.logits(tokens)[-1], slow_thinking.logits(tokens)[-1]
        own = token = pick(base, u)
        category = -1
        here = proposal != "starts" or step == 0 or bool(boundary[tokens[-1]])
        eligible += here
        if here and WHEN[when](base, thinking, step, float(draws[step, 1])):
            category = 0
            if when in ("disagreement", "random"):
                category = int(slow_thinking.outputs(tokens, THINKING_LAYER)[-1].sum() > 0)
            if proposal == "idle" and category == 1:
                category = -1
        if category >= 0:
            bias = NOTHING if proposal == "idle" else vectors.bias
            shift = bias + vectors.vectors[category]
            resid = slow.outputs(tokens, LAYER)[-1]
            if proposal == "thinking-token":
                candidates = [thinking]
            elif proposal == "logit-bias":
                candidates = [base + BIASES[category]]
            else:
                grid = GRID if proposal == "sweep" else (1.0,)
                if proposal == "network":
                    with torch.no_grad():
                        grid = (float(vectors.network(resid, torch.tensor(category))),)
                candidates = [
                    slow.logits(tokens, {LAYER: at_last(resid + c * shift)})[-1] for c in grid
                ]
            choices = [pick(c, u) for c in candidates]
            if judge == "first":
                token = choices[0]
            else:
                choices = [own, *choices]
                if judge == "thinking":
                    token = max(choices, key=lambda t: float(thinking[t]))
                else:
                    token = choices[int(float(draws[step, 2]) * len(choices))]
        tokens.append(token)
        used.append(category)
        changed.append(token != own)
        if token == eos:
            break
    return tokens[len(prompt) :], used, changed, eligible


CASES = [
    ("disagreement", "fixed", "first", False),
    ("disagreement", "fixed", "first", True),
    ("disagreement", "network", "first", False),
    ("disagreement", "starts", "first", False),
    ("disagreement", "idle", "first", False),
    ("disagreement", "sweep", "thinking", False),
    ("disagreement", "sweep", "thinking", True),
    ("disagreement", "sweep", "random", False),
    ("disagreement", "thinking-token", "first", True),
    ("disagreement", "logit-bias", "first", False),
    ("entropy", "fixed", "first", False),
    ("first-token", "fixed", "first", False),
    ("random", "sweep", "random", True),
]


def proposal_of(name, vectors):
    return {
        "fixed": lambda: steered(vectors),
        "network": lambda: steered(vectors, network=True),
        "starts": lambda: steered(replace(vectors, starts_only=True)),
        "idle": lambda: steered(
            replace(vectors, vectors=vectors.vectors * torch.tensor([[1.0], [0.0]]), bias=NOTHING)
        ),
        "sweep": lambda: steered(vectors, GRID),
        "thinking-token": lambda: THINKING_TOKEN,
        "logit-bias": lambda: logit_bias(BIASES),
    }[name]()


@pytest.mark.parametrize("when, proposal, judge, sampled", CASES)
def test_tokens_equal_a_slow_loop_without_cache_batch_or_padding(
    pair, slow, slow_thinking, vectors, prompts, draws, looks, when, proposal, judge, sampled
):
    eos, boundary = pair.base.tokenizer.eos_token_id, pair.base.boundary
    expected = [
        slow_row(
            slow, slow_thinking, vectors, prompt, u, when, proposal, judge, sampled, eos, boundary
        )
        for prompt, u in zip(prompts, draws, strict=True)
    ]
    arm = Arm(controllers()[when], proposal_of(proposal, vectors), judge, THINKING_LAYER)
    for every in (1, 16):  # as on a CPU, and as on an accelerator
        looks(every)
        rows = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, sampled, N_NEW)
        found = [(row.tokens, row.steered, row.changed, row.eligible) for row in rows]
        assert found == expected
        assert sum(sum(row.changed) for row in rows) > 3  # so equality says something


def test_the_ceiling_at_every_disagreement_is_the_thinking_model(pair, prompts, draws):
    arm = Arm(controllers()["disagreement"], THINKING_TOKEN)
    found = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, False, N_NEW)
    assert [row.tokens for row in found] == decode(pair.thinking, prompts, None, N_NEW)


def test_an_arm_that_never_steers_is_the_base(pair, vectors, prompts, draws):
    arm = Arm(at_random(CATEGORIES, 0.0), steered(vectors))
    found = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, False, N_NEW)
    assert [row.tokens for row in found] == decode(pair.base, prompts, None, N_NEW)
    assert not any(c >= 0 for row in found for c in row.steered)


def test_a_row_is_the_same_alone_and_in_any_order(pair, vectors, prompts, draws):
    arm = Arm(controllers()["disagreement"], steered(vectors, GRID), "random", THINKING_LAYER)
    together = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, True, N_NEW)
    order = np.random.default_rng(1).permutation(len(prompts))
    mixed = decode_hybrid(
        pair.base, pair.thinking, [prompts[i] for i in order], arm, draws[order], True, N_NEW
    )
    assert [mixed[i] for i in np.argsort(order)] == together
    for i in (0, 5):
        alone = decode_hybrid(
            pair.base, pair.thinking, [prompts[i]], arm, draws[i : i + 1], True, N_NEW
        )
        assert alone == [together[i]]


@pytest.mark.parametrize(
    "proposal, n_candidates, share", [("sweep", 6, 1 / 3), ("fixed", 1, 1 / 3)]
)
def test_passes_count_every_token_through_every_model_and_candidates_by_their_blocks(
    pair, vectors, prompts, draws, proposal, n_candidates, share
):
    judge = "thinking" if proposal == "sweep" else "first"
    arm = Arm(controllers()["disagreement"], proposal_of(proposal, vectors), judge, THINKING_LAYER)
    for row, prompt in zip(
        decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, False, N_NEW),
        prompts,
        strict=True,
    ):
        n_steered = sum(c >= 0 for c in row.steered)
        read = len(prompt) + len(row.tokens) - 1  # the last token is read by no one
        assert row.passes == pytest.approx(2 * read + n_steered * n_candidates * share)
        assert row.edited <= n_steered
        if judge == "first":
            assert row.edited == n_steered


def test_arms_that_need_no_thinking_model_run_without_one(pair, vectors, prompts, draws):
    arm = Arm(at_entropy(1.0), steered(vectors))
    with_it = decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, False, N_NEW)
    without = decode_hybrid(pair.base, None, prompts, arm, draws, False, N_NEW)
    assert with_it == without


def test_bad_input_is_one_sentence(pair, vectors, prompts, draws):
    arm = Arm(controllers()["disagreement"], steered(vectors))
    with pytest.raises(UserError, match="reads the thinking model"):
        decode_hybrid(pair.base, None, prompts, arm, draws)
    with pytest.raises(UserError, match="budget"):
        decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, max_new_tokens=0)
    with pytest.raises(UserError, match="no steering vector for category 'three'"):
        vectors.check(("one", "three"))
