"""Directions for the tiny models."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from interp.directions import Direction
from interp.models import load_model
from interp.organisms.checkpoints import build_tokenizer


def direction_for(model, layer=1, unit=8.0, **others):
    """A random direction of a model."""
    fields = {
        "vector": torch.randn(model.d_model, generator=torch.Generator().manual_seed(3)),
        "tokenizer_hash": model.tokenizer_hash,
    } | others
    return Direction(
        behavior="verification",
        layer=layer,
        read="before",
        contrast="rest",
        unit=unit,
        model=model.name,
        model_fingerprint=model.fingerprint,
        hook=f"blocks.{layer}.hook_resid_post",
        fit_split="fit",
        **fields,
    )


@pytest.fixture(scope="session")
def direction(sharp):
    return direction_for(sharp)


@pytest.fixture(scope="session")
def grouped(tmp_path_factory):
    """A random Llama with fewer key-value heads than heads and tied embeddings."""
    folder = tmp_path_factory.mktemp("grouped")
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(5.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, "grouped", device="cpu")
