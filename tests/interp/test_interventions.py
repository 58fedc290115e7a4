"""Edits do what they say, where they say, and nothing else; the audit counts them."""

import math

import numpy as np
import pytest
import torch

from interp.errors import UserError
from interp.interventions import Ablate, Add, MeanAblate, forward, intervene
from interp.models import Frame
from interp.tasks import load_task
from interp.traces import decode, generate, prompt_tokens

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 10])[:10]
N_NEW = 24


def random_vectors(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


VECTOR = random_vectors(32)
UNIT = VECTOR / VECTOR.norm()
MEANS = {1: random_vectors(32, seed=1), 0: random_vectors(32, seed=2)}


@pytest.fixture(scope="module")
def prompts(sharp):
    base = [prompt_tokens(sharp, p.prompt) for p in PROBLEMS]
    return [row + row[1:] * (i % 3) + row[1 : 1 + i % 5] for i, row in enumerate(base)]


@pytest.fixture(scope="module")
def uniforms(prompts):
    return torch.from_numpy(np.random.default_rng(0).random((len(prompts), N_NEW)))


@pytest.fixture(scope="module")
def clean_tokens(sharp, prompts, uniforms):
    return decode(sharp, prompts, uniforms, N_NEW)


def input_of_block(model, layer, run):
    """What block `layer` reads while `run()` runs: the stream after the edits of the one below."""
    kept = []
    block = model.bridge.original_model.model.layers[layer]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: kept.append((args or [kwargs["hidden_states"]])[0].clone()),
        with_kwargs=True,
    )
    try:
        run()
    finally:
        handle.remove()
    return kept[0]


def where_edited(model, prompts, at, starts_from=7):
    """Edited positions [row, pos] of a left-padded batch, one by one."""
    width = max(map(len, prompts))
    where = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        for i, token in enumerate(prompt):
            decided = i == starts_from or (bool(model.boundary[token]) and i > starts_from)
            where[row, width - len(prompt) + i] = at == "all" or decided
    return where


def real_of(prompts):
    width = max(map(len, prompts))
    return torch.tensor([[i >= width - len(p) for i in range(width)] for p in prompts])


@pytest.mark.parametrize("at", ["all", "starts"])
def test_dose_zero_changes_nothing_to_the_bit(sharp, prompts, uniforms, clean_tokens, at):
    clean = forward(sharp, prompts)
    with intervene(sharp, Add(VECTOR, 1, 0.0, 2.0, at=at)) as audit:
        assert torch.equal(forward(sharp, prompts), clean)
        assert decode(sharp, prompts, uniforms, N_NEW) == clean_tokens
    assert audit.change[1] == 0


@pytest.mark.parametrize("at", ["all", "starts"])
@pytest.mark.parametrize("kind", ["add", "ablate", "mean"])
def test_an_edit_does_its_formula_at_its_positions_and_nothing_elsewhere(sharp, prompts, kind, at):
    clean = input_of_block(sharp, 2, lambda: forward(sharp, prompts))
    edit = {
        "add": Add(VECTOR, 1, 0.3, 2.0, at=at),
        "ablate": Ablate(VECTOR, (1,), at=at),
        "mean": MeanAblate(VECTOR, {1: MEANS[1]}, at=at),
    }[kind]
    with intervene(sharp, edit) as audit:
        found = input_of_block(sharp, 2, lambda: forward(sharp, prompts, starts_from=7))
    where = where_edited(sharp, prompts, at)
    real = real_of(prompts)
    assert 0 < where.sum() <= real.sum()
    assert torch.equal(found[~where & real], clean[~where & real])
    change, component = found[where] - clean[where], found[where] @ UNIT
    if kind == "add":
        torch.testing.assert_close(change, (0.6 * UNIT).expand_as(change), atol=1e-5, rtol=0)
        torch.testing.assert_close(change.norm(dim=-1), torch.full((len(change),), 0.6))
        assert audit.mean_change(1) == pytest.approx(0.6, rel=1e-4)
    else:
        target = 0.0 if kind == "ablate" else float(MEANS[1] @ UNIT)
        torch.testing.assert_close(component, torch.full_like(component, target), atol=1e-5, rtol=0)
        across = change - (change @ UNIT)[:, None] * UNIT
        torch.testing.assert_close(across, torch.zeros_like(across), atol=1e-5, rtol=0)


def test_an_edit_of_one_row_leaves_the_others_alone(sharp, prompts):
    vectors = random_vectors(len(prompts), 32)
    doses = torch.zeros(len(prompts))
    doses[3] = 0.5
    clean = forward(sharp, prompts)
    with intervene(sharp, Add(vectors, 1, doses, 2.0, at="all")):
        found = forward(sharp, prompts)
    same = [torch.equal(a, b) for a, b in zip(clean, found, strict=True)]
    assert same == [i != 3 for i in range(len(prompts))]


def slow_edits(model, edit, n_prompt, vector):
    """The same intervention as a plain function of the tokens so far."""
    unit = vector / vector.norm()

    def edits_for(tokens):
        places = [
            i
            for i, token in enumerate(tokens)
            if edit.at == "all" or i == n_prompt - 1 or (i >= n_prompt and model.boundary[token])
        ]

        def change(resid, layer):
            resid = resid.clone()
            for i in places:
                x = resid[0, i]
                if isinstance(edit, Add):
                    resid[0, i] = x + unit * 0.4 * edit.unit
                else:
                    goal = edit.means[layer] @ unit if isinstance(edit, MeanAblate) else 0.0
                    resid[0, i] = x - (x @ unit - goal) * unit
            return resid

        return {layer: lambda resid, layer=layer: change(resid, layer) for layer in edit.layers}

    return edits_for


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("at", ["all", "starts"])
@pytest.mark.parametrize("kind", ["add", "ablate", "mean"])
def test_cached_generation_equals_a_loop_of_full_edited_forwards(
    sharp, slow, prompts, uniforms, clean_tokens, kind, at, sampled
):
    vectors = random_vectors(len(prompts), 32, seed=3)
    edit = {
        "add": Add(vectors, 1, 0.4, 4.0, at=at),
        "ablate": Ablate(vectors, (0, 2), at=at),
        "mean": MeanAblate(vectors, MEANS, at=at),
    }[kind]
    with intervene(sharp, edit) as audit:
        found = decode(sharp, prompts, uniforms if sampled else None, N_NEW)
    eos = sharp.tokenizer.eos_token_id
    for i, prompt in enumerate(prompts):
        edits_for = slow_edits(sharp, edit, len(prompt), vectors[i])
        draws = uniforms[i].numpy() if sampled else None
        assert found[i] == slow.complete(prompt, N_NEW, eos, draws, edits_for)
    if sampled:
        assert found != clean_tokens
    # every token but the last is fed to the model once
    fed = [(p, new[:-1]) for p, new in zip(prompts, found, strict=True)]
    if at == "all":
        expected = sum(len(p) + len(new) for p, new in fed)
    else:
        expected = sum(1 + sum(bool(sharp.boundary[t]) for t in new) for _, new in fed)
    steps = {0} | {
        step
        for _, new in fed
        for step, token in enumerate(new, 1)
        if at == "all" or sharp.boundary[token]
    }
    assert audit.steps == steps
    for layer in edit.layers:
        assert audit.positions[layer] == expected
        assert audit.forwards[layer] == len(steps)
    assert audit.rows == set(range(len(prompts)))


@pytest.mark.parametrize("kind", ["add", "ablate", "mean"])
def test_each_row_with_its_own_vector_equals_that_row_alone(sharp, kind):
    vectors, doses = random_vectors(10, 32, seed=5), torch.linspace(0.1, 1.5, 10)

    def edit(row):
        return {
            "add": Add(vectors[row], 1, doses[row], 4.0),
            "ablate": Ablate(vectors[row], (0, 1)),
            "mean": MeanAblate(vectors[row], MEANS, at="starts"),
        }[kind]

    with intervene(sharp, edit(slice(None))) as audit:
        together = generate(sharp, PROBLEMS, max_new_tokens=N_NEW, batch_size=4)
    assert audit.rows == set(range(10))
    for row, problem in enumerate(PROBLEMS):
        with intervene(sharp, edit(slice(row, row + 1))):
            assert generate(sharp, [problem], max_new_tokens=N_NEW) == [together[row]]


def test_an_ablation_of_part_strength_goes_that_part_of_the_way(sharp, prompts):
    strengths = torch.linspace(0.0, 2.0, len(prompts))
    real = real_of(prompts)
    clean = input_of_block(sharp, 2, lambda: forward(sharp, prompts))
    with intervene(sharp, MeanAblate(VECTOR, {1: MEANS[1]}, strength=strengths)):
        found = input_of_block(sharp, 2, lambda: forward(sharp, prompts))
    target = float(MEANS[1] @ UNIT)
    for row, strength in enumerate(strengths.tolist()):
        before, after = clean[row, real[row]] @ UNIT, found[row, real[row]] @ UNIT
        torch.testing.assert_close(after, before + strength * (target - before), atol=1e-4, rtol=0)


def test_an_ablation_holds_its_first_layers_distance_from_the_mean_at_the_layers_above(
    sharp, prompts
):
    strengths = torch.linspace(0.0, 3.0, len(prompts))
    means = {layer: MEANS[layer] for layer in (0, 1)}
    real = real_of(prompts)
    clean = input_of_block(sharp, 1, lambda: forward(sharp, prompts))
    with intervene(sharp, MeanAblate(VECTOR, means, strength=strengths)):
        found = input_of_block(sharp, 2, lambda: forward(sharp, prompts))
    for row, strength in enumerate(strengths.tolist()):
        distance = (clean[row, real[row]] - MEANS[0]) @ UNIT
        held = (found[row, real[row]] - MEANS[1]) @ UNIT
        torch.testing.assert_close(held, (1 - strength) * distance, atol=1e-4, rtol=0)


def test_two_interventions_apply_together(sharp, prompts, slow):
    first, second = Add(VECTOR, 0, 0.4, 4.0, at="all"), Ablate(random_vectors(32, seed=9), (1,))
    with intervene(sharp, first, second):
        found = forward(sharp, prompts)
    unit = second.vector / second.vector.norm()
    edits = {0: lambda x: x + 1.6 * UNIT, 1: lambda x: x - (x @ unit)[..., None] * unit}
    for row, prompt in zip(found, prompts, strict=True):
        expected = slow.logits(prompt, edits)
        torch.testing.assert_close(row[-len(prompt) :], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid"])
def test_other_sites_can_be_edited(sharp, prompts, site):
    clean = forward(sharp, prompts)
    with intervene(sharp, Add(VECTOR, 0, 1.0, 2.0, at="all", site=site)) as audit:
        assert not torch.allclose(forward(sharp, prompts), clean)
    assert audit.forwards[0] == 1


def test_the_hooks_are_gone_after_the_block(sharp, prompts):
    clean = forward(sharp, prompts)
    with intervene(sharp, Add(VECTOR, 1, 1.0, 2.0, at="all")):
        assert not torch.equal(forward(sharp, prompts), clean)
    assert torch.equal(forward(sharp, prompts), clean)


def test_the_hooks_are_gone_after_an_exception(sharp, prompts):
    clean = forward(sharp, prompts)
    with pytest.raises(ZeroDivisionError), intervene(sharp, Ablate(VECTOR, (0, 1, 2))):
        forward(sharp, prompts)
        raise ZeroDivisionError
    assert torch.equal(forward(sharp, prompts), clean)
    with pytest.raises(UserError), intervene(sharp, Ablate(VECTOR * math.nan, (0,))):
        forward(sharp, prompts)
    assert sharp.frame is None
    assert torch.equal(forward(sharp, prompts), clean)


def test_an_intervention_that_never_fired_is_an_error(sharp, prompts):
    with (
        pytest.raises(UserError, match="layer 2 of sharp never fired"),
        intervene(sharp, Ablate(VECTOR, (2,))),
    ):
        pass
    # No position may start a segment; that another edit of the layer fires is no excuse.
    for others in ((), (Ablate(VECTOR, (1,)),)):
        with pytest.raises(UserError, match="never fired"):
            with intervene(sharp, *others, Add(VECTOR, 1, 1.0, 1.0, at="starts")):
                forward(sharp, prompts, starts_from=10_000)


def test_an_edit_of_padding_is_an_error(sharp, prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    real = real_of(prompts)
    everywhere = torch.ones_like(real)
    with (
        pytest.raises(UserError, match="layer 1 would edit padding"),
        intervene(sharp, Add(VECTOR, 1, 1.0, 1.0)),
        sharp.framed(Frame(torch.arange(len(ids)), real, everywhere)),
    ):
        sharp.bridge(ids, attention_mask=real.long())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["add", "ablate", "mean"])
def test_values_that_are_not_finite_are_an_error(sharp, prompts, bad, kind):
    vector = VECTOR.clone()
    vector[4] = bad
    edit = {
        "add": Add(vector, 1, 1.0, 1.0, at="all"),
        "ablate": Ablate(vector, (1,)),
        "mean": MeanAblate(vector, {1: MEANS[1]}),
    }[kind]
    with pytest.raises(UserError, match="layer 1 wrote NaN or infinite"), intervene(sharp, edit):
        forward(sharp, prompts)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_an_error(sharp, layer):
    with pytest.raises(UserError, match=f"Layer {layer} is out of range.*0 to 2"):
        with intervene(sharp, Ablate(VECTOR, (layer,))):
            pass


def test_an_unknown_site_is_an_error(sharp):
    with pytest.raises(UserError, match="Unknown site 'mlp'"):
        with intervene(sharp, Ablate(VECTOR, (1,), site="mlp")):
            pass
