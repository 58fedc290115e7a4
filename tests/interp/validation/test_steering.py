"""Steering at several layers, and its side effects, against a slow loop over Hugging Face's own model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.behaviors import segment, segment_all
from interp.decisions import DecisionPoints
from interp.interventions import Add, intervene
from interp.tasks import load_task
from interp.traces import generate
from interp.types import Trace
from interp.validation.quality import (
    MAX_LOGITS,
    batches,
    broken,
    log_probabilities,
    loops,
    neutral_text,
)
from interp.validation.steering import Steering
from tests.interp.conftest import at_last

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 4])[:4]
UNITS = [2.0, 4.0, 8.0]


@pytest.fixture(scope="module")
def traces(sharp):
    return generate(sharp, PROBLEMS, max_new_tokens=25)


@pytest.fixture(scope="module")
def raw():
    draws = torch.Generator().manual_seed(0)
    return {layer: torch.randn(32, generator=draws) * (layer + 1) for layer in (0, 2)}


def test_a_dose_of_one_is_as_long_as_the_stream_where_it_is_longest(raw):
    found = Steering.of(raw, UNITS)
    sizes = found.vectors[0].norm(dim=-1) / torch.tensor([UNITS[0], UNITS[2]])
    assert sizes.max() == pytest.approx(1)
    assert found.main_layer == found.layers[int(sizes.argmax())]
    # The longer vector need not be the longer one beside the stream of its layer.
    assert found.main_layer == 0 and raw[2].norm() > raw[0].norm()
    ratio = found.vectors[0, 1].norm() / found.vectors[0, 0].norm()
    assert ratio == pytest.approx(float(raw[2].norm() / raw[0].norm()))


def test_others_take_the_lengths_of_the_first(raw):
    found = Steering.of(raw, UNITS)
    others = found.lengthen(torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(1)))
    expected = found.vectors[0].norm(dim=-1).expand(5, -1)
    torch.testing.assert_close(others.vectors.norm(dim=-1), expected)


def test_changes_equal_a_full_forward_with_all_layers_edited(sharp, slow, traces, raw):
    segments = [segment(sharp, trace) for trace in traces]
    shares = torch.from_numpy(
        np.random.default_rng(0).random((sharp.bridge.cfg.d_vocab, 2))
    ).float()
    points = DecisionPoints(sharp, traces, segments, shares, n_points=10_000)
    steering, doses = Steering.of(raw, UNITS), (0.5, 2.0)
    found = steering.changes(points, doses)
    prefixes = [t.tokens[: s.start] for t, row in zip(traces, segments, strict=True) for s in row]
    assert found.shape == (1, 2, 2, len(prefixes))
    for k, dose in enumerate(doses):
        for i in range(0, len(prefixes), 3):
            first, last = steering.vectors[0] * dose
            low = slow.outputs(prefixes[i], 0)[-1] + first
            high = slow.outputs(prefixes[i], 2, {0: at_last(low)})[-1] + last
            logits = slow.logits(prefixes[i], {0: at_last(low), 2: at_last(high)})[-1]
            change = logits.softmax(-1) @ shares - points.clean[i]
            np.testing.assert_allclose(found[0, k, :, i], change, atol=1e-4)


def test_traces_are_those_of_one_direction_at_a_time(sharp, raw):
    steering = Steering.of(raw, UNITS)
    both = replace(steering, vectors=torch.cat([steering.vectors, -steering.vectors]))
    rows, audit = both.traces(sharp, PROBLEMS, [0.5, 2.0], lambda p, t: False, 0, 25)
    assert set(audit.rows) == set(range(2 * len(PROBLEMS)))
    for sign, dose, found in zip((1, -1), (0.5, 2.0), rows, strict=True):
        edits = [
            Add(sign * v, layer, dose * float(v.norm()), 1.0)
            for layer, v in zip(steering.layers, steering.vectors[0], strict=True)
        ]
        with intervene(sharp, *edits):
            expected = generate(sharp, PROBLEMS, lambda p, t: False, max_new_tokens=25)
        assert [t.tokens for t in found] == [t.tokens for t in expected]
    assert rows[0] != rows[1]


def trace_of(sharp, text, stopped=True):
    tokens = sharp.tokenizer(text, add_special_tokens=False).input_ids
    return Trace("p", "m", "", text, (*tokens[:1], *tokens), 1, stopped, True)


def test_a_sentence_four_times_is_a_loop_and_a_trace_without_end_is_broken(sharp):
    again = "aim for 24 . "
    traces = [
        trace_of(sharp, again * 5),  # the last token of an ended trace is no text
        trace_of(sharp, again * 4),
        trace_of(sharp, again, stopped=False),
    ]
    assert loops(sharp, traces).tolist() == [1, 0, 0]
    assert broken(sharp, traces).tolist() == [1, 0, 1]


def test_neutral_text_is_the_divergence_of_two_full_forwards(sharp, slow, traces):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(2)) * 5
    segments = segment_all(sharp, traces, "grammar")
    clean = log_probabilities(sharp, traces)
    edit = Add(vector, 1, float(vector.norm()), 1.0, at="all")
    found = neutral_text(sharp, [edit], traces, segments, 0)
    total, n = 0.0, 0
    for i, trace in enumerate(traces):
        p = slow.logits(trace.tokens).log_softmax(-1)[:-1]
        q = slow.logits(trace.tokens, {1: lambda x: x + vector}).log_softmax(-1)[:-1]
        torch.testing.assert_close(clean[i], p, atol=1e-3, rtol=1e-3)
        kl = (p.exp() * (p - q)).sum(-1)
        here = slice(0, trace.n_prompt - 1)
        total, n = total + float(kl[here].sum()), n + trace.n_prompt - 1
    assert found["prompt"]["kl"] == pytest.approx(total / n, rel=1e-2)
    same = neutral_text(sharp, [], traces, segments, 0)
    assert same["prompt"]["kl"] == pytest.approx(0, abs=1e-9)
    assert same["perplexity"]["clean"] == pytest.approx(same["perplexity"]["steered"])


def test_batches_hold_one_length_of_prompts_and_no_more_logits_than_allowed(sharp, traces):
    mixed = [replace(t, n_prompt=t.n_prompt - i % 2) for i, t in enumerate(traces)]
    longest = max(len(t.tokens) for t in mixed)
    found = batches(mixed, MAX_LOGITS // (2 * longest))
    assert sorted(i for rows in found for i in rows) == list(range(len(mixed)))
    assert max(map(len, found)) <= 2
    assert all(len({mixed[i].n_prompt for i in rows}) == 1 for rows in found)
    assert {len(rows) for rows in batches(mixed, 2 * MAX_LOGITS)} == {1}
