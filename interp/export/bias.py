"""Format `hf-bias`: the edit baked into a Hugging Face checkpoint that plain transformers loads."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.errors import UserError
from interp.export.checkpoint import checkpoint_of, plain_model, transformer_of
from interp.export.hugging_face import HuggingFace
from interp.export.request import Export
from interp.loading import no_progress_bar
from interp.models import Model

BIASED = ("llama",)
"""Model types with an option in their configuration for a bias on the last weight of the MLP."""
WRITERS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types in which embedding, o_proj and down_proj alone write to the residual stream, as they are."""


def write(model: Model, request: Export, out: Path) -> Path:
    """Write the edited checkpoint, in float32, with its tokenizer; returns its folder.

    An addition to the output of a block is a bias of its last weight, down_proj. An ablation projects the
    direction out of every weight that writes to the residual stream (Arditi et al. 2406.11717, eq. 5). Raises
    `UserError` for a model type that has no such place.
    """
    adds = request.operation == "add"
    kind, able = transformer_of(model).config.model_type, BIASED if adds else WRITERS
    if kind not in able:
        raise UserError(
            f"Format 'hf-bias' cannot {request.operation} in a model of type {kind!r} (only in "
            f"{', '.join(able)}), because plain transformers would not load the result: use format 'hook'."
        )
    plain = plain_model(checkpoint_of(model), torch.device("cpu"))
    if adds:
        plain = _with_bias(plain, request.direction.layer, request.shift)
    else:
        _orthogonalize(plain, request.unit)
    folder = out / "checkpoint"
    with no_progress_bar():
        plain.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def run(model: Model, request: Export, out: Path) -> Iterator[HuggingFace]:
    """The checkpoint in plain transformers."""
    yield HuggingFace(plain_model(out / "checkpoint", model.device), request.watched(model))


def _with_bias(plain: Any, layer: int, shift: Float[Tensor, " d_model"]) -> Any:
    config = type(plain.config)(**{**plain.config.to_dict(), "mlp_bias": True})
    biased = LlamaForCausalLM(config)
    biased.load_state_dict(plain.state_dict(), strict=False)
    if not plain.config.mlp_bias:
        for name, weight in biased.named_parameters():
            if ".mlp." in name and name.endswith(".bias"):
                torch.nn.init.zeros_(weight)
    blocks: Any = biased.model.layers
    blocks[layer].mlp.down_proj.bias.data += shift
    biased.generation_config = plain.generation_config
    return biased


def _orthogonalize(plain: Any, unit: Float[Tensor, " d_model"]) -> None:
    if plain.config.tie_word_embeddings:  # the unembedding reads, and stays as it is
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone(), False)
        plain.config.tie_word_embeddings = False
    embedding = plain.model.embed_tokens.weight
    embedding.data -= (embedding @ unit)[:, None] * unit
    for block in plain.model.layers:
        for writer in (block.self_attn.o_proj, block.mlp.down_proj):
            writer.weight.data -= unit[:, None] * (unit @ writer.weight)
            if writer.bias is not None:
                writer.bias.data -= unit * (unit @ writer.bias)
