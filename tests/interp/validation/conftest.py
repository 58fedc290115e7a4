"""A small bench of the built-in pair, and a direction that is known to work there."""

import json
from dataclasses import asdict

import pytest
import torch

from interp.config import Config
from interp.directions import as_tensor, mean_difference
from interp.pairs import load_pair
from interp.pooling import hook_name
from interp.progress import Progress
from interp.runs import Run
from interp.validation.bench import Bench
from interp.validation.evidence import Evidence

LAYER = 2


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """The base of `countdown-rl` on trial, on few problems and beside few nulls."""
    config = Config(
        "countdown-rl", n_fit=120, n_select=40, n_report=40, n_random=10, n_shuffled=2,
        n_points=96, n_null_problems=20,
    )  # fmt: skip
    run = Run(tmp_path_factory.mktemp("bench") / "run", json.loads(json.dumps(asdict(config))))
    with torch.no_grad():
        return Bench.prepare(run, load_pair("countdown-rl"), "base", config, Progress())


@pytest.fixture(scope="session")
def checks(bench):
    """Difference of means of verification in the base, fitted on the bench's fit problems."""
    store = bench.own.store
    return as_tensor(
        mean_difference(
            store[hook_name("resid_post", LAYER), "before"],
            store.labels == "verification",
            "matched",
            store.previous,
        )
    )


@pytest.fixture(scope="session")
def evidence(bench, checks):
    """That direction on trial at a dose that is known to work."""
    return Evidence(bench, "verification", {LAYER: checks}, 0.3)
