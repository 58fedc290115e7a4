"""Points: what each model would say after every prefix, and what the base says under an edit."""

import numpy as np
import pytest
import torch

from interp.errors import UserError
from interp.hybrid.points import (
    Points,
    disagreements,
    entropy_threshold,
    read_points,
    select,
)
from interp.pairs import Pair
from interp.traces import generate
from tests.interp.conftest import PROBLEMS, at_last


@pytest.fixture(scope="module")
def traces(pair):
    return generate(pair.thinking, PROBLEMS, sampled=False, max_new_tokens=14)


@pytest.fixture(scope="module")
def points(pair, traces):
    return read_points(pair, traces, [0, 1], thinking_layer=2)


def rows(points: list[Points]):
    """(points, row, query, trace, token) of every real point."""
    for p in points:
        for row, trace in enumerate(p.trace.tolist()):
            for query in p.real[row].nonzero()[:, 0].tolist():
                yield p, row, query, trace, int(p.at[row, query])


def test_every_generated_token_has_its_point(points, traces):
    found = sorted((trace, at) for *_, trace, at in rows(points))
    expected = [
        (i, t)
        for i, trace in enumerate(traces)
        for t in range(trace.n_prompt - 1, len(trace.tokens) - 1)
    ]
    assert found == expected


def test_points_hold_what_both_models_say_after_the_prefix(points, traces, slow, slow_thinking):
    for p, row, query, trace, at in rows(points):
        prefix = traces[trace].tokens[: at + 1]
        base, thinking = slow.logits(prefix)[-1], slow_thinking.logits(prefix)[-1]
        assert int(p.base_token[row, query]) == int(base.argmax())
        log_p = base.double().log_softmax(-1)
        written, entropy = traces[trace].tokens[at + 1], -float((log_p.exp() * log_p).sum())
        assert float(p.base_entropy[row, query]) == pytest.approx(entropy, abs=1e-4)
        assert float(p.base_loss[row, query]) == pytest.approx(-float(log_p[written]), abs=1e-3)
        assert int(p.target[row, query]) == int(thinking.argmax())
        assert int(p.written[row, query]) == written
        assert bool(p.differ[row, query]) == (int(base.argmax()) != int(thinking.argmax()))
        resid = slow_thinking.outputs(prefix, 2)[-1]
        torch.testing.assert_close(p.thinking_resid[row, query], resid, atol=1e-3, rtol=1e-4)


def test_the_base_s_logits_are_those_after_each_prefix(points, traces, slow):
    some = select(points, [p.differ for p in points])
    for p in some:
        expected = [slow.logits(traces[i].tokens[: at + 1])[-1] for *_, i, at in rows([p])]
        torch.testing.assert_close(p.base_logits(), torch.stack(expected), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("most", "chunk"), [(1, 1 << 21), (1 << 31, 1)])
def test_neither_batches_nor_parts_change_what_is_read(
    pair, traces, points, monkeypatch, most, chunk
):
    """Numbers that are large for a vocabulary of millions: one text a batch, one position a part."""
    monkeypatch.setattr("interp.hybrid.points.MOST_LOGITS", most)
    monkeypatch.setattr("interp.lens.CHUNK", chunk)
    again = read_points(pair, traces, [0, 1], thinking_layer=2)
    if most == 1:
        assert [len(p.trace) for p in again] == [1] * len(traces)
    for name in ("target", "base_token", "base_entropy", "base_loss"):
        one, other = (
            {
                (trace, at): float(getattr(p, name)[row, query])
                for p, row, query, trace, at in rows(x)
            }
            for x in (points, again)
        )
        assert one == pytest.approx(other, abs=1e-4), name


@pytest.mark.parametrize("layer", [0, 1])
def test_a_part_of_the_points_answers_edits_as_a_full_forward_does(points, traces, slow, layer):
    generator = torch.Generator().manual_seed(layer)
    masks = [torch.rand(p.real.shape, generator=generator) < 0.3 for p in points]
    part = select(points, masks)
    kept = {(trace, at) for *_, trace, at in rows(part)}
    wanted = {
        (trace, at)
        for p, mask in zip(points, masks, strict=True)
        for q, row, query, trace, at in rows([p])
        if mask[row, query]
    }
    assert kept == wanted
    for p in part:
        noise = torch.randn(p.base_resid[layer].shape, generator=generator) * 20
        found = p.logits(layer, p.base_resid[layer] + noise)
        for _, row, query, trace, at in rows([p]):
            edit = at_last(p.base_resid[layer][row, query] + noise[row, query])
            expected = slow.logits(traces[trace].tokens[: at + 1], {layer: edit})[-1]
            torch.testing.assert_close(found[row, query], expected, atol=1e-3, rtol=1e-3)


def test_the_entropy_threshold_has_the_best_f1_of_all(points):
    p = torch.cat([x.base_logits() for x in points]).double().softmax(-1).numpy()
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
    differ = torch.cat([x.differ[x.real] for x in points]).numpy()

    def f1(threshold):
        chosen = entropy >= threshold - 1e-6
        return 2 * (chosen & differ).sum() / (chosen.sum() + differ.sum())

    assert f1(entropy_threshold(points)) == pytest.approx(max(map(f1, entropy)), abs=1e-6)


def test_a_pair_that_never_differs_is_refused(pair, traces):
    same = Pair("same", pair.base, pair.base)
    with pytest.raises(UserError, match="nothing to steer"):
        disagreements(read_points(same, traces, [0], thinking_layer=0))
