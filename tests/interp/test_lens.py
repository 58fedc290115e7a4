"""The unembedding says what Hugging Face's own forward does, whatever an architecture does to its logits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.cohere import CohereConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.granite import GraniteConfig

from interp.lens import unembed
from interp.models import Model

SHAPE = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "scaled": CohereConfig(**SHAPE, logit_scale=0.25),
    "divided": GraniteConfig(**SHAPE, logits_scaling=8.0),
    "capped": Gemma2Config(**SHAPE, final_logit_softcapping=0.05),
}


class Bare(Model):
    """Weights without hook points."""

    def __init__(self, hf: Any) -> None:
        object.__setattr__(self, "bridge", SimpleNamespace(original_model=hf))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_are_scaled_and_capped_as_in_the_model_itself(name):
    torch.manual_seed(0)
    hf: Any = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    ids = torch.arange(1, 11)[None]
    states, expected = hf.base_model(ids).last_hidden_state, hf(ids).logits
    torch.testing.assert_close(unembed(Bare(hf), states), expected)
    assert not torch.allclose(hf.lm_head(states), expected, atol=1e-3)


def test_a_soft_cap_is_applied(tiny):
    states = torch.randn(3, 32) * 50
    plain = unembed(tiny, states)
    tiny.bridge.original_model.config.final_logit_softcapping = 2.0
    try:
        torch.testing.assert_close(unembed(tiny, states), 2.0 * torch.tanh(plain / 2.0))
    finally:
        del tiny.bridge.original_model.config.final_logit_softcapping
