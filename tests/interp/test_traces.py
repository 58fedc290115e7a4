"""Generation: a row's tokens are its own in any batch, and equal a slow loop without a cache."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from interp.errors import UserError
from interp.interventions import Add, intervene
from interp.models import load_model
from interp.tasks import load_task
from interp.traces import (
    accuracy,
    decode,
    generate,
    next_tokens,
    prompt_tokens,
    read_traces,
    write_traces,
)
from interp.types import Problem
from tests.interp.conftest import slow_model

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 12])[:12]
N_NEW = 24


@pytest.fixture(scope="module")
def prompts(sharp):
    """Prompts of very different lengths, so that left padding matters."""
    base = [prompt_tokens(sharp, p.prompt) for p in PROBLEMS]
    return [row + row[1:] * (i % 4) + row[1 : 1 + i] for i, row in enumerate(base)]


@pytest.fixture(scope="module")
def uniforms(prompts):
    return torch.from_numpy(np.random.default_rng(0).random((len(prompts), N_NEW)))


def draws(uniforms, sampled):
    return uniforms if sampled else None


@pytest.mark.parametrize("sampled", [True, False])
def test_decode_equals_a_loop_without_cache_or_padding(sharp, slow, prompts, uniforms, sampled):
    eos = sharp.tokenizer.eos_token_id
    found = decode(sharp, prompts, draws(uniforms, sampled), N_NEW)
    expected = [
        slow.complete(p, N_NEW, eos, u if sampled else None)
        for p, u in zip(prompts, uniforms.numpy(), strict=True)
    ]
    assert found == expected


@pytest.mark.parametrize("sampled", [True, False])
def test_prompts_read_once_for_all_their_rows_change_no_token_under_any_edit(
    sharp, prompts, uniforms, sampled
):
    rows = [prompts[i] for i in (3, 0, 3, 7, 0, 3, 11, 7, 0)]
    some = draws(uniforms[: len(rows)], sampled)
    vectors = torch.from_numpy(np.random.default_rng(1).normal(size=(len(rows), 32))).float()
    found, passes = {}, {}
    for shared in (True, False):
        with intervene(sharp, Add(vectors, 1, 0.5, 4.0)) as audit:
            found[shared] = decode(sharp, rows, some, N_NEW, share_prompts=shared)
        passes[shared] = audit.positions
    assert found[True] == found[False] != decode(sharp, rows, some, N_NEW)
    assert found[True][0] != found[True][2]
    assert passes[True] == passes[False]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_row_gets_the_same_tokens_alone_in_any_order_and_however_rows_are_dropped(
    sharp, prompts, uniforms, sampled, share
):
    together = decode(sharp, prompts, draws(uniforms, sampled), N_NEW, min_active_share=share)
    order = np.random.default_rng(1).permutation(len(prompts))
    shuffled = decode(sharp, [prompts[i] for i in order], draws(uniforms[order], sampled), N_NEW)
    assert [shuffled[i] for i in np.argsort(order)] == together
    for i in range(len(prompts)):
        own = decode(sharp, [prompts[i]], draws(uniforms[i : i + 1], sampled), N_NEW)
        assert own == [together[i]]


def test_each_row_stops_at_its_own_end(sharp, prompts):
    eos = sharp.tokenizer.eos_token_id
    many = prompts * 6
    uniforms = torch.from_numpy(np.random.default_rng(2).random((len(many), 60)))
    found = decode(sharp, many, uniforms, 60)
    lengths = {len(row) for row in found}
    assert len(lengths) > 3
    for row in found:
        assert eos not in row[:-1]
        assert row[-1] == eos or len(row) == 60


@pytest.mark.parametrize("n", [1, 2, 7])
def test_no_row_is_longer_than_max_new_tokens(sharp, prompts, uniforms, n):
    short = decode(sharp, prompts, uniforms, n)
    assert all(1 <= len(row) <= n for row in short)
    assert short == [row[:n] for row in decode(sharp, prompts, uniforms, N_NEW)]


def test_sampling_follows_the_softmax():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    grid = (torch.arange(20_000) + 0.5) / 20_000
    tokens = next_tokens(logits.expand(len(grid), -1), grid.double())
    shares = np.bincount(tokens.numpy(), minlength=4) / len(grid)
    weights = np.exp([0.0, 1.0, -1.0, 2.0])
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=1e-4)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    edges = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert set(next_tokens(logits.expand(5, -1), edges).tolist()) == {1, 3}


@pytest.mark.parametrize("sampled", [True, False])
def test_traces_do_not_depend_on_the_batch_size(sharp, sampled):
    asked = {"sampled": sampled, "n_samples": 2, "max_new_tokens": N_NEW}
    whole = generate(sharp, PROBLEMS, **asked)
    assert generate(sharp, PROBLEMS, **asked, batch_size=5) == whole
    backwards = generate(sharp, PROBLEMS[::-1], **asked)
    assert sorted(backwards, key=str) == sorted(whole, key=str)


def test_samples_of_one_problem_and_seeds_differ(sharp):
    traces = generate(sharp, PROBLEMS[:3], n_samples=4, max_new_tokens=N_NEW)
    assert [(t.problem_id, t.sample) for t in traces] == [
        (p.id, k) for p in PROBLEMS[:3] for k in range(4)
    ]
    assert len({t.tokens for t in traces}) == len(traces)
    other = generate(sharp, PROBLEMS[:3], n_samples=4, max_new_tokens=N_NEW, seed=1)
    assert all(a.tokens != b.tokens for a, b in zip(traces, other, strict=True))
    assert traces == generate(sharp, PROBLEMS[:3], n_samples=4, max_new_tokens=N_NEW)


def test_a_trace_carries_its_tokens_its_text_and_its_verdict(sharp):
    asked = []

    def grade(problem, text):
        asked.append((problem.id, text))
        return True

    eos = sharp.tokenizer.eos_token_id
    traces = generate(sharp, PROBLEMS, grade, n_samples=6, max_new_tokens=60)
    for trace in traces:
        prompt, new = trace.tokens[: trace.n_prompt], trace.tokens[trace.n_prompt :]
        assert list(prompt) == prompt_tokens(sharp, trace.prompt)
        assert trace.stopped == (new[-1] == eos)
        vocabulary = sharp.tokenizer.convert_ids_to_tokens(list(new[: len(new) - trace.stopped]))
        assert trace.text == " ".join(vocabulary)
        assert trace.correct == trace.stopped  # an unfinished trace is never right
    assert {t.stopped for t in traces} == {True, False}
    assert len(asked) == sum(t.stopped for t in traces)
    assert accuracy(traces).tolist() == [float(t.stopped) for t in traces]


def test_a_prompt_begins_with_exactly_one_bos(sharp):
    bos = sharp.tokenizer.bos_token_id
    for text in ("we need 3 .", "<s> we need 3 ."):
        assert prompt_tokens(sharp, text).count(bos) == 1
        assert prompt_tokens(sharp, text)[0] == bos


def test_a_prompt_gets_no_bos_from_a_tokenizer_that_puts_none(sharp, monkeypatch):
    text, bos = "we need 3 .", sharp.tokenizer.bos_token_id
    assert prompt_tokens(sharp, text) == sharp.tokenizer(text)["input_ids"]
    bare = copy.deepcopy(sharp.tokenizer)
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    assert bare.bos_token_id == bos
    monkeypatch.setattr(sharp, "tokenizer", bare)
    assert prompt_tokens(sharp, text) == bare(text)["input_ids"]
    assert bos not in bare(text)["input_ids"]


def test_a_text_ends_at_any_of_the_tokens_that_the_checkpoint_names(sharp_folder, tmp_path):
    folder = shutil.copytree(sharp_folder, tmp_path / "chat")
    said = slow_model(folder).model.generate(
        torch.tensor([[1, 40, 41]]), max_new_tokens=N_NEW, do_sample=False
    )[0, 3:].tolist()  # fmt: skip
    also = next(token for token in said[3:] if token not in said[:3])
    GenerationConfig(eos_token_id=[2, also], bos_token_id=1, pad_token_id=0).save_pretrained(folder)
    model, slow = load_model(folder, device="cpu"), slow_model(folder)
    prompts = [[1, 40, 41], [1, 50], [1, 60, 61, 62]]
    assert model.ends == (2, also)
    expected = [
        slow.model.generate(torch.tensor([x]), max_new_tokens=N_NEW, do_sample=False)[0, len(x) :]
        for x in prompts
    ]
    assert expected[0].tolist() == said[: said.index(also) + 1]
    assert decode(model, prompts, None, N_NEW) == [row.tolist() for row in expected]
    traces = generate(model, PROBLEMS, sampled=False, max_new_tokens=N_NEW)
    assert [t.stopped for t in traces] == [t.tokens[-1] in (2, also) for t in traces]


def test_traces_survive_the_file(sharp, tmp_path):
    traces = generate(sharp, PROBLEMS, max_new_tokens=8)
    odd = 'line one\nline two\u2028 \u00e9 \U0001f600 " \\ </script>'
    traces.append(replace(traces[0], text=odd, prompt=odd))
    write_traces(traces, tmp_path / "t.jsonl")
    assert read_traces(tmp_path / "t.jsonl") == traces


def broken_files():
    good = {"problem_id": "p", "model": "m", "prompt": "", "text": "", "tokens": [1], "n_prompt": 1}
    good |= {"stopped": True, "correct": False}
    line = json.dumps(good)
    without = json.dumps({k: v for k, v in good.items() if k != "stopped"})
    return {
        "empty": ("", "holds no traces"),
        "cut off": (line + "\n" + line[:-9], "Line 2"),
        "a list": ("[1, 2]\n", "Line 1"),
        "a number": ("7\n", "Line 1"),
        "no tokens": (json.dumps({"text": ""}) + "\n", "Line 1"),
        "a field missing": (line + "\n" + without + "\n", "Line 2"),
        "a field too many": (json.dumps({**good, "x": 1}) + "\n", "Line 1"),
        "tokens are no list": (json.dumps({**good, "tokens": 3}) + "\n", "Line 1"),
    }


@pytest.mark.parametrize(("text", "where"), broken_files().values(), ids=broken_files())
def test_a_broken_file_is_one_clear_error(tmp_path, text, where):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=where):
        read_traces(path)


def test_the_problem_id_keys_the_draws_not_the_prompt(sharp):
    first = Problem("one", PROBLEMS[0].prompt, PROBLEMS[0].data)
    second = Problem("two", PROBLEMS[0].prompt, PROBLEMS[0].data)
    a, b = generate(sharp, [first, second], max_new_tokens=N_NEW)
    assert a.tokens != b.tokens
