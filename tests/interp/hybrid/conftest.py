"""Steering vectors that change what the base of the tiny pair says."""

import pytest
import torch

from interp.hybrid.vectors import CoefficientNetwork, SteeringVectors

LAYER, THINKING_LAYER = 1, 0


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
