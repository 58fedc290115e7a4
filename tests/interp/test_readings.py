"""Labels that no direction can be read from are refused in one sentence that names the behavior."""

import numpy as np
import pytest
import torch

from interp.activations import ActivationStore
from interp.errors import UserError
from interp.readings import check_labels


def store(labels, previous=None, groups=None):
    n = len(labels)
    return ActivationStore(
        values={("h", "before"): torch.zeros(n, 2)},
        labels=np.array(labels),
        groups=np.array(groups or [str(i) for i in range(n)]),
        previous=np.array(previous or ["deduction"] * n),
        trace_index=np.arange(n),
        segment_index=np.zeros(n, int),
        model="m",
    )


def test_the_labels_of_a_behavior_are_found():
    labels = ["verification", "deduction"] * 6
    assert check_labels(store(labels), "verification").tolist() == [True, False] * 6


@pytest.mark.parametrize("groups", [None, ["a"] * 9 + ["b"] * 9], ids=["segments", "problems"])
def test_too_few_segments_or_problems_for_the_folds(groups):
    labels = ["verification"] * (4 if groups is None else 9) + ["deduction"] * 9
    with pytest.raises(UserError, match="verification, fewer than the 5 folds"):
        check_labels(store(labels, groups=groups), "verification")


def test_a_single_class():
    with pytest.raises(UserError, match="Every segment shows verification"):
        check_labels(store(["verification"] * 9), "verification")


def test_a_behavior_that_is_never_a_choice():
    labels = ["initializing", "deduction"] * 9
    previous = ["start", "initializing"] * 9
    with pytest.raises(UserError, match="initializing never stands where another behavior might"):
        check_labels(store(labels, previous), "initializing")
