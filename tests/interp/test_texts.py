"""A pair whose models are asked in tokens of their own: each reads a text after its own prompt.

As DeepSeek-R1-Distill-Qwen beside Qwen2.5-Math: chats begin with tokens that the base knows by other names, texts
end with one id that has two names, and thinking ends with a token that the base lacks.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from interp.behaviors import segment_all
from interp.config import Config, Material
from interp.divergence.patching import factorial, keep_all, patch, splits_at
from interp.divergence.reading import resid_before
from interp.divergence.tokens import score
from interp.hybrid.controllers import at_disagreements, one_category
from interp.hybrid.decode import THINKING_TOKEN, Arm
from interp.hybrid.points import read_points
from interp.hybrid.writing import Writer
from interp.pairs import BASE_TEMPLATE, Pair, load_pair
from interp.pipeline import read_activations
from interp.pooling import hook_name
from interp.progress import Progress
from interp.runs import Run
from interp.texts import moved, told_to
from interp.traces import generate, prompt_tokens
from interp.types import Trace
from tests.interp.conftest import PROBLEMS
from tests.interp.divergence.test_tokens import exact

RENAMED = {"</s>": "<end>", "aim": "<ask>", "is": "</think>"}
RENAMED |= {f"a{i}": f"own{i}" for i in range(10, 90, 20)}
"""Tokens of the base by the names that the same ids have in the thinking model."""
N_NEW = 12


def renamed(tokenizer):
    """The tokenizer with other names for some ids, one of which ends texts, and a chat template."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    words = parts["model"]["vocab"]
    parts["model"]["vocab"] = {RENAMED.get(word, word): i for word, i in words.items()}
    for added in parts["added_tokens"]:
        added["content"] = RENAMED.get(added["content"], added["content"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        bos_token="<s>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template="<ask> <ask> {{ messages[0]['content'] }} <ask>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module")
def strangers(sharp_folder, other_folder, tmp_path_factory, sharp):
    folder = tmp_path_factory.mktemp("pair")
    (folder / "base").symlink_to(sharp_folder)
    thinking = folder / "thinking"
    thinking.mkdir()
    for file in other_folder.iterdir():
        if not file.name.startswith(("tokenizer", "special")):
            (thinking / file.name).symlink_to(file)
    renamed(sharp.tokenizer).save_pretrained(thinking)
    pair = load_pair(str(folder), device="cpu")
    for model in (pair.base, pair.thinking):
        model.boundary = sharp.boundary
    return pair


def ids_of(pair: Pair, *names: str) -> list[int]:
    return [pair.base.tokenizer.get_vocab()[name] for name in names]


@pytest.fixture(scope="module")
def own(strangers):
    """The thinking model's own traces."""
    return generate(strangers.thinking, PROBLEMS, sampled=True, max_new_tokens=N_NEW)


@pytest.fixture(scope="module")
def told(strangers, own):
    """The traces as the base reads them, those that have anything to read."""
    found = told_to(strangers.base, strangers, own)
    return [trace for trace in found if len(trace.tokens) > trace.n_prompt]


def after_both_prompts(pair: Pair, trace: Trace, n: int | None = None) -> tuple[list[int], ...]:
    """What each model reads: its own prompt, made anew, and the first `n` written tokens."""
    problem = next(p for p in PROBLEMS if p.id == trace.problem_id)
    written = list(trace.tokens[trace.n_prompt :])[:n]
    return tuple(
        prompt_tokens(model, problem.prompt) + written for model in (pair.base, pair.thinking)
    )


def test_each_is_asked_in_tokens_that_it_knows(strangers):
    assert strangers.base.template == BASE_TEMPLATE
    assert strangers.thinking.template == "<ask> <ask> {problem} <ask>"
    (ask,) = ids_of(strangers, "aim")
    begin = prompt_tokens(strangers.thinking, PROBLEMS[0].prompt)
    assert begin[1:3] == [ask, ask] and not strangers.alike
    ours = load_pair(strangers.base.source.spec, strangers.thinking.source.spec, "cpu", "{problem}")
    assert ours.base.template == ours.thinking.template == "{problem}"


def test_only_what_means_the_same_is_shared(strangers):
    end, ask, think = ids_of(strangers, "</s>", "aim", "is")
    shared = set(strangers.vocabulary.ids.tolist())
    assert end in shared and not {ask, think} & shared
    logits = torch.arange(float(strangers.base.bridge.cfg.d_vocab))
    kept = strangers.vocabulary.sayable(logits).softmax(-1)
    assert float(kept[[ask, think]].sum()) == 0 and kept.isfinite().all()


def test_a_text_is_told_after_the_readers_prompt_up_to_the_first_strange_token(strangers):
    end, think, a, b = ids_of(strangers, "</s>", "is", "a5", "a6")
    problem = PROBLEMS[0]
    prompt = prompt_tokens(strangers.thinking, problem.prompt)
    trace = Trace(
        problem.id, "t", problem.prompt, "", (*prompt, a, b, think, a, end), len(prompt), True, True
    )
    whole = replace(trace, tokens=(*prompt, a, b, end))
    cut, kept = told_to(strangers.base, strangers, [trace, whole])
    base = tuple(prompt_tokens(strangers.base, problem.prompt))
    assert cut.tokens == (*base, a, b) and cut.n_prompt == len(base) and not cut.stopped
    assert kept.tokens == (*base, a, b, end) and kept.stopped
    assert told_to(strangers.thinking, strangers, [kept]) == [whole]
    alike = Pair("same", strangers.base, strangers.base)
    assert told_to(alike.base, alike, [trace]) == [trace]


def test_segments_move_with_their_text_and_end_in_it(strangers, own):
    segments = segment_all(strangers.thinking, own, lambda texts: ["deduction" for _ in texts])
    new = told_to(strangers.base, strangers, own)
    n = 0
    for parts, shifted, trace, one in zip(
        segments, moved(segments, own, new), own, new, strict=True
    ):
        room = len(one.tokens) - one.n_prompt
        assert len(shifted) == sum(part.end - trace.n_prompt <= room for part in parts)
        for part, other in zip(parts, shifted, strict=False):
            assert trace.tokens[part.start : part.end] == one.tokens[other.start : other.end]
            n += 1
    assert 10 < n < sum(map(len, segments))


def test_scores_equal_full_forwards_after_each_prompt(strangers, told, slow, slow_thinking):
    shared = strangers.vocabulary.ids
    for trace, one in zip(told, score(strangers, strangers.vocabulary, told), strict=True):
        assert len(one.js) == len(trace.tokens) - trace.n_prompt
        for t in range(len(one.js)):
            texts = after_both_prompts(strangers, trace, t)
            base, thinking = (
                model.logits(text)[-1, shared]
                for model, text in zip((slow, slow_thinking), texts, strict=True)
            )
            expected = exact(base, thinking)
            assert one.js[t] == pytest.approx(expected["js"], rel=1e-2, abs=1e-4)
            assert one.base_token[t] == shared[expected["base_token"]]
            assert one.thinking_token[t] == shared[expected["thinking_token"]]


def test_points_and_residual_streams_are_those_after_each_prompt(
    strangers, told, slow, slow_thinking
):
    n = 0
    for batch in read_points(strangers, told, [1], thinking_layer=2):
        for row, trace in enumerate(batch.trace.tolist()):
            for k in batch.real[row].nonzero()[:, 0].tolist():
                t = int(batch.at[row, k]) + 1 - told[trace].n_prompt
                ours, theirs = after_both_prompts(strangers, told[trace], t)
                got = batch.base_resid[1][row, k], batch.thinking_resid[row, k]
                expected = slow.outputs(ours, 1)[-1], slow_thinking.outputs(theirs, 2)[-1]
                torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-2)
                n += 1
    assert n > 20
    places = [(i, 1) for i, trace in enumerate(told) if len(trace.tokens) > trace.n_prompt + 1]
    read = resid_before(strangers.thinking, told_to(strangers.thinking, strangers, told), places)
    for k, (i, t) in enumerate(places):
        text = after_both_prompts(strangers, told[i], t)[1]
        torch.testing.assert_close(
            read[1, k], slow_thinking.outputs(text, 1)[-1], rtol=1e-3, atol=1e-2
        )


@pytest.mark.parametrize("every", [1, 16], ids=["cpu", "accelerator"])
def test_the_ceiling_of_a_hybrid_is_the_thinking_model_after_its_own_prompt(
    strangers, slow, slow_thinking, looks, every
):
    looks(every)
    writer = Writer(strangers, False, N_NEW, lambda problem, text: False)
    arm = Arm(at_disagreements("d", one_category()), THINKING_TOKEN)
    traces, rows = writer.decode(arm, 0, PROBLEMS)
    shared, end = strangers.vocabulary.ids, ids_of(strangers, "</s>")[0]
    n_changed = 0
    for problem, trace, row in zip(PROBLEMS, traces, rows, strict=True):
        ours, theirs = (
            prompt_tokens(m, problem.prompt) for m in (strangers.base, strangers.thinking)
        )
        said: list[int] = []
        while len(said) < N_NEW and end not in said:
            said.append(int(shared[slow_thinking.logits(theirs + said)[-1, shared].argmax()]))
        assert row.tokens == said
        assert list(trace.tokens) == ours + said
        base = [
            int(shared[slow.logits(ours + said[:t])[-1, shared].argmax()]) for t in range(len(said))
        ]
        assert row.changed == [a != b for a, b in zip(base, said, strict=True)]
        n_changed += sum(row.changed)
    assert n_changed > 10


@pytest.fixture(scope="module")
def splits(strangers, told):
    found = score(strangers, strangers.vocabulary, told)
    at = [(i, np.flatnonzero(one.differ)) for i, one in enumerate(found)]
    places = [(i, int(t[0])) for i, t in at if len(t)]
    tokens = [(int(found[i].thinking_token[t]), int(found[i].base_token[t])) for i, t in places]
    return places, tokens, splits_at(strangers, told, places, tokens)


def test_patches_and_the_factorial_equal_full_forwards_of_each_text(
    strangers, told, splits, slow, slow_thinking
):
    places, tokens, read = splits
    layer = 1
    restored = patch(read, "thinking", "base", 1, ("resid_post",))["resid_post"]
    rows = factorial(read, np.array([told[i].problem_id for i, _ in places]), 0)
    sums = np.zeros(4)
    for row, ((i, t), (wanted, own)) in enumerate(zip(places, tokens, strict=True)):
        ours, theirs = after_both_prompts(strangers, told[i], t)

        def y(model, text, edits=None, wanted=wanted, own=own):
            logits = model.logits(text, edits)[-1]
            return float(logits[wanted] - logits[own])

        def last(resid, theirs=theirs):
            resid = resid.clone()
            resid[0, -1] = slow_thinking.outputs(theirs, layer)[-1]
            return resid

        clean, whole = y(slow, ours), y(slow_thinking, theirs)
        assert restored.whole[row] == pytest.approx(whole - clean, rel=1e-2, abs=2e-2)
        patched = y(slow, ours, {layer: last}) - clean
        assert restored.gain[layer, 0, row] == pytest.approx(patched, rel=1e-2, abs=3e-2)
        lower = slow_thinking.outputs(theirs, layer), slow.outputs(ours, layer)
        sums += [
            clean,
            y(slow, theirs, {layer: lambda r, x=lower[0]: x[None]}),
            y(slow_thinking, ours, {layer: lambda r, x=lower[1]: x[None]}),
            whole,
        ]
    bb, tb, bt, tt = sums / len(places)
    assert rows[layer]["upstream"] == pytest.approx(tb - bb, rel=1e-2, abs=2e-2)
    assert rows[layer]["late"] == pytest.approx(bt - bb, rel=1e-2, abs=2e-2)
    assert rows[layer]["interaction"] == pytest.approx((tt - tb) - (bt - bb), rel=1e-2, abs=2e-2)
    assert keep_all("thinking", read)[0] == pytest.approx(read.run("thinking"))


def test_the_main_job_reads_each_trace_after_the_readers_prompt(
    strangers, own, tmp_path, slow, slow_thinking
):
    base = generate(strangers.base, PROBLEMS, sampled=True, max_new_tokens=N_NEW)
    traces = {("base", "fit"): base, ("thinking", "fit"): own}
    label = lambda texts: ["deduction" if i % 2 else "verification" for i in range(len(texts))]  # noqa: E731
    segments = {
        (name, split): segment_all(getattr(strangers, name), found, label)
        for (name, split), found in traces.items()
    }
    run = Run(tmp_path, {"config": str(Config("strangers"))})
    stores = read_activations(run, strangers, Material(traces, segments), "fit", Progress())
    assert (stores["base"].labels == stores["thinking"].labels).all()
    key, row, n = (hook_name("resid_post", 1), "before"), 0, 0
    for trace, parts in zip(
        [*base, *own], [*segments["base", "fit"], *segments["thinking", "fit"]], strict=True
    ):
        written = list(trace.tokens[trace.n_prompt :])
        known = [token in set(strangers.vocabulary.ids.tolist()) for token in written]
        room = known.index(False) if False in known else len(known)
        for part in parts:
            if part.end - trace.n_prompt > room:
                continue
            texts = after_both_prompts(strangers, trace, part.start - trace.n_prompt)
            for name, model, text in zip(
                ("base", "thinking"), (slow, slow_thinking), texts, strict=True
            ):
                got = torch.from_numpy(stores[name][key][row])
                torch.testing.assert_close(got, model.outputs(text, 1)[-1], rtol=1e-3, atol=1e-2)
            row, n = row + 1, n + 1
    assert row == len(stores["base"].labels) and n > 20
