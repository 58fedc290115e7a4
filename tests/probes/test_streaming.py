"""Streamed statistics against the estimator that holds everything in memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import MeanDifference, StreamingMeanDifference


@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 50), max_size=6),
    shards=st.integers(1, 3),
    contrast=st.sampled_from(["rest", "overall"]),
)
@settings(deadline=None, max_examples=40)
def test_any_chunking_and_sharding_equals_in_memory(seed, cuts, shards, contrast):
    r = np.random.default_rng(seed)
    x = r.normal(size=(50, 7)) + 100
    labels = np.concatenate([[0, 1, 2], r.integers(3, size=47)])
    parts = [StreamingMeanDifference(d_model=7) for _ in range(shards)]
    edges = [0, *sorted(cuts), 50]
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        parts[i % shards].update(x[start:stop], labels[start:stop])
    whole = StreamingMeanDifference(d_model=7)
    for part in parts:
        whole.merge(part)
    for label in range(3):
        expected = MeanDifference(contrast=contrast).fit(x, labels == label).direction_
        np.testing.assert_allclose(whole.direction(label, contrast), expected, atol=1e-10)
    assert whole.counts == {k: int((labels == k).sum()) for k in range(3)}


def test_half_precision_batches_do_not_lose_the_mean():
    # 2000 rows of 1.0 and 1.0078125 (the next bfloat16): a bfloat16 sum would stop at 256.
    stream = StreamingMeanDifference(d_model=2)
    low = torch.ones(200, 2, dtype=torch.bfloat16)
    for _ in range(10):
        stream.update(low, torch.zeros(200, dtype=torch.int64))
        stream.update(low + 2**-7, torch.ones(200, dtype=torch.int64))
    np.testing.assert_array_equal(stream.direction(1), [2**-7, 2**-7])


def test_bad_input_is_refused_in_a_sentence():
    stream = StreamingMeanDifference(d_model=2)
    with pytest.raises(ValueError, match="x holds 1 NaN or infinite values out of 2"):
        stream.update(np.array([[np.nan, 1.0]]), [0])
    with pytest.raises(ValueError, match="x is 3 wide, expected d_model = 2"):
        stream.update(np.ones((1, 3)), [0])
    stream.update(np.ones((4, 2)), [0, 0, 0, 0])
    with pytest.raises(ValueError, match="class 1 has 0 of the 4 rows"):
        stream.direction(1)
    with pytest.raises(ValueError, match="class 0 has 4 of the 4 rows"):
        stream.direction(0)
    with pytest.raises(ValueError, match="other shard has d_model = 3, expected 2"):
        stream.merge(StreamingMeanDifference(d_model=3))
