"""Streamed LDA and LEACE against the estimators that hold everything in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes import StreamingLDA, StreamingLEACE, WhitenedMeanDifference, leace


def labeled(seed, n=60, d=5, offset=0.0):
    """Correlated rows of three classes of different means, all far from zero by `offset`."""
    r = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 2], r.integers(3, size=n - 3)])
    x = r.normal(size=(n, d)) @ r.normal(size=(d, d)) + r.normal(size=(3, d))[labels]
    return x + offset, labels


def streamed(kind, x, labels, cuts, n_shards):
    """The statistics of x after any cutting into batches, spread over shards that are then merged."""
    shards = [kind(x.shape[1]) for _ in range(n_shards)]
    edges = [0, *sorted(cuts), len(x)]
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        shards[i % n_shards].update(x[start:stop], labels[start:stop])
    whole = kind(x.shape[1])
    for shard in shards:
        whole.merge(shard)
    return whole


chunking = given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    n_shards=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.1, 1.0]),
)


@chunking
@settings(deadline=None, max_examples=30)
def test_any_chunking_of_lda_equals_scikit_learn(seed, cuts, n_shards, share):
    x, labels = labeled(seed)
    stream = streamed(StreamingLDA, x, labels, cuts, n_shards)
    for label in range(3):
        oracle = LinearDiscriminantAnalysis(solver="eigen", shrinkage=share)
        expected = oracle.fit(x, labels == label).coef_[0]
        np.testing.assert_allclose(stream.direction(label, share), expected, rtol=1e-6, atol=1e-7)
        own = WhitenedMeanDifference(share).fit(x, labels == label).direction_
        np.testing.assert_allclose(stream.direction(label, share), own, rtol=1e-6, atol=1e-7)


@chunking
@settings(deadline=None, max_examples=30)
def test_any_chunking_of_leace_equals_in_memory(seed, cuts, n_shards, share):
    x, labels = labeled(seed)
    stream = streamed(StreamingLEACE, x, labels, cuts, n_shards)
    for label in range(3):
        expected = leace(x, labels == label, ridge=share)
        found = stream.eraser(label, ridge=share)
        np.testing.assert_allclose(found(x), expected(x), atol=1e-8)
        np.testing.assert_allclose(found.read, expected.read, atol=1e-8)


def test_the_eraser_is_that_of_the_paper():
    # Belrose et al. 2306.03819, Theorem 4.3, for a label as one-hot columns: r(x) = x - W+ P W (x - mean), with
    # W = S^-1/2 and P the projection on the column space of W times the cross-covariance with the label.
    x, labels = labeled(3, n=400)
    stream = streamed(StreamingLEACE, x, labels, [17, 200], 2)
    for label in range(3):
        z = np.stack([labels == label, labels != label], 1).astype(float)
        centered = x - x.mean(0)
        whiten = fractional_matrix_power(centered.T @ centered / len(x), -0.5).real
        cross = whiten @ centered.T @ (z - z.mean(0)) / len(x)
        project = cross @ np.linalg.pinv(cross)
        expected = x - centered @ (np.linalg.inv(whiten) @ project @ whiten).T
        np.testing.assert_allclose(stream.eraser(label, ridge=0.0)(x), expected, atol=1e-8)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_large_common_offset_costs_nearly_no_digits(offset):
    # A sum of x x' would keep 16 - 2 log10(offset) digits of the covariance: 4 for the larger one.
    x, labels = labeled(5, n=3000)
    near = streamed(StreamingLDA, x, labels, [], 1).direction(1)
    far = streamed(StreamingLDA, x + offset, labels, [*range(0, 3000, 71)], 3).direction(1)
    np.testing.assert_allclose(far, near, rtol=1e-7 * max(1, offset / 1e5), atol=1e-9)
    moved = streamed(StreamingLEACE, x + offset, labels, [*range(0, 3000, 71)], 3).eraser(1)
    np.testing.assert_allclose(moved(x + offset) - offset, leace(x, labels == 1)(x), atol=1e-6)


def test_more_dimensions_than_rows_give_scikit_learns_least_squares_direction():
    x, labels = labeled(1, n=12, d=30)
    found = streamed(StreamingLDA, x, labels, [5], 2).direction(0)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(x, labels == 0).coef_[0]
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine > 1 - 1e-6


@pytest.mark.parametrize(("kind", "ask"), [(StreamingLDA, "direction"), (StreamingLEACE, "eraser")])
def test_bad_input_is_refused_in_a_sentence(kind, ask):
    stream = kind(d_model=2)
    with pytest.raises(ValueError, match="x holds 1 NaN or infinite values out of 2"):
        stream.update(np.array([[np.nan, 1.0]]), [0])
    with pytest.raises(ValueError, match="x is 3 wide, expected d_model = 2"):
        stream.update(np.ones((1, 3)), [0])
    with pytest.raises(ValueError, match="x has 2, labels has 1 rows"):
        stream.update(np.ones((2, 2)), [0])
    stream.update(np.ones((0, 2)), [])
    stream.update(np.ones((4, 2)), [0, 0, 0, 0])
    with pytest.raises(ValueError, match="class 1 has 0 of the 4 rows"):
        getattr(stream, ask)(1)
    with pytest.raises(ValueError, match="class 0 has 4 of the 4 rows"):
        getattr(stream, ask)(0)
    with pytest.raises(ValueError, match="other shard has d_model = 3, expected 2"):
        stream.merge(kind(d_model=3))


def test_shares_out_of_range_and_equal_means_are_refused():
    stream = StreamingLDA(d_model=2)
    stream.update(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="shrinkage is 1.5"):
        stream.direction(0, 1.5)
    same = StreamingLEACE(d_model=2)
    same.update(np.ones((4, 2)), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="one mean"):
        same.eraser(0)
