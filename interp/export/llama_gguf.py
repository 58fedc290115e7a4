"""A Llama checkpoint as a GGUF file in float32, for llama.cpp to be fed token ids."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.export.runtime import Unproven

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""llama.cpp's name for each weight of a block."""


def write_llama(model: LlamaForCausalLM, path: Path) -> None:
    """Write weights and shapes, and no vocabulary: llama.cpp then reads and returns token ids only.

    Raises `Unproven` where the model has what the file would lose (biases, scaled rotary positions).
    """
    from gguf import GGUFWriter

    config: Any = model.config
    rope = config.rope_parameters or {}
    scaling = rope.get("rope_type", "default")
    if scaling != "default" or config.attention_bias or config.mlp_bias:
        raise Unproven(
            "llama.cpp needs the model as GGUF, which is written here for Llama without biases and without "
            f"scaled rotary positions (this one has {scaling!r})"
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.head_dim or config.hidden_size // heads
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    weights = {k: v.detach().float().cpu() for k, v in model.state_dict().items()}
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        for ours, theirs in BLOCK.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            if ours.endswith(("q_proj", "k_proj")):
                weight = _interleaved(weight, heads if ours.endswith("q_proj") else kv_heads)
            tensors[f"blk.{layer}.{theirs}.weight"] = weight
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows in llama.cpp's order: it rotates neighbors, where Hugging Face rotates halves of a head."""
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return torch.swapaxes(halves, 1, 2).reshape(weight.shape)
