"""Splits and folds that keep every group (problem) on one side."""

import hashlib
import json
import math

import numpy as np
from jaxtyping import Bool, Int
from sklearn.model_selection import StratifiedGroupKFold

from probes._arrays import Groups, group_codes, rng, same_length


def split_groups(
    groups: Groups, fractions: dict[str, float], seed: int
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Assign whole groups to named splits; returns a mask [n] over the rows for each split.

    A group's split depends on the seed, the fractions and the SHA-256 of its own name only, so
    that adding problems never moves one that is there. The price is that each fraction is
    met up to binomial noise, a standard deviation of sqrt(f (1 - f) / number of groups).

    Raises ValueError where fractions are not positive with sum 1, or a split gets no group.
    """
    if min(fractions.values(), default=0) <= 0 or not math.isclose(sum(fractions.values()), 1):
        raise ValueError(
            f"fractions are {fractions}, expected positive numbers with sum 1: "
            "pass for example {'fit': 0.5, 'select': 0.2, 'report': 0.3}"
        )
    names, rows = np.unique([str(group) for group in groups], return_inverse=True)
    uniform = np.array([_uniform(seed, name) for name in names])
    bounds = np.cumsum(list(fractions.values()))[:-1]
    chosen = np.searchsorted(bounds, uniform, side="right")
    for i, split in enumerate(fractions):
        if not (chosen == i).any():
            raise ValueError(
                f"split {split!r} got none of the {len(names)} groups, expected about "
                f"{fractions[split] * len(names):.1f}: add groups or choose another seed"
            )
    return {split: (chosen == i)[rows] for i, split in enumerate(fractions)}


def grouped_folds(
    groups: Groups, y: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], n_folds: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Number 0..n_folds-1 of the fold in which each row is tested.

    No group is in two folds, and classes are spread as evenly as that allows
    (`sklearn.model_selection.StratifiedGroupKFold`).

    Raises ValueError where y has one class, or a class occurs in fewer groups than folds.
    """
    n = same_length(groups=groups, y=y)
    codes, _ = group_codes(groups)
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"y holds one class, {classes[0]}, expected at least two classes: "
            "add examples with another label"
        )
    for name in classes:
        having = len(np.unique(codes[y == name]))
        if having < n_folds:
            raise ValueError(
                f"class {name} occurs in {having} groups, expected at least n_folds = {n_folds}: "
                "use fewer folds or more problems"
            )
    state = int(rng(seed, "grouped_folds").integers(2**31))
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=state)
    folds = np.empty(n, dtype=np.int64)
    for k, (_, test) in enumerate(splitter.split(np.empty(n), y, codes)):
        folds[test] = k
    return folds


def _uniform(seed: int, name: str) -> float:
    digest = hashlib.sha256(json.dumps([int(seed), name]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56  # exact in a float, and below 1
