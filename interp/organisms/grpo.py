"""Group-relative policy optimization with a binary verifier reward and nothing else."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.organisms.checkpoints import build_tokenizer, load_state, save_state
from interp.runs import content_key
from interp.types import Problem

MAX_NEW_TOKENS = 160


@dataclass(frozen=True)
class GRPOConfig:
    """Problems a step, samples a problem, steps, learning rate, and the checkpoints to keep."""

    steps: int
    n_problems: int = 48
    n_samples: int = 8
    learning_rate: float = 2e-4
    keep: tuple[int, ...] = ()
    seed: int = 0


@torch.no_grad()
def sample(
    model: LlamaForCausalLM,
    prompts: list[str],
    greedy: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> tuple[Tensor, int, list[str]]:
    """Complete each prompt at temperature 1; ids [batch, pos], the prompts' width, and the texts."""
    tokenizer = build_tokenizer()
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    batch = batch.to(model.device)
    model.eval()
    ids = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=not greedy,
        **({} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
    )
    width = batch["input_ids"].shape[1]
    return ids, width, tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards [problem, sample] standardized within each problem (Shao et al. 2402.03300, eq. 3).

    A problem whose samples all got the same reward says nothing and gets zeros.
    """
    spread = rewards.std(dim=1, keepdim=True)
    return torch.where(spread > 0, (rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-6), 0.0)


def policy_loss(model: LlamaForCausalLM, ids: Tensor, width: int, advantage: Tensor) -> Tensor:
    """Minus the mean over completion tokens of advantage x log probability (on-policy, no KL)."""
    tokenizer = build_tokenizer()
    mask = ids.ne(tokenizer.pad_token_id).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits = model(
        ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=False
    ).logits[:, width - 1 :]
    log_probs = logits.float().log_softmax(-1).gather(2, ids[:, width:, None])[..., 0]
    generated = mask[:, width:]
    return -(advantage[:, None] * log_probs * generated).sum() / generated.sum()


def grpo(
    model: LlamaForCausalLM,
    problems: list[Problem],
    reward: Callable[[Problem, str], bool],
    config: GRPOConfig,
    state: Path,
    keep: Callable[[int, LlamaForCausalLM], None],
    advance: Callable[[str], None] = lambda text: None,
) -> list[tuple[int, float]]:
    """Train `model` in place; returns the curve of `(step, share of samples rewarded)`.

    `keep(step, model)` is called at the steps in `config.keep`. The state is written at every
    step, and the problems and samples of a step depend on its number alone.
    """
    device = model.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    recipe = content_key(asdict(config), [problem.prompt for problem in problems])
    record = load_state(state, model, [optimizer], recipe) or {"step": 0, "curve": []}
    step, curve = int(record["step"]), list(record["curve"])
    while step < config.steps:
        seed = config.seed * 1_000_003 + step
        torch.manual_seed(seed)
        chosen = torch.randperm(len(problems), generator=torch.Generator().manual_seed(seed))
        group = [problems[i] for i in chosen[: config.n_problems].tolist()]
        asked = [problem for problem in group for _ in range(config.n_samples)]
        ids, width, texts = sample(model, [problem.prompt for problem in asked])
        rewards = torch.tensor([float(reward(p, t)) for p, t in zip(asked, texts, strict=True)])
        advantage = advantages(rewards.view(-1, config.n_samples)).flatten().to(device)
        model.train()
        optimizer.zero_grad()
        policy_loss(model, ids, width, advantage).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        curve.append([step, round(float(rewards.mean()), 4)])
        advance(f"reward {curve[-1][1]:.2f}")
        if step in config.keep:
            keep(step, model)
        save_state(state, model, [optimizer], {"recipe": recipe, "step": step, "curve": curve})
    return [tuple(point) for point in curve]
