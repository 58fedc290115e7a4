"""Traces of the tiny pair of models that disagree."""

import pytest

from interp.behaviors import segment_all
from interp.divergence.tokens import score
from interp.traces import generate
from interp.vocabulary import shared_vocabulary
from tests.interp.conftest import PROBLEMS


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
