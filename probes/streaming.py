"""Differences of means from one pass over the data, in memory that does not grow with it."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from probes._arrays import Array, finite, same_length


class ByClass:
    """Counts of each class, and the checks that batches and shards pass; subclasses keep the rest."""

    def __init__(self, d_model: int) -> None:
        self.d_model = d_model
        self.counts: dict[int, int] = {}

    def update(
        self, x: Float[Array, "n d_model"], labels: Int[Array, " n"] | Sequence[int]
    ) -> None:
        """Add rows x [n, d_model] with their class numbers [n].

        Raises ValueError for NaN or infinite values, another width than d_model, or lengths
        that differ.
        """
        values = finite(x, "x")
        if values.shape[1] != self.d_model:
            raise ValueError(
                f"x is {values.shape[1]} wide, expected d_model = {self.d_model}: "
                "pass activations of the same model"
            )
        if len(values) or len(labels):
            same_length(x=x, labels=labels)
            self._add_batch(values, labels)

    def _add_batch(
        self,
        values: Float[np.ndarray, "n d_model"],
        labels: Int[Array, " n"] | Sequence[int],
    ) -> None:
        raise NotImplementedError

    def _check_width(self, other: "ByClass") -> None:
        if other.d_model != self.d_model:
            raise ValueError(
                f"the other shard has d_model = {other.d_model}, expected {self.d_model}: "
                "merge shards of the same model"
            )

    def _some_but_not_all(self, label: int) -> int:
        """Rows of class `label`. Raises ValueError where it, or everything but it, was never seen."""
        n, mine = sum(self.counts.values()), self.counts.get(label, 0)
        if mine in (0, n):
            raise ValueError(
                f"class {label} has {mine} of the {n} rows seen, expected some but not all: "
                "update with rows of this class and of others"
            )
        return mine


class StreamingMeanDifference(ByClass):
    """Counts and float64 sums of each class, from which any one-vs-rest direction follows.

    Feed batches to `update`, in any order and size, then ask for `direction`. Statistics of
    disjoint shards add up through `merge`.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.sums: dict[int, np.ndarray] = {}

    def merge(self, other: "StreamingMeanDifference") -> None:
        """Add the statistics of another shard. Raises ValueError where d_model differs."""
        self._check_width(other)
        for name, total in other.sums.items():
            self._add(name, other.counts[name], total)

    def direction(self, label: int, contrast: str = "rest") -> Float[np.ndarray, " d_model"]:
        """Mean of class `label` minus the mean of the other rows ("rest") or of all ("overall").

        Equals `MeanDifference(contrast).fit(x, labels == label).direction_` up to rounding.
        Raises ValueError where the class, or everything but the class, was never seen.
        """
        mine = self._some_but_not_all(label)
        n, total = sum(self.counts.values()), sum(self.sums.values())
        mean = self.sums[label] / mine
        if contrast == "overall":
            return mean - total / n
        if contrast == "rest":
            return mean - (total - self.sums[label]) / (n - mine)
        raise ValueError(
            f"contrast is {contrast!r}, expected 'rest' or 'overall': pass one of the two"
        )

    def _add_batch(
        self,
        values: Float[np.ndarray, "n d_model"],
        labels: Int[Array, " n"] | Sequence[int],
    ) -> None:
        for name, count, total in class_sums(values, labels):
            self._add(name, count, total)

    def _add(self, name: int, count: int, total: Float[np.ndarray, " d_model"]) -> None:
        self.counts[name] = self.counts.get(name, 0) + count
        self.sums[name] = self.sums.get(name, 0.0) + total


def class_sums(
    values: Float[np.ndarray, "n d_model"], labels: Int[Array, " n"] | Sequence[int]
) -> Iterator[tuple[int, int, Float[np.ndarray, " d_model"]]]:
    """Number, count of rows and sum of rows of each class of a batch."""
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    members = (codes == np.arange(len(classes))[:, None]).astype(np.float64)
    counts = np.bincount(codes, minlength=len(classes))
    yield from zip(classes.tolist(), counts.tolist(), members @ values, strict=True)
