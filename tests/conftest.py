"""Fixtures shared by all tests: tiny random models, loaded once a session."""

import pytest
import torch

from interp.models import load_model
from interp.organisms.checkpoints import build_model, save_checkpoint


def pytest_collection_modifyitems(items):
    """Notebooks first: one file is one worker's, and the longest should not be left to the end."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)


def _save(folder, scale=1.0, n_layers=3, d_model=32, seed=0):
    model = build_model(seed=seed, d_model=d_model, n_layers=n_layers, n_heads=2, d_mlp=64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(scale)
    save_checkpoint(model, folder, "A random model for tests.")
    return folder


@pytest.fixture(scope="session")
def save_random(tmp_path_factory):
    """A function that writes a random checkpoint of a given shape and returns its folder."""
    return lambda **shape: _save(tmp_path_factory.mktemp("checkpoint") / "random", **shape)


@pytest.fixture(scope="session")
def tiny_folder(save_random):
    return save_random()


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """A tiny random Llama."""
    return load_model(tiny_folder, "tiny", device="cpu")


@pytest.fixture(scope="session")
def sharp_folder(save_random):
    return save_random(scale=5.0)


@pytest.fixture(scope="session")
def sharp(sharp_folder):
    """A tiny Llama with large weights: attention is peaked, so a wrong mask or position shows.

    Every fourth word ends a sentence, so that short random traces have many segments.
    """
    model = load_model(sharp_folder, "sharp", device="cpu")
    model.boundary = model.boundary | (torch.arange(model.bridge.cfg.d_vocab) % 4 == 3)
    return model
