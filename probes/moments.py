"""Means and covariance from one pass over the data, and what follows from them alone: LDA and LEACE."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from probes._arrays import Array
from probes.erasure import Eraser, eraser_of
from probes.streaming import ByClass, class_sums


class _Moments(ByClass):
    """Counts and means of each class, and the scatter of all rows about their mean, in float64.

    Batches are centered on their own mean and joined by the update of Chan, Golub & LeVeque (1979),
    so that a large common offset costs no digits.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.means: dict[int, np.ndarray] = {}
        self.n = 0
        self.mean = np.zeros(d_model)
        self.scatter = np.zeros((d_model, d_model))

    def _add_batch(
        self,
        values: Float[np.ndarray, "n d_model"],
        labels: Int[Array, " n"] | Sequence[int],
    ) -> None:
        mean = values.mean(0)
        centered = values - mean
        for name, count, total in class_sums(centered, labels):
            self._add_class(name, count, mean + total / count)
        self._add_all(len(values), mean, centered.T @ centered)

    def merge(self, other: "_Moments") -> None:
        """Add the statistics of another shard. Raises ValueError where d_model differs."""
        self._check_width(other)
        for name, mean in other.means.items():
            self._add_class(name, other.counts[name], mean)
        if other.n:
            self._add_all(other.n, other.mean, other.scatter)

    def _add_class(self, name: int, count: int, mean: Float[np.ndarray, " d_model"]) -> None:
        known = self.counts.get(name, 0)
        self.counts[name] = known + count
        before = self.means.get(name, mean)
        self.means[name] = before + (mean - before) * (count / (known + count))

    def _add_all(
        self,
        count: int,
        mean: Float[np.ndarray, " d_model"],
        scatter: Float[np.ndarray, "d_model d_model"],
    ) -> None:
        shift, n = mean - self.mean, self.n + count
        self.scatter += scatter + np.outer(shift, shift) * (self.n * count / n)
        self.mean = self.mean + shift * (count / n)
        self.n = n

    def _difference(self, label: int) -> tuple[int, Float[np.ndarray, " d_model"]]:
        """Rows of class `label`, and its mean minus the mean of the other rows."""
        mine = self._some_but_not_all(label)
        apart = [
            self.counts[name] * (self.means[label] - mean)
            for name, mean in self.means.items()
            if name != label
        ]
        return mine, sum(apart, np.zeros(self.d_model)) / (self.n - mine)


class StreamingLDA(_Moments):
    """Linear discriminant analysis of each class against the rest, in memory that does not grow.

    Feed batches to `update`, in any order and size, then ask for `direction`. Statistics of
    disjoint shards add up through `merge`.
    """

    def direction(self, label: int, shrinkage: float = 0.0) -> Float[np.ndarray, " d_model"]:
        """Whitened difference of means, Sigma^-1 (mu+ - mu-), in log-odds per unit of activation.

        Sigma is the pooled covariance within the class and within the rest, of which `shrinkage`, in
        [0, 1], is replaced by its mean variance in every dimension. Equals
        `WhitenedMeanDifference(shrinkage).fit(x, labels == label).direction_` up to rounding.
        Raises ValueError for another shrinkage, and where the class, or everything but the class,
        was never seen. The "auto" of `WhitenedMeanDifference` needs fourth moments and a second pass.
        """
        if not 0 <= shrinkage <= 1:
            raise ValueError(
                f"shrinkage is {shrinkage}, expected a share from 0 to 1: pass for example 0.1"
            )
        mine, difference = self._difference(label)
        between = np.outer(difference, difference) * (mine * (self.n - mine) / self.n)
        within = (self.scatter - between) / self.n
        level = np.trace(within) / self.d_model
        shrunk = (1 - shrinkage) * within + shrinkage * level * np.eye(self.d_model)
        return np.linalg.lstsq(shrunk, difference)[0]


class StreamingLEACE(_Moments):
    """Erasers of each class against the rest, in memory that does not grow (Belrose et al. 2306.03819).

    Feed batches to `update`, in any order and size, then ask for `eraser`. Statistics of disjoint
    shards add up through `merge`.
    """

    def eraser(self, label: int, ridge: float = 1e-4) -> Eraser:
        """The least change that leaves no linear information about the class.

        Equals `leace(x, labels == label, ridge)` up to rounding. Raises ValueError where the class, or
        everything but the class, was never seen, or both have one mean.
        """
        _, difference = self._difference(label)
        return eraser_of(difference, self.mean, self.scatter / self.n, ridge)
