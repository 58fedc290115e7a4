"""Patches against a slow loop over Hugging Face's own model, and identities that must hold."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.divergence.explained import divergences
from interp.divergence.layers import Foretold, lens_kl, matched, predict_disagreement
from interp.divergence.patching import COMPONENTS, factorial, keep_all, patch, splits_at
from interp.divergence.projection import projected
from interp.divergence.reading import resid_before
from interp.divergence.summary import tabulate
from interp.divergence.weights import named_weights, weight_changes
from interp.hybrid.points import read_points, select
from interp.lens import lens
from interp.models import load_model
from interp.pairs import Pair
from tests.interp.conftest import at_last

LAYER = 1


@pytest.fixture(scope="module")
def places(found):
    at = [(i, np.flatnonzero(one.differ)) for i, one in enumerate(found)]
    return [(i, int(t[0])) for i, t in at if len(t)]


@pytest.fixture(scope="module")
def groups(traces, places):
    return np.array([traces[i].problem_id for i, _ in places])


@pytest.fixture(scope="module")
def splits(pair, traces, found, places):
    tokens = [(int(found[i].thinking_token[t]), int(found[i].base_token[t])) for i, t in places]
    return splits_at(pair, traces, places, tokens)


def y_of(logits, wanted, own):
    return float(logits[-1, wanted] - logits[-1, own])


def test_y_and_patches_equal_a_slow_loop(pair, slow, slow_thinking, traces, found, places, splits):
    restored = patch(splits, "thinking", "base", 3, ("resid_post",))["resid_post"]
    for row, (i, t) in enumerate(places):
        tokens = list(traces[i].tokens[: traces[i].n_prompt + t])
        pair_of = int(found[i].thinking_token[t]), int(found[i].base_token[t])
        clean = y_of(slow.logits(tokens), *pair_of)
        whole = y_of(slow_thinking.logits(tokens), *pair_of) - clean
        assert restored.whole[row] == pytest.approx(whole, rel=1e-3, abs=1e-2)
        for offset in range(3):

            def edit(resid, offset=offset, tokens=tokens):
                resid = resid.clone()
                resid[0, -1 - offset] = slow_thinking.outputs(tokens, LAYER)[-1 - offset]
                return resid

            patched = y_of(slow.logits(tokens, {LAYER: edit}), *pair_of) - clean
            assert restored.gain[LAYER, offset, row] == pytest.approx(patched, rel=1e-2, abs=2e-2)


def test_a_model_patched_into_itself_changes_nothing(pair, splits):
    own = Pair("own", pair.base, pair.base)
    same = replace(splits, pair=own)
    for one in patch(same, "thinking", "base", 2).values():
        assert np.abs(one.gain).max() < 1e-4


@pytest.fixture(scope="module")
def one_head(pair, other_folder):
    """The same pair with the base's final norm and unembedding in both models."""
    model = load_model(other_folder, "one-head", device="cpu")
    ours, theirs = pair.base.bridge.original_model, model.bridge.original_model
    with torch.no_grad():
        theirs.lm_head.weight.copy_(ours.lm_head.weight)
        theirs.model.norm.weight.copy_(ours.model.norm.weight)
    return Pair("one-head", pair.base, model)


def test_all_of_the_last_residual_stream_restores_everything(one_head, splits, groups):
    both = replace(splits, pair=one_head)
    found = patch(both, "thinking", "base", 1)
    last = one_head.base.n_layers - 1
    np.testing.assert_allclose(
        found["resid_post"].gain[last, 0], found["resid_post"].whole, atol=1e-3
    )
    rows = factorial(both, groups, 0)
    assert rows[last]["upstream"] == pytest.approx(found["resid_post"].whole.mean(), abs=1e-3)
    assert rows[last]["late"] == pytest.approx(0, abs=1e-3)
    assert rows[last]["interaction"] == pytest.approx(0, abs=1e-3)


def test_the_factorial_equals_a_slow_loop(
    slow, slow_thinking, traces, found, places, splits, groups
):
    sums = np.zeros(4)  # Y of base, thinking upstream, base upstream in thinking, thinking
    for i, t in places:
        tokens = list(traces[i].tokens[: traces[i].n_prompt + t])
        pair_of = int(found[i].thinking_token[t]), int(found[i].base_token[t])
        of = {m: m.outputs(tokens, LAYER) for m in (slow, slow_thinking)}
        sums += [
            y_of(slow.logits(tokens), *pair_of),
            y_of(slow.logits(tokens, {LAYER: lambda r, o=of: o[slow_thinking][None]}), *pair_of),
            y_of(slow_thinking.logits(tokens, {LAYER: lambda r, o=of: o[slow][None]}), *pair_of),
            y_of(slow_thinking.logits(tokens), *pair_of),
        ]
    bb, tb, bt, tt = sums / len(places)
    row = factorial(splits, groups, 0)[LAYER]
    assert row["upstream"] == pytest.approx(tb - bb, rel=1e-2, abs=2e-2)
    assert row["late"] == pytest.approx(bt - bb, rel=1e-2, abs=2e-2)
    assert row["interaction"] == pytest.approx((tt - tb) - (bt - bb), rel=1e-2, abs=2e-2)
    assert row["portable"] == pytest.approx((tb - bb) / (tt - bb), rel=2e-2, abs=2e-2)


@contextmanager
def replaced_output(block, values):
    def hook(module, args, out):
        new = (out[0] if isinstance(out, tuple) else out).clone()
        new[0, -1] = values
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def kept_output(block, kept):
    handle = block.register_forward_hook(
        lambda module, args, out: kept.append((out[0] if isinstance(out, tuple) else out)[0, -1])
    )
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("component, module", [("attn_out", "self_attn"), ("mlp_out", "mlp")])
def test_patches_of_components_back_into_the_thinking_model_equal_a_slow_loop(
    pair, slow, slow_thinking, traces, found, places, splits, component, module
):
    restored = patch(splits, "base", "thinking", 1, (component,))[component]
    for row, (i, t) in enumerate(places[:4]):
        tokens = list(traces[i].tokens[: traces[i].n_prompt + t])
        pair_of = int(found[i].thinking_token[t]), int(found[i].base_token[t])
        kept = []
        with kept_output(getattr(slow.model.model.layers[LAYER], module), kept):
            base = y_of(slow.logits(tokens), *pair_of)
        clean = y_of(slow_thinking.logits(tokens), *pair_of)
        with replaced_output(getattr(slow_thinking.model.model.layers[LAYER], module), kept[0]):
            patched = y_of(slow_thinking.logits(tokens), *pair_of)
        assert restored.whole[row] == pytest.approx(base - clean, rel=1e-2, abs=2e-2)
        assert restored.gain[LAYER, 0, row] == pytest.approx(patched - clean, rel=2e-2, abs=3e-2)


def test_components_of_one_layer_add_up_to_its_residual(pair, splits):
    _, kept = keep_all("base", splits, (*COMPONENTS, "resid_pre"))
    for layer in range(pair.base.n_layers):
        parts = [kept[c, layer] for c in ("resid_pre", "attn_out", "mlp_out")]
        real = splits.read["base"][1]
        torch.testing.assert_close(
            sum(parts)[real], kept["resid_post", layer][real], rtol=1e-4, atol=1e-2
        )


def test_the_lens_of_the_last_layer_is_the_model(pair, vocabulary, traces, found, places):
    resid = resid_before(pair.base, traces, places)
    logits = lens(pair.base, resid[-1])
    tokens = [found[i].base_token[t] for i, t in places]
    assert logits.argmax(-1).tolist() == [int(t) for t in tokens]
    kl = lens_kl(pair, vocabulary, traces, places)
    expected = [found[i].kl_thinking_base[t] for i, t in places]
    np.testing.assert_allclose(kl[-1], expected, rtol=1e-2, atol=1e-3)


def test_residual_streams_are_those_before_the_token(pair, slow, traces, places):
    resid = resid_before(pair.base, traces, places[::-1])
    for k, (i, t) in enumerate(places[::-1]):
        at = traces[i].n_prompt + t - 1
        expected = slow.outputs(traces[i].tokens, LAYER)[at]
        torch.testing.assert_close(resid[LAYER, k], expected, rtol=1e-3, atol=1e-2)


def test_agreements_are_matched_to_the_nearest(traces, segments, found):
    table = tabulate(traces, segments, found)
    table = replace(table, differ=table.differ & (np.arange(len(table.js)) % 3 == 0))
    entropy = np.concatenate([one.entropy_base for one in found])
    wanted = np.flatnonzero(table.differ)[:5]
    z = [(v - v.mean()) / v.std() for v in (entropy, table.share)]
    pool = np.flatnonzero(~table.differ)
    for row, got in zip(wanted, matched(table, wanted), strict=True):
        far = [sum((v[row] - v[r]) ** 2 for v in z) for r in pool]
        assert got in pool
        assert sum((v[row] - v[got]) ** 2 for v in z) == pytest.approx(min(far), rel=1e-3, abs=1e-4)


def planted(n, seed, signal):
    draws = np.random.default_rng(seed)
    differ = draws.random(n) < 0.5
    resid = draws.normal(size=(3, n, 8))
    resid[1, :, 2] += signal * differ
    entropy = draws.normal(size=n) + 0.5 * differ
    return Foretold(torch.tensor(resid), differ, entropy, np.arange(n) // 4)


def test_a_planted_foreboding_is_found_in_its_layer_and_none_without_it():
    parts = [planted(400, seed, 4.0) for seed in range(3)]
    found = predict_disagreement(*parts, 0)
    assert found["layer"] == 1 and found["auroc"] > 0.95
    assert 0.55 < found["base_entropy_auroc"] < 0.75 and abs(found["shuffled_auroc"] - 0.5) < 0.15
    gap = found["auroc"] - found["base_entropy_auroc"]
    assert found["difference"]["value"] == pytest.approx(gap)
    assert found["difference"]["ci"][0] > 0
    nothing = predict_disagreement(*[planted(400, seed, 0.0) for seed in range(3)], 0)
    assert nothing["ci"][0] < 0.5 < nothing["ci"][1]


def test_the_full_patch_equals_patching_and_parts_lie_along_directions(
    pair, slow, vocabulary, traces, found, places, splits, groups
):
    whole = patch(splits, "thinking", "base", 1, ("resid_post",))["resid_post"]
    points = read_points(pair, traces, [LAYER], pair.thinking.n_layers - 1)
    wanted = {(i, traces[i].n_prompt + t - 1) for i, t in places}
    masks = [
        torch.tensor(
            [
                [(k, at) in wanted for at in row]
                for k, row in zip(p.trace.tolist(), p.at.tolist(), strict=True)
            ]
        )
        for p in points
    ]
    first = divergences(pair, vocabulary, traces, list(range(len(traces))), select(points, masks))
    at = list(zip(first.trace.tolist(), first.place.tolist(), strict=True))
    order = [places.index(p) for p in at]
    thinking = resid_before(pair.thinking, traces, at)[LAYER]
    base = resid_before(pair.base, traces, at)[LAYER]
    names = ["one", "two"]
    vectors = torch.stack([(thinking - base)[0], torch.randn(32)])
    said = projected(first, LAYER, thinking, whole.whole[order], vectors, names, 25, 0)
    assert said["full"]["value"] == pytest.approx(whole.heatmap[LAYER, 0], rel=1e-3, abs=1e-3)
    # Along the first direction alone, by hand: the patch projected on it, and what is left of it.
    unit = vectors[0] / vectors[0].norm()
    along = ((thinking - base) @ unit)[:, None] * unit
    for edit, got in (
        (along, said["directions"]["one"]["value"]),
        (thinking - base - along, said["directions"]["one"]["complement"]),
    ):
        gain = 0.0
        for k, (i, t) in enumerate(at):
            tokens = list(traces[i].tokens[: traces[i].n_prompt + t])
            pair_of = int(found[i].thinking_token[t]), int(found[i].base_token[t])
            patched = slow.logits(tokens, {LAYER: at_last(base[k] + edit[k])})
            gain += y_of(patched, *pair_of) - y_of(slow.logits(tokens), *pair_of)
        assert got == pytest.approx(gain / whole.whole.sum(), rel=2e-2, abs=2e-2)
    assert 0 < said["directions"]["one"]["p_value"] <= 1
    everything = projected(
        first,
        LAYER,
        thinking,
        whole.whole[order],
        torch.eye(32),
        [str(i) for i in range(32)],
        20,
        0,
    )
    # The span of a whole basis is the whole patch, and nothing is left.
    assert everything["span"]["value"] == pytest.approx(said["full"]["value"], rel=1e-3, abs=1e-3)
    assert everything["complement"]["value"] == pytest.approx(0, abs=1e-3)
    assert everything["random"]["mean"] == pytest.approx(said["full"]["value"], rel=1e-2, abs=1e-2)


def test_a_planted_change_of_weights_is_described(pair, other_folder, tiny_folder):
    before, after = (load_model(tiny_folder, name, device="cpu") for name in ("b", "t"))
    module = "model.layers.1.mlp.down_proj.weight"
    weight = named_weights(after)[module]
    rows, columns = torch.randn(weight.shape[0]), torch.zeros(weight.shape[1])
    columns[:10] = 1.0
    with torch.no_grad():
        weight += torch.outer(rows, columns)
    base = named_weights(before)[module]
    changed = weight_changes(Pair("p", before, after), {"mlp_out": [0.1, 0.7, 0.2]})
    by_name = {row["module"]: row for row in changed}
    one = by_name[module]
    delta = (weight - base).double()
    assert one["relative_change"] == pytest.approx(
        float(delta.norm() / base.double().norm()), rel=1e-4
    )
    assert one["stable_rank"] == pytest.approx(1, rel=1e-3)
    assert one["unchanged"] == pytest.approx(1 - 10 / weight.shape[1], abs=0.01)
    assert (one["layer"], one["component"], one["restored"]) == (1, "mlp_out", 0.7)
    others = [row for name, row in by_name.items() if name != module]
    assert all(row["relative_change"] == 0 and row["stable_rank"] is None for row in others)
    assert {row["restored"] for row in others if row["component"] == "attn_out"} == {None}
