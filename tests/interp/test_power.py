"""Power sampling: the chain's law is p^alpha / Z over whole traces, and a row's draws are its own."""

import copy
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from interp import power
from interp.errors import UserError
from interp.models import load_model
from interp.power import power_sample, power_traces
from interp.tasks import load_task
from interp.traces import prompt_tokens

PROBLEMS = list(load_task("countdown").problems()[:6])
EOS, START = (
    66,
    12,
)  # after token 12, token 66 holds 37% of p^4's traces and 13% of the first token's
N_NEW = 3


def ending_with(model, token):
    """The model with another end-of-sequence token, or with none."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.eos_token = None if token is None else tokenizer.convert_ids_to_tokens(token)
    return replace(model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def peaked_folder(save_random):
    return save_random(scale=30.0)


@pytest.fixture(scope="module")
def peaked(peaked_folder):
    """A random model so sure of its next tokens that p^alpha weighs long traces too."""
    return ending_with(load_model(peaked_folder, "peaked", device="cpu"), EOS)


@pytest.fixture(scope="module")
def log_p(peaked_folder):
    """Log-probabilities of the next token after each row, by Hugging Face's own model."""
    model = AutoModelForCausalLM.from_pretrained(peaked_folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def next_log_p(rows):
        ids = torch.tensor([list(row) for row in rows])
        return model(ids, use_cache=False).logits[:, -1].double().log_softmax(-1).numpy()

    return next_log_p


@pytest.fixture(scope="module")
def prompt(peaked):
    return [peaked.tokenizer.bos_token_id, START]


@pytest.fixture(scope="module")
def every_trace(prompt, log_p):
    """Log p of every trace of at most `N_NEW` tokens, and log p of its first token."""
    found, growing = {}, {(): 0.0}
    for step in range(N_NEW):
        longer = {}
        rows = log_p([[*prompt, *head] for head in growing])
        for (head, before), row in zip(growing.items(), rows, strict=True):
            for token, now in enumerate(row):
                done = token == EOS or step == N_NEW - 1
                (found if done else longer)[(*head, token)] = before + now
        growing = longer
    return found


def shares(traces, weights, kind):
    """Weight of each kind of trace."""
    out = {}
    for trace, weight in zip(traces, weights, strict=True):
        name = kind(trace)
        out[name] = out.get(name, 0.0) + weight
    return out


def variation(p, q):
    return sum(abs(p.get(name, 0.0) - q.get(name, 0.0)) for name in p | q) / 2


def noise(exact, n):
    """The total variation that one of a thousand exact samples of size `n` exceeds."""
    p = np.array(list(exact.values()))
    p /= p.sum()
    draws = np.random.default_rng(0).multinomial(n, p, 1000) / n
    return np.quantile(np.abs(draws - p).sum(1) / 2, 0.999)


@pytest.mark.parametrize(("alpha", "block", "n_steps"), [(1.0, 2, 6), (4.0, 3, 40), (4.0, 2, 24)])
def test_the_law_is_the_power_of_p_over_whole_traces(
    peaked, prompt, every_trace, alpha, block, n_steps
):
    n = 2000
    samples = power_sample(
        peaked,
        [prompt] * n,
        ids=[str(i) for i in range(n)],
        alpha=alpha,
        block=block,
        n_steps=n_steps,
        max_new_tokens=N_NEW,
        batch_size=n,
    )
    traces = list(every_trace)
    weights = np.exp(alpha * np.array(list(every_trace.values())))
    weights /= weights.sum()
    lengths = np.array([len(trace) for trace in traces])
    for whole in (False, True):
        every = shares(traces, weights, lambda t, whole=whole: t if whole else t[0])
        likely = {name for name, weight in every.items() if weight > 0.05}

        def kind(trace, whole=whole, likely=likely):
            name = trace if whole else trace[0]
            return name if name in likely else "rest"

        exact = shares(traces, weights, kind)
        drawn = shares([tuple(s.tokens) for s in samples], np.full(n, 1 / n), kind)
        limit = noise(exact, n)
        assert variation(drawn, exact) < limit
        # Without the factor len(x) / len(x') the chain's law would be this one.
        unweighed = shares(traces, weights * lengths / (weights @ lengths), kind)
        assert variation(unweighed, exact) > 1.5 * limit


def test_low_temperature_alone_has_another_law(peaked, prompt, every_trace, log_p):
    weights = np.exp(4 * np.array(list(every_trace.values())))
    exact = shares(list(every_trace), weights / weights.sum(), lambda t: t[0])
    first = np.exp(4 * log_p([prompt])[0])
    assert variation(dict(enumerate(first / first.sum())), exact) > 8 * noise(exact, 2000)


def drawn(seed, key, move, n):
    return np.random.default_rng([seed, zlib.crc32(key.encode()), move]).random(n)


def slow_chain(prompt, key, log_p, alpha, block, n_steps, n):
    """One chain, token by token; every ratio is the full one of 2510.14901 eq. 9."""

    def grow(head, uniforms, end):
        trace = list(head)
        for uniform in uniforms:
            if len(trace) == end or trace[-1:] == [EOS]:
                break
            weights = np.exp(alpha * log_p([[*prompt, *trace]])[0])
            trace.append(int(np.argmax(weights.cumsum() > uniform * weights.sum())))
        return trace

    def scores(trace, cut):
        p = q = 0.0
        for at, token in enumerate(trace):
            row = log_p([[*prompt, *trace[:at]]])[0]
            p += row[token]
            if at >= cut:
                q += alpha * row[token] - math.log(np.exp(alpha * row).sum())
        return p, q - math.log(len(trace))

    trace, move, cost, accepted = [], 0, 0, 0
    for end in sorted({*range(block, n, block), n}):
        for step in range(n_steps + 1):
            uniforms = drawn(0, key, move, 2 + end)
            move += 1
            if step == 0:
                longer = grow(trace, uniforms[2:], end)
                cost += len(longer) - len(trace)
                trace = longer
                continue
            cut = math.floor(uniforms[0] * len(trace))
            other = grow(trace[:cut], uniforms[2:], end)
            cost += len(other) - cut
            (p, q), (p_other, q_other) = scores(trace, cut), scores(other, cut)
            if math.log(uniforms[1]) < alpha * (p_other - p) + q - q_other:
                trace, accepted = other, accepted + 1
    return trace, cost, accepted / (n_steps * -(-n // block))


@pytest.mark.parametrize(("alpha", "block", "n"), [(1.5, 4, 10), (4.0, 7, 7)])
def test_a_batch_equals_slow_chains(peaked, log_p, monkeypatch, alpha, block, n):
    monkeypatch.setattr(power, "row_uniforms", drawn)
    prompts = [[1, *range(20, 20 + i), START] for i in range(12)]
    ids = [f"row {i}" for i in range(12)]
    settings = {"alpha": alpha, "block": block, "n_steps": 3, "max_new_tokens": n}
    found = power_sample(peaked, prompts, ids=ids, **settings)
    for sample, prompt, id in zip(found, prompts, ids, strict=True):
        expected = slow_chain(prompt, f"{id}/power", log_p, alpha, block, 3, n)
        assert (sample.tokens, sample.n_sampled) == expected[:2]
        assert sample.accepted == pytest.approx(expected[2])
    assert {len(s.tokens) == n for s in found} == {True, False}
    assert 0 < np.mean([s.accepted for s in found]) < 1


SHORT = {"block": 5, "n_steps": 2, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def prompts(sharp):
    """Prompts of different lengths, so that left padding matters."""
    base = [prompt_tokens(sharp, p.prompt) for p in PROBLEMS]
    return [row + row[1 : 1 + 3 * i] for i, row in enumerate(base)]


def test_draws_depend_on_the_seed_and_the_id_alone(sharp, prompts):
    ids = [p.id for p in PROBLEMS]
    together = power_sample(sharp, prompts, ids=ids, alpha=1.5, **SHORT)
    assert power_sample(sharp, prompts, ids=ids, alpha=1.5, batch_size=4, **SHORT) == together
    backwards = power_sample(sharp, prompts[::-1], ids=ids[::-1], alpha=1.5, **SHORT)
    assert backwards[::-1] == together
    for i in range(3):
        alone = power_sample(sharp, [prompts[i]], ids=[ids[i]], alpha=1.5, **SHORT)
        assert alone == [together[i]]
    one, two, again = power_sample(sharp, [prompts[0]] * 3, ids=["a", "b", "a"], alpha=1.5, **SHORT)
    assert one == again and one.tokens != two.tokens
    (other,) = power_sample(sharp, [prompts[0]], ids=["a"], seed=1, alpha=1.5, **SHORT)
    assert other.tokens != one.tokens


def test_alpha_one_accepts_every_step_where_all_lengths_are_equal(sharp, prompts):
    endless = ending_with(sharp, None)
    ids = [p.id for p in PROBLEMS]
    assert {s.accepted for s in power_sample(endless, prompts, ids=ids, alpha=1.0, **SHORT)} == {
        1.0
    }
    assert min(s.accepted for s in power_sample(endless, prompts, ids=ids, **SHORT)) < 1


def test_the_cost_has_its_closed_form_where_no_trace_ends(peaked, prompt):
    n, block, n_steps, n_new = 600, 2, 3, 5
    samples = power_sample(
        ending_with(peaked, None),
        [prompt] * n,
        ids=[str(i) for i in range(n)],
        block=block,
        n_steps=n_steps,
        max_new_tokens=n_new,
    )
    assert {len(s.tokens) for s in samples} == {n_new}
    # A cut among m tokens leaves 1 to m to resample, each as likely: mean (m + 1) / 2.
    ends = (2, 4, 5)
    costs = np.array([s.n_sampled for s in samples])
    expected = n_new + n_steps * sum((m + 1) / 2 for m in ends)
    spread = math.sqrt(n_steps * sum((m * m - 1) / 12 for m in ends))
    assert abs(costs.mean() - expected) < 4 * spread / math.sqrt(n)
    assert costs.std() == pytest.approx(spread, rel=0.15)
    assert costs.min() >= n_new + n_steps * len(ends)
    assert costs.max() <= n_new + n_steps * sum(ends)


def test_traces_end_once_and_are_graded(peaked):
    asked = []

    def grade(problem, text):
        asked.append((problem.id, text))
        return True

    done = []
    problems = [replace(p, id=f"{p.id}/{k}") for p in PROBLEMS for k in range(4)]
    settings = {"alpha": 1.2, "block": 8, "n_steps": 1, "max_new_tokens": 20}
    traces, costs = power_traces(peaked, problems, grade, advance=done.append, **settings)
    rows = [prompt_tokens(peaked, p.prompt) for p in problems]
    samples = power_sample(peaked, rows, ids=[p.id for p in problems], **settings)
    assert sum(done) == len(problems) and min(done) >= 0
    assert costs == [s.n_sampled for s in samples]
    for trace, problem, row, sample in zip(traces, problems, rows, samples, strict=True):
        assert (trace.problem_id, trace.sampled, trace.n_prompt) == (problem.id, True, len(row))
        assert list(trace.tokens) == [*row, *sample.tokens]
        assert EOS not in sample.tokens[:-1]
        assert trace.stopped == (sample.tokens[-1] == EOS) == trace.correct
        assert trace.stopped or len(sample.tokens) == 20
    assert {t.stopped for t in traces} == {True, False}
    assert [id for id, _ in asked] == [t.problem_id for t in traces if t.stopped]
    assert power_traces(peaked, []) == ([], [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alpha": 0.99}, "alpha is 0.99"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"block": 0}, "block is 0"),
        ({"n_steps": 0}, "n_steps is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"ids": ["a", "b"]}, "2 ids for 1 prompts"),
    ],
)
def test_a_setting_out_of_range_is_one_clear_error(peaked, prompt, given, words):
    with pytest.raises(UserError, match=words):
        power_sample(peaked, [prompt], **{"ids": ["a"], **given})
