"""A tiny pair of models that disagree, and steering vectors that change what the base says."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.hybrid.vectors import CoefficientNetwork, SteeringVectors
from interp.models import load_model
from interp.organisms.checkpoints import build_model, save_checkpoint
from interp.pairs import Pair
from interp.tasks import load_task
from tests.interp.conftest import SlowReference

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 12])[:12]
LAYER, THINKING_LAYER = 1, 0


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """Another random model of the same shape, with large weights too."""
    folder = tmp_path_factory.mktemp("other") / "random"
    model = build_model(seed=1, d_model=32, n_layers=3, n_heads=2, d_mlp=64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(5.0)
    save_checkpoint(model, folder, "A random model for tests.")
    return folder


@pytest.fixture(scope="session")
def pair(sharp, other_folder):
    other = load_model(other_folder, "other", device="cpu")
    other.boundary = sharp.boundary
    return Pair("tiny", sharp, other)


@pytest.fixture(scope="session")
def slow_thinking(other_folder):
    return SlowReference(
        AutoModelForCausalLM.from_pretrained(
            other_folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
    )


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
