"""Token-level numbers on disk: one safetensors file for each set of traces."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from interp.divergence.tokens import TokenDivergence

_NAMES = [field.name for field in fields(TokenDivergence)]


def save_tokens(path: Path, found: Sequence[TokenDivergence]) -> None:
    """Write all traces one after another; the file is whole or absent."""
    columns = {
        name: np.ascontiguousarray(np.concatenate([getattr(one, name) for one in found]))
        for name in _NAMES
    }
    partial = path.with_suffix(".partial")
    save_file(columns | {"lengths": np.array([len(one.js) for one in found])}, partial)
    partial.rename(path)


def load_tokens(path: Path) -> list[TokenDivergence]:
    """What `save_tokens` wrote."""
    columns = load_file(path)
    ends = np.cumsum(columns["lengths"])[:-1]
    parts = {name: np.split(columns[name], ends) for name in _NAMES}
    return [
        TokenDivergence(**{name: parts[name][i] for name in _NAMES})
        for i in range(len(columns["lengths"]))
    ]
