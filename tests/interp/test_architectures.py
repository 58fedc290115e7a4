"""Each architecture gives Hugging Face's own numbers: padded, cached, read and steered."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
)

from interp.interventions import Add, forward, intervene
from interp.layout import packed
from interp.models import left_pad, load_model, positions_of
from interp.organisms.checkpoints import build_tokenizer
from interp.pooling import SITES, hook_name, pool_batch
from interp.queries import key_values, logits_above, read_cached
from interp.tasks import load_task
from interp.traces import decode, generate, prompt_tokens
from interp.types import Segment, Trace
from tests.interp.conftest import at_last, slow_model

CONFIGS = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    # Its window is shorter than the texts, so that only full layers see their beginning.
    "gemma3": (Gemma3TextConfig, {"head_dim": 8, "sliding_window": 12, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention"]}),
    "olmo2": (Olmo2Config, {}),
    # All layers have a window, and no list of kinds says so.
    "mistral": (MistralConfig, {"sliding_window": 12}),
}  # fmt: skip
SEQUENCES = [[1, 40, 41, 42], [1, 50], [1, *range(30, 70)], [1]]
PROBLEMS = load_task("countdown").problems()[:6]


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tmp_path_factory):
    """A random checkpoint of one architecture, with weights so large that a wrong mask shows."""
    made, more = CONFIGS[request.param]
    tokenizer = build_tokenizer()
    config = made(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(5.0)
    path = tmp_path_factory.mktemp("architecture") / request.param
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, folder.name, device="cpu")


@pytest.fixture(scope="module")
def slow(folder):
    return slow_model(folder)


def test_padded_logits_are_hugging_faces_own(model, slow):
    found = forward(model, SEQUENCES)
    for row, tokens in zip(found, SEQUENCES, strict=True):
        torch.testing.assert_close(row[-len(tokens) :], slow.logits(tokens), atol=1e-4, rtol=1e-4)


def test_the_residual_stream_is_the_output_of_hugging_faces_blocks(model, slow):
    tokens = SEQUENCES[2]
    for layer in range(model.n_layers):
        kept = []
        name = hook_name("resid_post", layer)
        with model.bridge.hooks(fwd_hooks=[(name, lambda x, hook, kept=kept: kept.append(x))]):
            forward(model, [tokens])
        torch.testing.assert_close(kept[0][0], slow.outputs(tokens, layer), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_pooled_activations_of_a_batch_are_those_that_run_with_cache_gives(
    model, site, layout, monkeypatch
):
    if layout == "padded":
        monkeypatch.setattr("interp.pooling.packed", lambda model, texts: None)
    else:
        assert packed(model, SEQUENCES) is not None
    hooks = [hook_name(site, layer) for layer in range(model.n_layers)]
    traces = [Trace(str(i), "m", "", "", tuple(x), 1, True, True) for i, x in enumerate(SEQUENCES)]
    parts = [[Segment(t, t + 1, "") for t in range(len(x))] for x in SEQUENCES]
    found = pool_batch(model, traces, parts, hooks, ["first"])
    with torch.no_grad():
        caches = [model.bridge.run_with_cache(torch.tensor([x]))[1] for x in SEQUENCES]
    for hook in hooks:
        expected = torch.cat([cache[hook][0] for cache in caches])
        torch.testing.assert_close(found[hook, "first"], expected, atol=1e-5, rtol=1e-5)


def test_greedy_generation_is_hugging_faces_own(model, slow):
    prompts = [prompt_tokens(model, problem.prompt) for problem in PROBLEMS]
    prompts = [prompt + prompt[1 : 1 + i] for i, prompt in enumerate(prompts)]
    ids, real = left_pad(prompts, model.tokenizer.pad_token_id, torch.device("cpu"))
    said = slow.model.generate(
        ids, attention_mask=real.long(), max_new_tokens=30, do_sample=False
    )[:, ids.shape[1] :].tolist()  # fmt: skip
    eos = model.tokenizer.eos_token_id
    expected = [row[: row.index(eos) + 1] if eos in row else row for row in said]
    assert decode(model, prompts, None, 30) == expected


@pytest.mark.parametrize("dose", [0.0, 0.5])
def test_cached_generation_is_full_forwards_one_token_at_a_time(model, slow, dose):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    scale = float(slow.outputs(SEQUENCES[2], 1).norm(dim=-1).mean())
    added = vector / vector.norm() * scale * dose
    with intervene(model, Add(vector, 1, dose, scale, at="all")):
        traces = generate(model, PROBLEMS, sampled=False, max_new_tokens=30)
    for problem, trace in zip(PROBLEMS, traces, strict=True):
        prompt = prompt_tokens(model, problem.prompt)
        expected = slow.complete(
            prompt, 30, model.tokenizer.eos_token_id, None, lambda _: {1: lambda x: x + added}
        )
        assert list(trace.tokens[len(prompt) :]) == expected


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_logits_above_a_layer_are_a_full_forward_with_the_edit_at_the_last_token(
    model, slow, layer
):
    ids, real = left_pad(SEQUENCES, model.tokenizer.pad_token_id, torch.device("cpu"))
    kept, cache = read_cached(model, ids, real, [layer], lambda resid: resid[:, -1])
    noise = torch.randn(kept[layer].shape, generator=torch.Generator().manual_seed(layer))
    before = real[:, None].clone()
    before[..., -1] = False
    edited = kept[layer] + noise * kept[layer].norm(dim=-1, keepdim=True) / model.d_model**0.5
    found = logits_above(
        model, layer, edited[:, None], key_values(cache), before, positions_of(real)[:, -1:]
    )
    for i, tokens in enumerate(SEQUENCES):
        expected = slow.logits(tokens, {layer: at_last(edited[i])})[-1]
        torch.testing.assert_close(found[i, 0], expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(expected, slow.logits(tokens)[-1], atol=1e-2)
