"""Growing in place holds what concatenation holds, through selections and crops."""

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from interp.cache import RoomyLayer, growing_cache


@pytest.mark.parametrize("seed", range(5))
def test_every_step_holds_what_transformers_own_layer_holds(seed):
    draws = torch.Generator().manual_seed(seed)
    found, expected = RoomyLayer(), DynamicLayer()
    rows = 6
    for step in range(40):
        n = 5 if step == 0 else 1 + int(torch.randint(2, (1,), generator=draws))
        new = torch.randn(2, rows, 3, n, 4, generator=draws)
        for layer in (found, expected):
            layer.update(*new)
        if step % 7 == 6 and rows > 1:
            keep = torch.randperm(rows, generator=draws)[: rows - 1]
            rows -= 1
            for layer in (found, expected):
                layer.batch_select_indices(keep)
        if step % 11 == 10:
            for layer in (found, expected):
                layer.crop(-2)
        assert found.get_seq_length() == expected.get_seq_length()
        assert torch.equal(found.keys, expected.keys)
        assert torch.equal(found.values, expected.values)


def test_most_steps_copy_nothing():
    layer, places = RoomyLayer(), set()
    for _ in range(100):
        layer.update(*torch.zeros(2, 1, 1, 1, 4))
        places.add(layer.keys.data_ptr())
    assert len(places) < 10


def test_a_model_gets_a_layer_for_each_of_its_blocks(sharp):
    layers = growing_cache(sharp).layers
    usual = DynamicCache(config=sharp.bridge.original_model.config).layers
    assert [type(x) for x in usual] == [DynamicLayer] * sharp.n_layers
    assert [type(x) for x in layers] == [RoomyLayer] * sharp.n_layers
