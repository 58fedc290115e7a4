"""Training: a killed run ends where an undisturbed one does, and the GRPO loss is its formula."""

import itertools

import pytest
import torch

from interp.errors import UserError
from interp.organisms import recipes
from interp.organisms.checkpoints import build_model, build_tokenizer
from interp.organisms.corpus import AUTHOR_WEIGHTS, AUTHORS, documents
from interp.organisms.grpo import GRPOConfig, advantages, grpo, policy_loss
from interp.organisms.training import TrainingConfig, encode, make_optimizers, schedule, train
from interp.progress import Progress
from interp.tasks import load_task

PROBLEMS = list(load_task("countdown").problems(held_out=False))[:200]


class Killed(Exception):
    pass


def fresh():
    return build_model(seed=0, d_model=16, n_layers=2, n_heads=2, d_mlp=32)


def stream(seed):
    return documents(PROBLEMS, AUTHORS, AUTHOR_WEIGHTS, seed)


def killer(after):
    """An `advance` that raises once `after` steps are done."""
    calls = itertools.count(1)

    def advance(text):
        if next(calls) > after:
            raise Killed

    return advance


def assert_same_weights(left, right):
    for (name, a), (_, b) in zip(left.named_parameters(), right.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_pretraining_resumes_to_the_same_weights_and_curve(tmp_path):
    config = TrainingConfig(steps=6, batch_size=4, warmup=2)
    whole, parts = fresh(), fresh()
    start = [p.detach().clone() for p in whole.parameters()]
    curve = train(whole, stream, config, tmp_path / "whole", save_every=3)
    with pytest.raises(Killed):
        train(parts, stream, config, tmp_path / "parts", killer(4), save_every=3)
    resumed = fresh()
    again = train(resumed, stream, config, tmp_path / "parts", save_every=3)
    assert_same_weights(whole, resumed)
    assert any(not torch.equal(a, b) for a, b in zip(start, resumed.parameters(), strict=True))
    assert curve == again


def test_state_of_another_recipe_is_refused(tmp_path):
    config = TrainingConfig(steps=2, batch_size=4, warmup=2)
    train(fresh(), stream, config, tmp_path / "state", save_every=1)
    longer = TrainingConfig(steps=3, batch_size=4, warmup=2)
    with pytest.raises(UserError, match="another recipe"):
        train(fresh(), stream, longer, tmp_path / "state")
    with pytest.raises(UserError, match="another recipe"):
        train(fresh(), lambda seed: stream(seed + 1), config, tmp_path / "state")


@pytest.mark.parametrize("name", ["rl", "distilled"])
def test_no_recipe_is_given_a_held_out_problem(tmp_path, monkeypatch, name):
    given = []
    monkeypatch.setattr(
        recipes, f"_train_{name}", lambda model, problems, *_: given.extend(problems)
    )
    recipes.train_organism(f"countdown-{name}", tmp_path, Progress())
    held_out = {tuple(p.data["numbers"]) for p in load_task("countdown").problems(held_out=True)}
    assert len(given) > 1000
    assert not held_out & {tuple(p.data["numbers"]) for p in given}


def test_a_finished_run_is_read_back_and_not_trained_again(tmp_path):
    config = TrainingConfig(steps=2, batch_size=4, warmup=2)
    first, second = fresh(), build_model(seed=1, d_model=16, n_layers=2, n_heads=2, d_mlp=32)
    curve = train(first, stream, config, tmp_path / "state")
    assert train(second, stream, config, tmp_path / "state", killer(0)) == curve
    assert_same_weights(first, second)


def test_grpo_resumes_to_the_same_weights_and_curve(tmp_path):
    config = GRPOConfig(steps=3, n_problems=2, n_samples=3, keep=(3,))

    def reward(problem, text):
        return "1" in text

    def run(state, advance=lambda text: None):
        model, kept = fresh(), []
        curve = grpo(model, PROBLEMS, reward, config, state, lambda s, m: kept.append(s), advance)
        return model, curve, kept

    whole, curve, kept = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "parts", killer(1))
    resumed, again, _ = run(tmp_path / "parts")
    assert_same_weights(whole, resumed)
    assert curve == again
    assert [step for step, _ in curve] == [1, 2, 3]
    assert kept == [3]


def test_advantages_are_standardized_within_each_problem():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = advantages(rewards)
    # mean 1/4; sample variance (9 + 1 + 1 + 1) / 16 / 3 = 1/4
    torch.testing.assert_close(found[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=1e-4, rtol=0)
    assert not found[1:].any()


def test_policy_loss_and_its_gradient_equal_a_per_token_loop():
    model = build_model(seed=3, d_model=16, n_layers=2, n_heads=2, d_mlp=32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    pad, eos = build_tokenizer().pad_token_id, build_tokenizer().eos_token_id
    prompts = [[1, 40, 41], [1, 50, 51, 52, 53], [1, 60]]
    completions = [[70, 71, eos], [80, eos], [90, 91, 92, 93]]
    width, length = max(map(len, prompts)), max(map(len, completions))
    ids = torch.tensor(
        [
            [pad] * (width - len(p)) + p + c + [pad] * (length - len(c))
            for p, c in zip(prompts, completions, strict=True)
        ]
    )
    weights = [0.7, -1.2, 2.0]
    loss = policy_loss(model, ids, width, torch.tensor(weights))
    loss.backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    total = torch.zeros(())
    for prompt, completion, weight in zip(prompts, completions, weights, strict=True):
        for i, token in enumerate(completion):
            row = torch.tensor([prompt + completion[:i]])
            log_probs = torch.log_softmax(model(row, use_cache=False).logits[0, -1], -1)
            total = total - weight * log_probs[token] / sum(map(len, completions))
    total.backward()
    torch.testing.assert_close(loss.detach(), total.detach(), atol=1e-5, rtol=1e-5)
    for a, b in zip(found, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_encode_agrees_with_the_tokenizer():
    for document in itertools.islice(stream(0), 50):
        assert encode(document) == build_tokenizer()(f"{document} </s>")["input_ids"]


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    config = TrainingConfig(steps=100, warmup=10)
    rates = [schedule(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx([(90 - i) / 90 for i in range(91)])


def test_every_weight_is_in_exactly_one_optimizer():
    model = fresh()
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, rest = (
        sorted(names[id(p)] for group in o.param_groups for p in group["params"])
        for o in make_optimizers(model, TrainingConfig(steps=1))
    )
    assert sorted(matrices + rest) == sorted(names.values())
    assert all("proj" in name for name in matrices) and len(matrices) == 2 * 7
