"""The fast path gives what the bridge gives, shares its weights, and no hook is lost on it."""

from contextlib import ExitStack

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from interp.interventions import Add, forward, intervene
from interp.models import load_model
from interp.pairs import load_pair
from interp.pooling import hook_name, pool_batch
from interp.traces import decode
from tests.interp.conftest import as_traces, slow_model

PROMPTS = [[1, 40, 41, 42], [1, 50], [1, *range(30, 60)], [1, 9, 8, 7]]
N_NEW = 12
PUSH = torch.randn(32, generator=torch.Generator().manual_seed(0)) * 3


def add(resid, hook=None):
    return resid + PUSH.to(resid)


@pytest.mark.parametrize("which", ["base", "thinking"])
def test_pooling_the_built_in_pair_gives_what_run_with_cache_gives(which):
    model = getattr(load_pair("countdown-rl", device="cpu"), which)
    sites = ("resid_pre", "resid_post")
    hooks = [hook_name(site, layer) for site in sites for layer in range(model.n_layers)]
    found = pool_batch(model, *as_traces(PROMPTS), hooks, ["first"])
    for hook in hooks:
        with torch.no_grad():
            caches = [model.bridge.run_with_cache(torch.tensor([x]))[1][hook] for x in PROMPTS]
        expected = torch.cat([cache[0, 1:] for cache in caches])
        # Of the largest value: float32 leaves no more of a residual stream that is 60 long.
        apart = (found[hook, "first"] - expected).abs().max()
        assert apart <= 1e-5 * expected.abs().max()


def test_both_paths_read_the_same_weights(save_random):
    folder = save_random(scale=5.0)
    model, slow = load_model(folder, device="cpu"), slow_model(folder)
    twin, bridge = model.plain.twin, model.bridge.original_model
    assert {p.data_ptr() for p in twin.parameters()} == {p.data_ptr() for p in bridge.parameters()}
    with torch.no_grad():
        for changed in (bridge, slow.model):
            for name, weight in changed.named_parameters():
                if "down_proj" in name:
                    weight.mul_(-0.5)
    torch.testing.assert_close(
        forward(model, PROMPTS)[2, -31:], slow.logits(PROMPTS[2]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_a_users_own_hook_acts_in_every_pass_of_a_generation(sharp, slow, site):
    passes = []

    def hook(value, hook=None):
        passes.append(value.shape[1])
        return add(value)

    eos = sharp.tokenizer.eos_token_id
    with sharp.bridge.hooks(fwd_hooks=[(hook_name(site, 1), hook)]):
        found = decode(sharp, PROMPTS, None, N_NEW)
    assert passes == [max(map(len, PROMPTS))] + [1] * (max(map(len, found)) - 1)
    layer = slow.model.model.layers[1]
    module = {"attn_out": layer.self_attn, "mlp_out": layer.mlp}.get(site, layer)

    def pushed(module, args, out):
        return (add(out[0]), *out[1:]) if isinstance(out, tuple) else add(out)

    with ExitStack() as stack:
        if site == "resid_pre":
            handle = module.register_forward_pre_hook(
                lambda module, args: (add(args[0]), *args[1:])
            )
        else:
            handle = module.register_forward_hook(pushed)
        stack.callback(handle.remove)
        expected = [slow.complete(p, N_NEW, eos) for p in PROMPTS]
    assert found == expected
    assert found != decode(sharp, PROMPTS, None, N_NEW)


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("part", ["block", "mlp"])
def test_a_hook_of_pytorchs_own_on_a_module_fires(sharp, kind, part):
    block = sharp.bridge.original_model.model.layers[1]
    module, fired = {"block": block, "mlp": block.mlp}[part], []
    if kind == "before":
        handle = module.register_forward_pre_hook(lambda *given: fired.append(1))
    else:
        handle = module.register_forward_hook(lambda *given: fired.append(1))
    try:
        decode(sharp, PROMPTS, None, 3)
    finally:
        handle.remove()
    assert len(fired) == 3


def test_an_edit_acts_alike_whether_or_not_another_hook_looks_inside_a_block(sharp):
    seen = []
    edit = Add(PUSH, 1, 1.0, 3.0, at="all")
    with intervene(sharp, edit) as audit:
        alone = forward(sharp, PROMPTS)
        with sharp.bridge.hooks(
            fwd_hooks=[("blocks.2.attn.hook_pattern", lambda x, hook: seen.append(x))]
        ):
            beside = forward(sharp, PROMPTS)
    assert len(seen) == 1
    assert audit.forwards[1] == 2
    for row, prompt in enumerate(PROMPTS):
        real = slice(-len(prompt), None)
        torch.testing.assert_close(alone[row, real], beside[row, real], atol=1e-4, rtol=1e-4)


def test_a_model_that_cached_everything_once_goes_back_to_the_fast_path(sharp):
    assert sharp.hf is sharp.plain.twin
    with torch.no_grad():
        sharp.bridge.run_with_cache(torch.tensor([PROMPTS[0]]))
    assert sharp.hf is sharp.plain.twin
    with sharp.bridge.hooks(fwd_hooks=[("blocks.0.attn.hook_q", lambda x, hook: None)]):
        assert sharp.hf is sharp.bridge.original_model


@pytest.mark.parametrize("inside", [False, True])
def test_reading_makes_no_logits_and_runs_no_block_above_unless_it_is_hooked(
    sharp, monkeypatch, inside
):
    hooks = [hook_name("resid_post", 0), *([hook_name("mlp_out", 0)] if inside else [])]
    widths, blocks = [], []
    linear, block = torch.nn.Linear.forward, LlamaDecoderLayer.forward
    monkeypatch.setattr(
        torch.nn.Linear,
        "forward",
        lambda self, x: (widths.append(self.out_features), linear(self, x))[1],
    )
    monkeypatch.setattr(
        LlamaDecoderLayer,
        "forward",
        lambda self, *x, **y: (blocks.append(1), block(self, *x, **y))[1],
    )
    pool_batch(sharp, *as_traces(PROMPTS), hooks, ["first"])
    assert len(blocks) == 1
    seen = []
    above = (hook_name("resid_post", 2), lambda x, hook: seen.append(x))
    with sharp.bridge.hooks(fwd_hooks=[above]):
        pool_batch(sharp, *as_traces(PROMPTS), hooks, ["first"])
    assert (len(seen), len(blocks)) == (1, 4)
    assert widths and sharp.bridge.cfg.d_vocab not in widths
