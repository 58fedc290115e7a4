"""Texts side by side: each distinct beginning is read once, and only where that is less work."""

import random
from types import SimpleNamespace

import pytest
import torch

from interp.errors import UserError
from interp.layout import WIDEST, attention_mask, batches, packed, padded
from interp.pooling import pool_batch
from tests.interp.conftest import as_traces

OPENING = [1, 30, 31, 32, 33]
SHARED = [[*OPENING, 40 + i, *range(50, 50 + i % 4)] for i in range(12)]


def read(layout):
    """What a layout says of each text: its tokens and their positions."""
    ids = layout.inputs["input_ids"]
    counted = torch.arange(ids.shape[1]).expand_as(ids)  # what models count without position_ids
    positions = layout.inputs.get("position_ids", counted).flatten()
    ids = ids.flatten()
    return [(ids[list(at)].tolist(), positions[list(at)].tolist()) for at in layout.places]


@pytest.mark.parametrize("lay_out", [packed, padded])
@pytest.mark.parametrize("n", [1, 12, 67])
def test_every_text_is_there_with_its_own_positions(tiny, lay_out, n):
    texts = ([*SHARED, [1], [1, 2]] * n)[:n]
    layout = lay_out(tiny, texts)
    if layout is None:
        assert n == 1  # a text alone has nothing in common
        return
    assert read(layout) == [(text, list(range(len(text)))) for text in texts]


def test_a_row_holds_each_distinct_beginning_once_and_sees_nothing_else(tiny):
    layout = packed(tiny, SHARED)
    beginnings = {tuple(text[: k + 1]) for text in SHARED for k in range(len(text))}
    assert layout.inputs["input_ids"].shape == (1, len(beginnings))
    seen = layout.inputs["attention_mask"][0, 0] == 0
    for path in layout.places:
        for k, node in enumerate(path):
            assert sorted(seen[node].nonzero()[:, 0].tolist()) == sorted(path[: k + 1])


def test_texts_with_little_in_common_are_padded(tiny):
    draws = torch.Generator().manual_seed(0)
    texts = torch.randint(4, 60, (32, 60), generator=draws).tolist()
    assert packed(tiny, texts) is None


@pytest.mark.parametrize("per_row", [1, 8, 16, 32, 100])
def test_sorted_rows_are_less_work_than_rows_of_as_many_texts_as_they_come(tiny, per_row):
    draws = random.Random(0)
    texts = [[*OPENING, *draws.choices(range(40, 60), k=draws.randint(5, 15))] for _ in range(200)]
    own_rows, own_width = packed(tiny, texts).inputs["input_ids"].shape
    parts = [texts[i : i + per_row] for i in range(0, len(texts), per_row)]
    width = max(len({tuple(t[:k]) for t in part for k in range(1, len(t) + 1)}) for part in parts)
    cost = 6 * tiny.d_model  # a token costs this, and twice what it looks at
    assert 1 < own_rows and own_width <= WIDEST
    assert own_rows * own_width * (cost + 2 * own_width) < len(parts) * width * (cost + 2 * width)


def test_texts_are_not_packed_where_more_than_attention_mixes_tokens(tiny, monkeypatch):
    assert packed(tiny, SHARED) is not None
    monkeypatch.setattr(tiny.hf.config, "model_type", "lfm2")
    assert packed(tiny, SHARED) is None
    kinds = SimpleNamespace(layer_types=["full_attention", "conv"], sliding_window=None)
    other = SimpleNamespace(base_model=SimpleNamespace(config=kinds), dtype=torch.float32)
    with pytest.raises(UserError, match="layers of conv, in which no mask keeps tokens apart"):
        attention_mask(other, torch.ones(1, 2, 2, dtype=torch.bool), lambda: torch.zeros(1, 2, 2))


def test_texts_whose_masks_would_be_too_large_are_padded(tiny, monkeypatch):
    monkeypatch.setattr("interp.layout.MOST_SEEN", 100)
    assert packed(tiny, SHARED) is None


def test_what_is_read_is_less_unless_someone_else_is_listening(tiny):
    seen, hook = [], "blocks.1.hook_resid_post"
    body = tiny.plain.twin.base_model.layers[0]
    handle = body.register_forward_hook(
        lambda layer, args, out: seen.append(args[0].shape[:2].numel())
    )
    try:
        alone = pool_batch(tiny, *as_traces(SHARED), [hook], ["first"])[hook, "first"]
        with tiny.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: None)]):
            heard = pool_batch(tiny, *as_traces(SHARED), [hook], ["first"])[hook, "first"]
    finally:
        handle.remove()
    assert seen == [5 + 12 + sum(i % 4 for i in range(12)), 12 * 9]
    torch.testing.assert_close(alone, heard, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_rows", [None, 2])
def test_batches_hold_every_text_once_and_keep_to_the_limits(n_rows):
    lengths = [3, 50, 7, 120, 9, 30, 31]
    found = batches(lengths, 100, n_rows)
    assert sorted(i for rows in found for i in rows) == list(range(7))
    for rows in found:
        assert len(rows) == 1 or max(lengths[i] for i in rows) * len(rows) <= 100
    assert max(map(len, found)) == (n_rows or 3)
