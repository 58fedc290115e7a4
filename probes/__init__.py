"""Directions, probes and the statistics that judge them: arrays in, results out."""

from probes._arrays import rng
from probes.ceiling import NoRoom, share_above, share_of_ceiling
from probes.concentration import gini, gini_bootstrap
from probes.cosine import CosineEstimate, cosine_with_ci
from probes.dose_response import Bounded, DoseResponse, dose_response, hill
from probes.erasure import Eraser, Removal, leace, removal
from probes.estimators import LogisticProbe, MeanDifference, WhitenedMeanDifference
from probes.inference import (
    MIN_GAP,
    EffectEstimate,
    Estimate,
    GapRecovery,
    GapTooSmall,
    Interval,
    bootstrap_over_groups,
    bootstrap_weights,
    estimate_effect,
    gap_recovery,
    holm,
    paired_bootstrap,
    paired_ratio_bootstrap,
    percentile_interval,
    permutation_p_value,
    ratio_bootstrap,
    simplest_near_best,
)
from probes.logistic import LogisticSweep, logistic_sweep
from probes.metrics import (
    auroc,
    auroc_bootstrap,
    expected_calibration_error,
    paired_auroc_bootstrap,
)
from probes.moments import StreamingLDA, StreamingLEACE
from probes.nulls import covariance_matched_directions, random_directions, shuffle_labels
from probes.ridge import RidgeProbes, ridge_probes
from probes.splits import grouped_folds, split_groups
from probes.streaming import StreamingMeanDifference
from probes.sweep import SweepCell, SweepResult, sweep

__all__ = [
    "MIN_GAP",
    "Bounded",
    "CosineEstimate",
    "DoseResponse",
    "EffectEstimate",
    "Eraser",
    "Estimate",
    "GapRecovery",
    "GapTooSmall",
    "Interval",
    "LogisticProbe",
    "LogisticSweep",
    "MeanDifference",
    "Removal",
    "RidgeProbes",
    "StreamingLDA",
    "StreamingLEACE",
    "StreamingMeanDifference",
    "SweepCell",
    "SweepResult",
    "WhitenedMeanDifference",
    "auroc",
    "auroc_bootstrap",
    "bootstrap_over_groups",
    "bootstrap_weights",
    "cosine_with_ci",
    "covariance_matched_directions",
    "dose_response",
    "estimate_effect",
    "expected_calibration_error",
    "gap_recovery",
    "gini",
    "gini_bootstrap",
    "grouped_folds",
    "hill",
    "holm",
    "leace",
    "logistic_sweep",
    "paired_auroc_bootstrap",
    "paired_bootstrap",
    "paired_ratio_bootstrap",
    "percentile_interval",
    "permutation_p_value",
    "random_directions",
    "ratio_bootstrap",
    "removal",
    "ridge_probes",
    "rng",
    "NoRoom",
    "share_above",
    "share_of_ceiling",
    "simplest_near_best",
    "shuffle_labels",
    "split_groups",
    "sweep",
]
