"""On labels that mean nothing the toolkit finds nothing: p-values are small as rarely as they say."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from interp.activations import collect
from interp.behaviors import segment_all
from interp.causal import over_choices, specific
from interp.causal_stage import CausalTest
from interp.config import Config, Material, split_problems
from interp.pairs import load_pair
from interp.pooling import hook_name, pool_batch
from interp.readings import READINGS, fitted_vectors, shuffled_vectors
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


@pytest.fixture(scope="module", params=["addition", "ablation"])
def causal(request):
    pair, name = load_pair("countdown-rl"), "base" if request.param == "addition" else "thinking"
    config = Config(
        "countdown-rl", seed=5, n_fit=200, n_select=150, n_report=150, n_points=64, n_random=59
    )
    splits = split_problems(config)
    wanted = {("base", "fit"), ("thinking", "fit"), (name, "select"), (name, "report")}
    traces = {(m, s): generate(getattr(pair, m), splits[s], seed=5) for m, s in wanted}
    segments = {key: segment_all(pair.base, made, "grammar") for key, made in traces.items()}
    pooled = [found["base", "fit"] + found["thinking", "fit"] for found in (traces, segments)]
    model, material = getattr(pair, name), Material(traces, segments)
    store = collect(model, *pooled)
    test = CausalTest(request.param, model, name, config, material, store)
    return test, store


@pytest.mark.slow
def test_causal_p_values_on_shuffled_labels_are_small_at_most_eight_percent_of_the_time(causal):
    """The proxy's whole path: selection of reading, layer and dose, then p on other problems."""
    test, store = causal
    behavior, layers = "subgoal-setting", range(test.model.n_layers)
    i = test.behaviors.index(behavior)

    def scores(arms):
        proxies = test.proxies(arms)
        found = np.swapaxes(np.stack([proxies[arm.name] for arm in arms]), -1, -2)
        scored = specific(over_choices(found, test.report_at), i, test.sign)
        assert np.isfinite(scored).all()
        return scored

    @cache
    def of_nulls(begin, dose):
        """Some nulls' scores: the same for every direction on trial of one dose."""
        part = slice(begin, begin + 6)
        known = None if test.random_effects is None else test.random_effects[part]
        return scores(test.null_arms("random", test.random[part], i, dose, known))

    def beaten(vectors):
        """Whether each null, in its turn, does at least as well as the direction on trial."""
        real, _ = test.arm("real", vectors, i)
        score = float(scores([real])[0])
        for begin in range(0, len(test.random), 6):
            null = of_nulls(begin, real.candidate.dose)
            yield from null >= score - 1e-12 * max(1, abs(score))  # as `permutation_p_value`

    def small(vectors, level):
        """Whether p <= level; nulls that cannot change that any more are not tried."""
        most, n = level * (len(test.random) + 1) - 1 + 1e-9, 0
        for null_is_as_good in beaten(vectors):
            n += null_is_as_good
            if n > most:
                return False
        return True

    real = fitted_vectors(store, store.labels == behavior, layers, READINGS)
    assert small(real, 0.02)
    # A run on shuffled labels draws its nulls from what those labels leave unexplained.
    labels = shuffle_labels(store.labels, store.groups, 77)
    test.draw_nulls(replace(store, labels=labels))
    of_nulls.cache_clear()
    shuffled = [
        shuffled_vectors(store, [behavior], layers, READINGS, seed)[behavior] for seed in range(200)
    ]
    assert np.mean([small(vectors, 0.05) for vectors in shuffled]) <= 0.08
