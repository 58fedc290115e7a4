"""Summaries by brute force over tokens, and concentration by its definition."""

import numpy as np
import pytest

from interp.divergence.summary import FAR, promoted, share, summarize, tabulate
from probes import bootstrap_weights, gini, gini_bootstrap


@pytest.fixture(scope="module")
def table(traces, segments, found):
    return tabulate(traces, segments, found)


def test_every_token_has_its_place_segment_and_distance(traces, segments, found, table):
    row = 0
    for number, (trace, parts, one) in enumerate(zip(traces, segments, found, strict=True)):
        n = len(trace.tokens) - trace.n_prompt
        starts = {p.start - trace.n_prompt for p in parts} | ({n - 1} if trace.stopped else set())
        for t in range(n):
            assert (table.trace[row], table.place[row]) == (number, t)
            assert table.start[row] == (t in starts)
            assert table.distance[row] == min([s - t for s in starts if s >= t], default=n - t)
            inside = [p for p in parts if p.start <= t + trace.n_prompt < p.end]
            assert table.behavior[row] == (inside[0].behavior if inside else "")
            assert table.js[row] == pytest.approx(one.js[t])
            row += 1
    assert row == len(table.js)


def test_summaries_equal_counts_by_hand(found, table):
    said = summarize(table, found, 0)
    rank = np.concatenate([one.rank_in_base for one in found])
    assert said["disagreement"]["value"] == pytest.approx(table.differ.mean())
    assert said["rank"]["unshifted"] == pytest.approx(1 - table.differ.mean())
    assert sum(said["rank"].values()) == pytest.approx(1)
    assert said["js"]["mean"] == pytest.approx(table.js.mean())
    at_starts = table.js[table.start].sum() / table.js.sum()
    assert said["js"]["share_on_segment_starts"] == pytest.approx(at_starts)
    low, high = said["js"]["share_on_segment_starts_ci"]
    assert low <= at_starts <= high
    assert said["promoted_in_base_top5"]["value"] == pytest.approx((rank[table.differ] <= 5).mean())
    for rows in (said["by_position"], said["by_distance"], said["by_behavior"].values()):
        rows = list(rows)
        assert sum(row["tokens"] for row in rows) == len(table.js)
        total = sum(row["tokens"] * (row["js"] or 0) for row in rows)
        assert total == pytest.approx(table.js.sum())
    assert sum(row["js_share"] for row in said["by_behavior"].values()) == pytest.approx(1)
    for row in said["by_distance"]:
        far = row["distance"] == FAR
        here = table.distance >= FAR if far else table.distance == row["distance"]
        assert row["tokens"] == here.sum()
    firsts = [np.flatnonzero(one.differ) for one in found if one.differ.any()]
    assert said["first_divergence"]["share"] == len(firsts) / len(found)
    assert said["first_divergence"]["median"] == np.median([f[0] for f in firsts])


def test_intervals_are_over_traces(table):
    found = share(table, table.differ, np.ones(len(table.js)), 3)
    hits = np.bincount(table.trace, table.differ)
    counts = np.bincount(table.trace)
    samples = [w @ hits / (w @ counts) for w in bootstrap_weights(table.n_traces, 2000, 3)]
    low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
    assert (found.ci.low, found.ci.high) == (pytest.approx(low), pytest.approx(high))


def test_models_that_agree_everywhere_have_no_concentration(pair, vocabulary, traces, segments):
    from interp.divergence.tokens import score
    from interp.pairs import Pair

    same = score(Pair("same", pair.base, pair.base), vocabulary, traces)
    exact = [type(one)(**{**vars(one), "js": np.zeros_like(one.js)}) for one in same]
    said = summarize(tabulate(traces, segments, exact), exact, 0)
    assert said["disagreement"]["value"] == 0
    assert said["promoted_in_base_top5"] is None and said["js"]["gini"] is None
    assert said["first_divergence"] == {"share": 0.0, "median": None}


def test_promoted_pairs_are_counted(pair, found):
    rows = promoted(pair.base, found)
    pairs = [
        (int(one.thinking_token[i]), int(one.base_token[i]))
        for one in found
        for i in np.flatnonzero(one.differ)
    ]
    assert rows[0]["count"] == max(pairs.count(p) for p in pairs)
    assert [r["count"] for r in rows] == sorted((r["count"] for r in rows), reverse=True)
    for row in rows:
        token, base_token = (
            pair.base.tokenizer.convert_tokens_to_ids(row[key]) for key in ("token", "base_token")
        )
        assert pairs.count((token, base_token)) == row["count"]


def slow_gini(x):
    return np.abs(x[:, None] - x[None]).sum() / (2 * len(x) ** 2 * x.mean())


def test_gini_is_its_definition():
    x = np.random.default_rng(0).exponential(size=60)
    assert gini(x) == pytest.approx(slow_gini(x))
    assert gini(np.ones(9)) == pytest.approx(0)
    one_has_all = np.eye(10)[0]
    assert gini(one_has_all) == pytest.approx(0.9)
    for bad in (np.zeros(3), np.array([1.0, -1.0]), np.array([np.nan, 1.0])):
        with pytest.raises(ValueError):
            gini(bad)


def test_gini_intervals_equal_a_slow_loop_over_the_same_resamples():
    draws = np.random.default_rng(1)
    x, groups = draws.exponential(size=40), draws.integers(0, 8, 40)
    found = gini_bootstrap(x, groups, n_boot=101, seed=2)
    samples = [slow_gini(np.repeat(x, w[groups].astype(int))) for w in bootstrap_weights(8, 101, 2)]
    low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
    assert found.value == pytest.approx(slow_gini(x))
    assert (found.ci.low, found.ci.high) == (pytest.approx(low), pytest.approx(high))
