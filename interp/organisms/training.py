"""Next-token training on corpus documents: pre-training and supervised fine-tuning."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.organisms.checkpoints import build_tokenizer, load_state, save_state
from interp.organisms.corpus import VOCABULARY
from interp.runs import content_key

POOL = 32
"""Batches are cut from pools of this many batches sorted by length, so that little is padding."""

_IDS = {word: i for i, word in enumerate(VOCABULARY)}


@dataclass(frozen=True)
class TrainingConfig:
    """One next-token training run: documents a step, steps, and peak learning rates.

    `matrix_rate` is Muon's for the blocks' weight matrices, `learning_rate` AdamW's for the rest.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    matrix_rate: float = 0.02
    warmup: int = 200
    seed: int = 0


def encode(document: str) -> list[int]:
    """Token ids of one document between `<s>` and `</s>` (word-level, so a dictionary does)."""
    return [_IDS["<s>"], *(_IDS[word] for word in document.split()), _IDS["</s>"]]


def _pool(documents: Iterator[str], batch_size: int, generator: torch.Generator) -> list[Tensor]:
    rows = sorted((encode(d) for d in itertools.islice(documents, POOL * batch_size)), key=len)
    batches = []
    for i in torch.randperm(POOL, generator=generator).tolist():
        chunk = rows[i * batch_size : (i + 1) * batch_size]
        width = max(map(len, chunk))
        batches.append(torch.tensor([row + [_IDS["<pad>"]] * (width - len(row)) for row in chunk]))
    return batches


def batches(
    documents: Callable[[int], Iterator[str]], config: TrainingConfig, start: int
) -> Iterator[Tensor]:
    """Right-padded batches from step `start` on; the data of a step depends on its number alone."""
    for pool in itertools.count(start // POOL):
        seed = config.seed * 1_000_003 + pool
        generator = torch.Generator().manual_seed(seed)
        skip = start % POOL if pool == start // POOL else 0
        yield from _pool(documents(seed), config.batch_size, generator)[skip:]


def schedule(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then linear down to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return (config.steps - step) / max(1, config.steps - config.warmup)


def make_optimizers(
    model: LlamaForCausalLM, config: TrainingConfig
) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for embeddings, head and norms.

    At this size it reaches the same arithmetic in about half the time of AdamW alone.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in inside]
    return (
        torch.optim.Muon(matrices, lr=config.matrix_rate, weight_decay=0.01),
        torch.optim.AdamW(
            rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        ),
    )


def train(
    model: LlamaForCausalLM,
    documents: Callable[[int], Iterator[str]],
    config: TrainingConfig,
    state: Path,
    advance: Callable[[str], None] = lambda text: None,
    save_every: int = 500,
) -> list[tuple[int, float]]:
    """Train `model` in place on next tokens and return the curve of `(step, loss in nats)`.

    `documents(seed)` yields endless text. `state` is written every `save_every` steps, and a run
    that was killed goes on from there with the same data.
    """
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, config)
    peaks = (config.matrix_rate, config.learning_rate)
    recipe = content_key(asdict(config), list(itertools.islice(documents(config.seed), 64)))
    record = load_state(state, model, optimizers, recipe) or {
        "step": 0,
        "curve": [],
        "total": 0.0,
        "seen": 0,
    }
    step, curve = int(record["step"]), list(record["curve"])
    model.train()
    pad = build_tokenizer().pad_token_id
    total = torch.tensor(record["total"], dtype=torch.float32, device=device)
    seen = int(record["seen"])
    for batch in itertools.islice(batches(documents, config, step), config.steps - step):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule(step, config)
        batch = batch.to(device, non_blocking=True)
        # On a CPU bfloat16 is emulated, and slower.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten(), ignore_index=pad
        )
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step, total, seen = step + 1, total + loss.detach(), seen + 1
        if step % 100 == 0 or step == config.steps:
            curve.append([step, round(float(total) / seen, 4)])
            total, seen = torch.zeros((), device=device), 0
            advance(f"loss {curve[-1][1]:.3f}")
        else:
            advance("")
        if step % save_every == 0 or step == config.steps:
            save_state(
                state,
                model,
                optimizers,
                {
                    "recipe": recipe,
                    "step": step,
                    "curve": curve,
                    "total": float(total),
                    "seen": seen,
                },
            )
    return [tuple(point) for point in curve]
