"""On labels that mean nothing the toolkit finds nothing: p-values are small as rarely as they say."""

import numpy as np
import pytest

from interp.activations import collect, hook_name, pool_batch
from interp.behaviors import segment_all
from interp.causal_stage import CausalTest
from interp.config import Config, Material, split_problems
from interp.pairs import load_pair
from interp.readings import fitted_vectors, shuffled_vectors
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
def causal():
    pair = load_pair("countdown-rl")
    config = Config("countdown-rl", seed=5, n_fit=200, n_select=150, n_report=150, n_points=64)
    splits = split_problems(config)
    wanted = [("base", split) for split in splits] + [("thinking", "fit")]
    traces = {(m, s): generate(getattr(pair, m), splits[s], seed=5) for m, s in wanted}
    segments = {key: segment_all(pair.base, made, "grammar") for key, made in traces.items()}
    pooled = (found["base", "fit"] + found["thinking", "fit"] for found in (traces, segments))
    store = collect(pair.base, *pooled)
    material = Material(traces, segments)
    return CausalTest("addition", pair.base, "base", config, material, store), store


@pytest.mark.slow
def test_causal_p_values_on_shuffled_labels_are_small_at_most_eight_percent_of_the_time(causal):
    """The proxy's whole path: selection of reading, layer and dose, then p on other problems."""
    test, store = causal
    behavior, n_layers = "subgoal-setting", test.model.n_layers
    i, choice = test.behaviors.index(behavior), test.report_at[test.behaviors.index(behavior)]

    def shuffled(seed):
        vectors = shuffled_vectors(store, [behavior], n_layers, test.readings, seed)[behavior]
        return vectors, test.mean_effects(vectors)

    nulls = list(zip(test.random, test.random_effects, strict=True))
    nulls += [shuffled(seed) for seed in range(20)]
    known = {}  # proxies of null arms, each scored once

    def p_value(vectors, effects):
        real = test.arm("real", vectors, effects, i)
        arms = [test.arm(str(n), v, e, i) for n, (v, e) in enumerate(nulls)]
        known.update(test.proxies(arm for arm in arms if arm.name not in known))
        observed = test.proxies([real])[real.name][choice, i].mean()
        null = [known[arm.name][choice, i].mean() for arm in arms]
        return permutation_p_value(float(observed), np.array(null))

    meaningless = [p_value(*shuffled(1000 + seed)) for seed in range(200)]
    assert np.mean(np.array(meaningless) <= 0.05) <= 0.08
    real = fitted_vectors(store, store.labels == behavior, n_layers, test.readings)
    assert p_value(real, test.mean_effects(real)) <= 0.01
