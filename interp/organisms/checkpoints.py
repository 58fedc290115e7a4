"""Small Llama checkpoints in Hugging Face format, and training state that survives a kill."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.errors import UserError
from interp.organisms.corpus import VOCABULARY


def build_tokenizer() -> Any:
    """A word-level tokenizer over the corpus vocabulary; words are separated by spaces, `<s>` begins a text."""
    vocabulary = {word: i for i, word in enumerate(VOCABULARY)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    backend.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build_model(
    seed: int, d_model: int, n_layers: int, n_heads: int, d_mlp: int
) -> LlamaForCausalLM:
    """A randomly initialized Llama model over the corpus vocabulary."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def save_checkpoint(model: LlamaForCausalLM, folder: Path, card: str) -> None:
    """Write weights (float16, half the size), tokenizer and card.

    The folder appears whole or not at all.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict({k: v.half() for k, v in model.state_dict().items()})
    half.save_pretrained(partial)
    build_tokenizer().save_pretrained(partial)
    (partial / "README.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def save_state(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    record: dict[str, Any],
) -> None:
    """Write everything needed to go on training: weights, the optimizers' state, and `record`."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{i}.{k}": torch.as_tensor(v).contiguous()
                for k, v in state.items()
            }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"record": json.dumps(record)})
    os.replace(partial, path)


def load_state(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], recipe: str
) -> dict[str, Any] | None:
    """Restore what `save_state` wrote and return its record; None where there is nothing yet.

    Raises `UserError` where the record's `recipe` is another: its training cannot be gone on with.
    """
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["record"])
    if record.get("recipe") != recipe:
        raise UserError(
            f"{str(path)!r} was left by another recipe (other data or settings): remove its folder "
            "or choose another --out."
        )
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, i, name = key.split(".")
            states[int(number)].setdefault(int(i), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return record
