"""A tiny pair of models that disagree, and its traces."""

import pytest

from interp.behaviors import segment_all
from interp.divergence.tokens import score
from interp.divergence.vocabulary import shared_vocabulary
from interp.models import load_model
from interp.pairs import Pair
from interp.tasks import load_task
from interp.traces import generate
from tests.interp.conftest import slow_model

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 12])[:12]


@pytest.fixture(scope="session")
def other_folder(save_random):
    """Another random model of the same shape, with large weights too."""
    return save_random(scale=5.0, seed=1)


@pytest.fixture(scope="session")
def pair(sharp, other_folder):
    other = load_model(other_folder, "other", device="cpu")
    other.boundary = sharp.boundary
    return Pair("tiny", sharp, other)


@pytest.fixture(scope="session")
def slow_thinking(other_folder):
    return slow_model(other_folder)


@pytest.fixture(scope="session")
def vocabulary(pair):
    return shared_vocabulary(pair.base, pair.thinking)


@pytest.fixture(scope="session")
def traces(pair):
    """Traces of very different lengths, so that padding matters."""
    found = generate(pair.thinking, PROBLEMS[:8], sampled=True, max_new_tokens=6)
    return found + generate(pair.thinking, PROBLEMS[8:], sampled=True, max_new_tokens=17)


@pytest.fixture(scope="session")
def segments(pair, traces):
    def annotator(sentences):
        return ["backtracking" if i % 2 else "deduction" for i in range(len(sentences))]

    return segment_all(pair.base, traces, annotator)


@pytest.fixture(scope="session")
def found(pair, vocabulary, traces):
    return score(pair, vocabulary, traces)
