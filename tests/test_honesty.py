"""On labels that mean nothing the toolkit finds nothing: p-values are small as rarely as they say."""

import numpy as np
import pytest

from interp.activations import hook_name, pool_batch
from interp.behaviors import segment_all
from interp.pairs import load_pair
from interp.tasks import Countdown
from interp.traces import generate
from probes import auroc, permutation_p_value, shuffle_labels

RUNS = 600


@pytest.fixture(scope="module")
def material():
    base = load_pair("countdown-rl").base
    traces = generate(base, Countdown().problems()[::5], seed=3)
    segments = segment_all(base, traces, "grammar")
    hooks = [hook_name("resid_post", layer) for layer in range(base.n_layers)]
    pooled = pool_batch(base, traces, segments, hooks, ["before"])
    labels = np.array([s.behavior or "" for row in segments for s in row])
    groups = np.array([t.problem_id for t, row in zip(traces, segments, strict=True) for _ in row])
    return [pooled[h, "before"].numpy() for h in hooks], labels, groups


def direction(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x[y].mean(0) - x[~y].mean(0)


@pytest.mark.slow
def test_probe_p_values_on_shuffled_labels_are_small_at_most_eight_percent_of_the_time(material):
    layers, labels, groups = material
    x, y = layers[2], labels == "subgoal-setting"
    half = np.array([hash_half(g) for g in groups])

    def score(labels: np.ndarray) -> float:
        v = direction(x[half], labels[half])
        return auroc(x[~half] @ v, labels[~half])

    drawn = [score(shuffle_labels(y, groups, seed)) for seed in range(RUNS + 499)]
    null = np.array(drawn[RUNS:])
    small = np.mean([permutation_p_value(value, null) <= 0.05 for value in drawn[:RUNS]])
    assert small <= 0.08
    assert permutation_p_value(score(y), null) <= 0.01  # and the real labels are found


def hash_half(name: str) -> bool:
    return sum(map(ord, name)) % 2 == 0
