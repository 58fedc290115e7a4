"""Array types, input checks and keyed random generators shared by the package."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

Array = np.ndarray | torch.Tensor
"""What the package accepts as numbers; it computes in float64 numpy."""

Groups = Shaped[np.ndarray, " n"] | Sequence[str] | Sequence[int]
"""The group (problem) that each row belongs to, by name or number."""


def rng(seed: int, *names: object) -> np.random.Generator:
    """Generator keyed on a seed and on what it is for.

    SHA-256 keys are the same in every process and platform, and two purposes that share a seed
    draw independent streams.
    """
    key = json.dumps([int(seed), *map(str, names)]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest(), "little"))


def to_float64(x: Shaped[Array, "..."]) -> Float[np.ndarray, "..."]:
    """Copy or view `x` as float64 numpy, from any device and any float or integer type."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().to(torch.float64).numpy()  # some devices have no float64
    return np.asarray(x, dtype=np.float64)


def finite(x: Shaped[Array, "..."], name: str) -> Float[np.ndarray, "..."]:
    """`to_float64(x)`. Raises ValueError naming `name` and the count of NaN or infinite values."""
    values = to_float64(x)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite values out of {values.size}, expected none: "
            "look for overflow in the dtype that they were computed in"
        )
    return values


def same_length(**arrays: object) -> int:
    """Length shared by `arrays`. Raises ValueError naming them where they differ or are empty."""
    lengths = {name: len(a) for name, a in arrays.items()}  # pyright: ignore[reportArgumentType]
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        given = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"{given} rows, expected the same number, at least 1: pass one row each")
    return next(iter(lengths.values()))


def group_codes(groups: Groups) -> tuple[Int[np.ndarray, " n"], int]:
    """Number the groups 0..G-1 in sorted order; returns each row's number, and G."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    return codes, len(names)
