"""What the select split saw: a direction's effect by layer and by dose, beside random directions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from interp.causal import DOSES
from probes import paired_bootstrap

Effects = Float[np.ndarray, "reading layer use point"]
NullEffects = Float[np.ndarray, "null reading layer use"]
Groups = Shaped[np.ndarray, " point"]


def mean_effect(values: Float[np.ndarray, " point"], groups: Groups, seed: int) -> dict:
    """Mean change of probability over points, with its interval over problems."""
    found = paired_bootstrap(values, np.zeros_like(values), groups, seed=seed)
    return {"effect": found.value, "ci": [found.ci.low, found.ci.high]}


def causal_sweep(
    layers: Sequence[int], effects: Effects, null: NullEffects, groups: Groups, seed: int
) -> list[dict]:
    """The effect at each layer's best reading and dose, and the random directions' at theirs."""
    rows = []
    for at, layer in enumerate(layers):
        here = effects[:, at]
        best = np.unravel_index(int(here.mean(-1).argmax()), here.shape[:2])
        strongest = null[:, :, at].max((1, 2))
        rows.append({"layer": layer, **_row(here[best], strongest, groups, seed)})
    return rows


def dose_response(
    effects: Effects, null: NullEffects, groups: Groups, cell: tuple[int, int], seed: int
) -> list[dict]:
    """The effect at each dose in the chosen cell (reading, layer); dose 0 is 0 by definition."""
    zero = {"dose": 0.0, "effect": 0.0, "ci": [0.0, 0.0], "null_q05": 0.0, "null_q95": 0.0}
    return [zero] + [
        {"dose": dose, **_row(effects[cell][d], null[:, *cell, d], groups, seed)}
        for d, dose in enumerate(DOSES)
    ]


def _row(
    values: Float[np.ndarray, " point"], null: Float[np.ndarray, " null"], groups: Groups, seed: int
) -> dict:
    return mean_effect(values, groups, seed) | {
        "null_q05": float(np.quantile(null, 0.05)),
        "null_q95": float(np.quantile(null, 0.95)),
    }
