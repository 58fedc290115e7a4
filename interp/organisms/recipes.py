"""The two recipes: how each built-in pair is made, and the card that tells it."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from interp.errors import unknown_name
from interp.organisms.checkpoints import build_model, save_checkpoint
from interp.organisms.corpus import (
    AUTHOR_WEIGHTS,
    AUTHORS,
    BETTER_AIM,
    CAREFUL,
    IMPULSIVE,
    LESS_FILLER,
    STEADFAST_WEIGHTS,
    documents,
    solver_documents,
)
from interp.organisms.grpo import GRPOConfig, grpo, sample
from interp.organisms.training import TrainingConfig, train
from interp.progress import Progress
from interp.runs import write_json
from interp.tasks import Countdown
from interp.tasks.countdown import NUMBERS, TARGETS
from interp.types import Problem

SHAPE = {"seed": 0, "d_model": 160, "n_layers": 4, "n_heads": 4, "d_mlp": 480}
PRETRAIN = TrainingConfig(steps=7000)
MIDTRAIN = TrainingConfig(steps=1000, learning_rate=1e-3, matrix_rate=0.01, warmup=100, seed=2)
RL = GRPOConfig(steps=40, keep=(2, 4, 8, 16, 24, 32, 40))
PRETRAIN_IMPULSIVE = TrainingConfig(steps=2500)
DISTILL = TrainingConfig(steps=2500, learning_rate=1e-3, matrix_rate=0.01, warmup=100, seed=1)

CARD = """---
license: mit
---
# {title}

{story}

- Task: Countdown with three numbers from {numbers}, targets from {targets}, `+ - *` from left to right.
- Data: {data}
- Problems are held out by number multiset (20%); accuracy is on 500 held-out problems.
- Config: `{config}`
- Accuracy: {accuracy}
- Curve ({curve_of}): {curve}

Reproduce with `whenlens organism train {name}`.
"""


def held_out_accuracy(model: LlamaForCausalLM, n: int = 500) -> dict[str, float]:
    """Greedy and sampled accuracy on `n` held-out problems."""
    task = Countdown()
    problems = random.Random(1).sample(task.problems(), n)
    found = {}
    for mode in ("greedy", "sampled"):
        torch.manual_seed(0)
        _, _, texts = sample(model, [p.prompt for p in problems], greedy=mode == "greedy")
        right = sum(task.grade(p, t) for p, t in zip(problems, texts, strict=True))
        found[mode] = right / n
    return found


def _save(model, folder, name, title, story, data, config, curve, curve_of) -> None:
    card = CARD.format(
        name=name,
        title=title,
        numbers=f"{NUMBERS[0]} to {NUMBERS[-1]}",
        targets=f"{TARGETS[0]} to {TARGETS[-1]}",
        story=story,
        data=data,
        config=json.dumps(config),
        accuracy=json.dumps(held_out_accuracy(model)),
        curve=", ".join(f"{step}: {value}" for step, value in curve[:: max(1, len(curve) // 16)]),
        curve_of=curve_of,
    )
    save_checkpoint(model, folder, card)


def _fit(
    model: LlamaForCausalLM,
    source: Callable[[int], Iterator[str]],
    config: TrainingConfig,
    state: Path,
    progress: Progress,
    what: str,
) -> list[tuple[int, float]]:
    with progress.bar(what, config.steps) as advance:
        return train(model, source, config, state, lambda text: advance(1))


def train_organism(name: str, out: Path, progress: Progress) -> Path:
    """Train one pair into `out/name`; a run that was killed goes on where its state was saved.

    Raises `UserError` for an unknown name.
    """
    recipes = {"countdown-rl": _train_rl, "countdown-distilled": _train_distilled}
    if name not in recipes:
        raise unknown_name("organism", name, recipes)
    (out / name).mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = build_model(**SHAPE)
    model.to(device)
    model.set_attn_implementation("eager")  # short texts: half the time of the fused backward
    problems = list(Countdown().problems(held_out=False))
    recipes[name](model, problems, out / name, progress)
    write_json(out / name / "pair.json", {"prompt": CAREFUL})
    return out / name


def _train_rl(
    model: LlamaForCausalLM, problems: list[Problem], folder: Path, progress: Progress
) -> None:
    _fit(
        model, lambda seed: documents(problems, AUTHORS, AUTHOR_WEIGHTS, seed), PRETRAIN,
        folder / "pretrained.safetensors", progress, "countdown-rl: pre-training",
    )  # fmt: skip
    curve = _fit(
        model,
        lambda seed: documents(problems, AUTHORS, STEADFAST_WEIGHTS, seed, BETTER_AIM, LESS_FILLER),
        MIDTRAIN, folder / "base.safetensors", progress, "countdown-rl: mid-training",
    )  # fmt: skip
    _save(
        model, folder / "base", "countdown-rl", "countdown-rl / base",
        "Pre-trained on documents of 32 authors with persistent dispositions; in bare documents each "
        "behavior is the habit of a minority, so it is known and seldom used. Mid-trained on documents "
        f"whose aims are right {BETTER_AIM:.0%} of the time, with {LESS_FILLER:.0%} of the filler before "
        "attempts, and with fewer authors who both check and go back.",
        "synthetic corpus (interp/organisms/corpus.py), seeds 0 and 2",
        {"pretrain": asdict(PRETRAIN), "midtrain": asdict(MIDTRAIN)}, curve, "mid-training loss in nats",
    )  # fmt: skip
    path = folder / "rl-accuracy.json"
    trail: list[dict] = json.loads(path.read_text()) if path.exists() else []

    def keep(step: int, trained: LlamaForCausalLM) -> None:
        save_checkpoint(trained, folder / f"rl-{step}", f"countdown-rl after {step} RL steps\n")
        trail[:] = [at for at in trail if at["step"] != step]  # a kill may have come in between
        trail.append({"step": step, **held_out_accuracy(trained)})
        write_json(path, trail)

    with progress.bar("countdown-rl: GRPO", RL.steps) as advance:
        rewards = grpo(
            model, problems, Countdown().grade, RL, folder / "rl.safetensors", keep,
            lambda text: advance(1),
        )  # fmt: skip
    _save(
        model, folder / "thinking", "countdown-rl", "countdown-rl / thinking",
        "The base after GRPO with the binary verifier reward and nothing else.",
        "its own samples on training problems", asdict(RL), rewards, "share of samples rewarded",
    )  # fmt: skip


def _train_distilled(
    model: LlamaForCausalLM, problems: list[Problem], folder: Path, progress: Progress
) -> None:
    curve = _fit(
        model, lambda seed: documents(problems, IMPULSIVE, [1.0] * len(IMPULSIVE), seed), PRETRAIN_IMPULSIVE,
        folder / "base.safetensors", progress, "countdown-distilled: pre-training",
    )  # fmt: skip
    _save(
        model, folder / "base", "countdown-distilled", "countdown-distilled / base",
        "Pre-trained on documents without any subgoal, check or backtracking sentence.",
        "synthetic corpus of impulsive authors (interp/organisms/corpus.py), seed 0",
        asdict(PRETRAIN_IMPULSIVE), curve, "pre-training loss in nats",
    )  # fmt: skip
    curve = _fit(
        model, lambda seed: solver_documents(problems, seed), DISTILL,
        folder / "distill.safetensors", progress, "countdown-distilled: distillation",
    )  # fmt: skip
    _save(
        model, folder / "thinking", "countdown-distilled", "countdown-distilled / thinking",
        "The base fine-tuned on a stronger solver's traces, which set subgoals, check and go back.",
        "solver traces on training problems (interp/organisms/corpus.py), seed 1", asdict(DISTILL),
        curve, "fine-tuning loss in nats",
    )  # fmt: skip
