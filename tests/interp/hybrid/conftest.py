"""A tiny pair of models that disagree, and steering vectors that change what the base says."""

import pytest
import torch

from interp.hybrid.vectors import CoefficientNetwork, SteeringVectors
from interp.models import load_model
from interp.pairs import Pair
from interp.tasks import load_task
from tests.interp.conftest import slow_model

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 12])[:12]
LAYER, THINKING_LAYER = 1, 0


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
def vectors():
    """Two categories; the network's coefficients differ from row to row."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = CoefficientNetwork(32, 2, 100.0)
    torch.nn.init.normal_(network.heads.weight, std=1.0)
    return SteeringVectors(
        "trained-jointly",
        LAYER,
        ("one", "two"),
        torch.randn(2, 32, generator=generator) * 40,
        torch.randn(32, generator=generator) * 5,
        network,
    )
