"""Which read position and layer carry a behavior."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import config_context
from sklearn.base import clone

from probes._arrays import Array, Groups, finite, group_codes, same_length
from probes.inference import Estimate, Interval, bootstrap_weights
from probes.metrics import auroc, auroc_estimate, expected_calibration_error
from probes.nulls import shuffle_labels
from probes.splits import grouped_folds


@dataclass(frozen=True)
class SweepCell:
    """Out-of-fold quality of a probe at one read position and layer.

    `selectivity` is the AUROC minus that of the same probe on shuffled labels (Hewitt & Liang
    2019, arXiv:1909.03368); `ece` the expected calibration error of its probabilities.
    `auroc_ci` serves to compare cells: see `sweep` for why it is wide.
    """

    read: str
    layer: int
    auroc: float
    auroc_ci: Interval
    selectivity: float
    ece: float


@dataclass(frozen=True)
class SweepResult:
    """Cells in the order given, and what they were computed from."""

    cells: list[SweepCell]
    estimator: str
    n_rows: int
    n_groups: int
    n_folds: int
    n_boot: int
    seed: int

    def best(self) -> SweepCell:
        """The cell of highest AUROC, the first of equals.

        Its AUROC is the maximum of many and so too high: report it on problems that the sweep
        did not see.
        """
        return max(self.cells, key=lambda cell: cell.auroc)


def sweep(
    activations: Mapping[tuple[str, int], Float[Array, "n d_model"]],
    y: Bool[np.ndarray, " n"],
    groups: Groups,
    estimator: Any,
    *,
    n_folds: int = 5,
    n_boot: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> SweepResult:
    """Cross-validate a probe on each cell of activations {(read position, layer): [n, d_model]}.

    Folds keep groups whole. Intervals are bootstrap over groups with the same resamples in
    every cell, and one control task of labels shuffled within groups serves every cell.

    Every row that tests one probe trains another, so folds are not independent, and resampling
    their scores alone gives intervals that cover chance for 80 to 87% of cells without signal.
    They are therefore widened by sqrt(1 + n_folds / (n_folds - 1)), which is 1.5 for 5 folds
    (Nadeau & Bengio 2003), and end at 0 and 1 at most. That is too wide where the
    signal is strong: measure the chosen cell with `auroc_bootstrap` on problems of its own.

    estimator: a scikit-learn binary classifier with decision_function and predict_proba; it is
    cloned, never fitted itself.
    Raises ValueError for no cells, NaN or infinite activations (naming the cell), lengths that
    differ, or as `grouped_folds`.
    """
    same_length(y=y, groups=groups)
    if not activations:
        raise ValueError("activations hold 0 cells, expected at least one: pass {(read, layer): X}")
    codes, n_groups = group_codes(groups)
    folds = grouped_folds(groups, y, n_folds, seed)
    control = shuffle_labels(y, groups, seed)
    control_folds = grouped_folds(groups, control, n_folds, seed)
    weights = bootstrap_weights(n_groups, n_boot, seed)
    cells = []
    for (read, layer), x in activations.items():
        values = finite(x, f"cell ({read!r}, {layer})")
        same_length(**{f"cell ({read!r}, {layer})": values, "y": y})
        scores, probabilities = _out_of_fold(estimator, values, y, folds)
        control_scores, _ = _out_of_fold(estimator, values, control, control_folds)
        estimate = auroc_estimate(scores, y, codes, weights, level)
        cells.append(
            SweepCell(
                read=read,
                layer=layer,
                auroc=estimate.value,
                auroc_ci=_widen(estimate, np.sqrt(1 + n_folds / (n_folds - 1))),
                selectivity=estimate.value - auroc(control_scores, control),
                ece=expected_calibration_error(probabilities, y),
            )
        )
    return SweepResult(cells, repr(estimator), len(y), n_groups, n_folds, n_boot, seed)


def _out_of_fold(
    estimator: Any,
    x: Float[np.ndarray, "n d_model"],
    y: Bool[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Decision and probability of each row under the probe fitted without the row's fold."""
    scores, probabilities = np.empty(len(y)), np.empty(len(y))
    with config_context(assume_finite=True):  # checked once for all folds
        for k in np.unique(folds):
            test = folds == k
            fitted: Any = clone(estimator)
            fitted.fit(x[~test], y[~test])
            scores[test] = fitted.decision_function(x[test])
            probabilities[test] = fitted.predict_proba(x[test])[:, 1]
    return scores, probabilities


def _widen(estimate: Estimate, factor: float) -> Interval:
    value, ci = estimate.value, estimate.ci
    low, high = value - factor * (value - ci.low), value + factor * (ci.high - value)
    return Interval(float(max(0, low)), float(min(1, high)), ci.level)
