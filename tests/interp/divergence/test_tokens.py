"""Token by token: closed forms in float64, a slow loop, ranks by sorting, memory that stays flat."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from interp.divergence import tokens
from interp.divergence.store import load_tokens, save_tokens
from interp.divergence.tokens import compare, score
from interp.errors import UserError
from interp.vocabulary import Vocabulary, shared_vocabulary

BY_TOKEN = (
    "base_token", "thinking_token", "rank_in_base", "rank_in_thinking", "top_base", "top_thinking",
    "p_base_promoted",
)  # fmt: skip
"""What half precision may give to another of two equal tokens."""


def exact(base, thinking):
    """Every number of one position from scipy, in float64."""
    p, q = (np.exp(x.double().numpy() - float(x.double().logsumexp(-1))) for x in (base, thinking))
    order_p, order_q = np.argsort(-p, kind="stable"), np.argsort(-q, kind="stable")
    return {
        "kl_base_thinking": entropy(p, q),
        "kl_thinking_base": entropy(q, p),
        "js": jensenshannon(p, q) ** 2,
        "entropy_base": entropy(p),
        "entropy_thinking": entropy(q),
        "base_token": order_p[0],
        "thinking_token": order_q[0],
        "rank_in_base": 1 + list(order_p).index(order_q[0]),
        "rank_in_thinking": 1 + list(order_q).index(order_p[0]),
        "top_base": order_p[:5],
        "top_thinking": order_q[:5],
        "p_base": p[order_p[:5]],
        "p_thinking": q[order_q[:5]],
        "p_base_promoted": p[order_q[0]],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_equal_closed_forms_whatever_the_type(dtype):
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(20, 999, generator=generator) * 4).to(dtype)
    thinking = (torch.randn(20, 999, generator=generator) * 4).to(dtype)
    found = compare(base, thinking)
    for i in range(20):
        for name, expected in exact(base[i], thinking[i]).items():
            got = found[name][i].numpy()
            if name in BY_TOKEN:
                if dtype == torch.float32:
                    np.testing.assert_allclose(got, expected, rtol=2e-4, err_msg=name)
            else:
                np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-6, err_msg=name)


def test_equal_models_never_part():
    logits = torch.randn(5, 50) * 10
    found = compare(logits, logits)
    for name in ("js", "kl_base_thinking", "kl_thinking_base"):
        assert float(found[name].abs().max()) < 1e-6
    assert (found["rank_in_base"] == 1).all() and (found["rank_in_thinking"] == 1).all()


def test_scores_equal_a_slow_loop_of_full_forwards(traces, found, slow, slow_thinking):
    for trace, one in zip(traces, found, strict=True):
        base, thinking = slow.logits(trace.tokens), slow_thinking.logits(trace.tokens)
        assert len(one.js) == len(trace.tokens) - trace.n_prompt
        for t in range(len(one.js)):
            at = trace.n_prompt + t - 1
            expected = exact(base[at], thinking[at])
            for name in ("js", "kl_thinking_base", "entropy_base", "p_base_promoted"):
                assert getattr(one, name)[t] == pytest.approx(expected[name], rel=1e-2, abs=1e-4)
            assert one.base_token[t] == expected["base_token"]
            assert one.thinking_token[t] == expected["thinking_token"]


def test_parts_of_any_size_give_the_same(pair, vocabulary, traces, found, monkeypatch):
    monkeypatch.setattr("interp.lens.CHUNK", 3 * vocabulary.size)
    monkeypatch.setattr(tokens, "N_TOKENS", 64)
    for one, again in zip(found, score(pair, vocabulary, traces), strict=True):
        np.testing.assert_allclose(one.js, again.js, rtol=1e-3, atol=1e-5)
        assert (one.base_token == again.base_token).all()


def test_numbers_come_back_from_disk(tmp_path, found):
    save_tokens(tmp_path / "t.safetensors", found)
    for one, again in zip(found, load_tokens(tmp_path / "t.safetensors"), strict=True):
        for name, values in vars(one).items():
            np.testing.assert_array_equal(values, getattr(again, name))


LARGE = """
import torch
from interp.divergence.tokens import score
from interp.hybrid.points import read_points
from interp.power import power_sample
from interp.vocabulary import Vocabulary
from interp.pairs import Pair
from interp.types import Trace
from interp.models import load_model
from interp.pairs import weights_folder
from tests.memory import peak_memory

torch.manual_seed(0)
base = load_model(weights_folder("countdown-rl") / "base", device="cpu")
words, head = torch.nn.Embedding(150_000, 160), torch.nn.Linear(160, 150_000, bias=False)
for hf in (base.bridge.original_model, base.plain.twin):
    hf.base_model.embed_tokens, hf.lm_head = words, head
base.bridge.cfg.d_vocab = 150_000
pair = Pair("large", base, base)
trace = Trace("p", "m", "", "", tuple([1] + [5 + i % 100 for i in range(255)]), 1, True, True)
works = (
    lambda traces: score(pair, Vocabulary(150_000), traces),
    lambda traces: read_points(pair, traces, [1], 1),
    lambda traces: power_sample(
        base, [[1]] * len(traces), ids=[str(i) for i in range(len(traces))],
        block=64, n_steps=1, max_new_tokens=64,
    ),
)
for work in works:
    work([trace])  # what a first call sets up is not counted
    for n in (1, 4):
        before = peak_memory(anew=True)
        kept = work([trace] * n)
        print((peak_memory() - before) / 1024)
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_sequences_with_150_000_tokens():
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    grown = [float(said) for said in done.stdout.split()]
    # All logits of one model would be 4 x 256 x 150,000 x 4 bytes = 614 MB.
    assert len(grown) == 6
    for one, four in zip(grown[::2], grown[1::2], strict=True):
        assert four - one < 200
    assert max(grown) < 400


def test_models_with_other_tokens_are_compared_on_the_shared_ones(
    pair, traces, slow, slow_thinking
):
    kept = torch.tensor([i for i in range(pair.base.bridge.cfg.d_vocab) if i % 7 != 3])
    shared = Vocabulary(len(kept), kept)
    for trace, part in zip(traces, score(pair, shared, traces), strict=True):
        base, thinking = slow.logits(trace.tokens), slow_thinking.logits(trace.tokens)
        for t in range(len(part.js)):
            at = trace.n_prompt + t - 1
            expected = exact(base[at, kept], thinking[at, kept])
            assert part.js[t] == pytest.approx(expected["js"], rel=1e-2, abs=1e-4)
            assert part.base_token[t] == kept[expected["base_token"]]
            assert part.top_thinking[t].tolist() == kept[expected["top_thinking"]].tolist()


class Words:
    """A tokenizer's vocabulary and the end of texts, and nothing else of it."""

    eos_token_id = 2

    def __init__(self, vocab):
        self.get_vocab = lambda: vocab


def test_vocabularies_are_aligned_on_the_common_part_or_refused(tiny):
    own = tiny.tokenizer.get_vocab()
    assert shared_vocabulary(tiny, tiny) == Vocabulary(tiny.bridge.cfg.d_vocab)
    added = replace(tiny, tokenizer=Words({**own, "<think>": len(own)}))
    found = shared_vocabulary(tiny, added)
    assert (found.size, found.base_only, found.thinking_only) == (len(own), 0, 1)
    assert found.n_known([0, len(own), 1]) == 1 and found.n_known([0, 1]) == 2
    shifted = {token: (i + 1) % len(own) for token, i in own.items()}
    with pytest.raises(UserError, match="share 0 ids"):
        shared_vocabulary(tiny, replace(tiny, tokenizer=Words(shifted)))
