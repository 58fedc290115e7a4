"""On labels that mean nothing the toolkit finds nothing: p-values are small as rarely as they say."""

import numpy as np
import pytest

from interp.activations import collect, hook_name, pool_batch
from interp.behaviors import segment_all
from interp.causal import DOSES, choose
from interp.causal_stage import CausalTest, fitted_vectors, random_vectors, shuffled_vectors
from interp.config import Config, Material, split_problems
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


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    base = load_pair("countdown-rl").base
    config = Config("countdown-rl", seed=5, n_fit=200, n_select=150, n_report=150, n_points=64)
    traces, segments = {}, {}
    for split, problems in split_problems(config).items():
        traces["base", split] = generate(base, problems, seed=5)
        segments["base", split] = segment_all(base, traces["base", split], "grammar")
    fit = traces["base", "fit"], segments["base", "fit"]
    store = collect(base, *fit, tmp_path_factory.mktemp("fit"))
    return CausalTest("addition", base, "base", config, Material(traces, segments), store), store


@pytest.mark.slow
def test_causal_p_values_on_shuffled_labels_are_small_at_most_eight_percent_of_the_time(causal):
    """The proxy's whole path: selection of reading, layer and dose, then p on other problems."""
    test, store = causal
    behavior, n_layers = "subgoal-setting", test.model.n_layers
    i = test.behaviors.index(behavior)

    def both(vectors):
        """Mean effects [reading, layer, dose, behavior] to select by and to report."""
        return [test.effects(points, vectors).mean(-1) for points in (test.select, test.report)]

    def at(effects, dose=None):
        use = choose(effects[0], i, 1, dose)
        return use, effects[1][use.reading, use.layer, DOSES.index(use.dose), i]

    nulls = [both(v) for v in random_vectors(store, n_layers, 100, seed=0)]
    for seed in range(20):
        nulls.append(both(shuffled_vectors(store, [behavior], n_layers, seed)[behavior]))

    def p_value(vectors):
        use, effect = at(both(vectors))
        null = np.array([at(n, use.dose)[1] for n in nulls])
        return permutation_p_value(effect, null)

    meaningless = [
        p_value(shuffled_vectors(store, [behavior], n_layers, 1000 + seed)[behavior])
        for seed in range(200)
    ]
    assert np.mean(np.array(meaningless) <= 0.05) <= 0.08
    assert p_value(fitted_vectors(store, store.labels == behavior, n_layers)) <= 0.01
