"""Linear probes as scikit-learn classifiers whose `direction_` lives in raw activation space."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

# X and y are left to scikit-learn's own checks, which also take lists and data frames, and
# constructors to `fit`: by its convention they neither check nor raise.
MatrixLike = Any
VectorLike = Any


class _LinearProbe(ClassifierMixin, BaseEstimator):
    """Binary linear classifier: decision(x) = x . direction_ + intercept_, positive is classes_[1].

    Subclasses set `direction_` [d_model] (raw norm), `intercept_` and, where one unit of the
    decision is not one unit of log-odds, `slope_`.
    """

    direction_: Float[np.ndarray, " d_model"]
    intercept_: float
    slope_: float = 1.0

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _check(
        self, X: MatrixLike, y: VectorLike
    ) -> tuple[Float[np.ndarray, "n d_model"], Bool[np.ndarray, " n"]]:
        """Activations as float64 and membership of the positive class; sets `classes_`."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(y)}."
            )
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class, {self.classes_[0]!r}, expected two classes: "
                "add examples without the behavior"
            )
        return X, y == self.classes_[1]

    def decision_function(self, X: MatrixLike) -> Float[np.ndarray, " n"]:
        """Projection on `direction_` plus `intercept_`; above 0 means the positive class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.direction_ + self.intercept_

    def predict_proba(self, X: MatrixLike) -> Float[np.ndarray, "n 2"]:
        """Probability of each of `classes_`."""
        positive = expit(self.slope_ * self.decision_function(X))
        return np.column_stack([1 - positive, positive])

    def predict(self, X: MatrixLike) -> Any:
        """The likelier of `classes_` for each row."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(int)]


class MeanDifference(_LinearProbe):
    """Difference of means (mass-mean probe), Marks & Tegmark, arXiv:2310.06824.

    contrast: "rest" takes mean(positive) - mean(negative), "overall" takes mean(positive) -
    mean(all rows), which is shorter by the share of negatives.

    Probabilities come from Platt scaling of the projection on the training rows (Platt 1999).
    """

    def __init__(self, contrast="rest") -> None:
        self.contrast = contrast

    def fit(self, X: MatrixLike, y: VectorLike, *, strata: VectorLike = None) -> "MeanDifference":
        """Fit on X [n, d_model] and binary y [n].

        strata [n]: what the contrast must not carry, such as the kind of the previous segment.
        The mean difference is then taken inside each stratum that has both classes, and strata
        are averaged in proportion to their number of positives ("matched" contrast). Rows of
        other strata are left out.

        Raises ValueError for NaN, one class, more than two classes, an unknown contrast, or
        strata none of which has both classes.
        """
        if self.contrast not in ("rest", "overall"):
            raise ValueError(
                f"contrast is {self.contrast!r}, expected 'rest' or 'overall': pass one of the two"
            )
        X, positive = self._check(X, y)
        codes = np.zeros(len(X), dtype=int)
        if strata is not None:
            if len(strata) != len(X):
                raise ValueError(
                    f"strata has {len(strata)} rows and X has {len(X)}, expected the same number: "
                    "pass one stratum a row"
                )
            codes = np.unique(np.asarray(strata), return_inverse=True)[1]
        weights = _matched_weights(positive, codes, self.contrast)
        self.direction_ = weights @ X
        # The same balancing in the calibration keeps its slope positive: the weighted
        # difference of the projections is |direction_|^2.
        balanced = np.abs(weights) * np.where(positive, positive.sum(), (~positive).sum())
        used = balanced > 0
        self.slope_, self.intercept_ = _platt(
            (X @ self.direction_)[used], positive[used], balanced[used] / balanced[used].mean()
        )
        return self


class WhitenedMeanDifference(_LinearProbe):
    """Whitened difference of means, Sigma^-1 (mu+ - mu-): linear discriminant analysis.

    The variant of mass-mean probing for data distributed like the training rows (Marks & Tegmark,
    arXiv:2310.06824). Sigma is the pooled within-class covariance, shrunk by Ledoit & Wolf's rule
    for "auto" or by a fixed share in [0, 1]. `direction_` is in log-odds per unit of activation.
    """

    def __init__(self, shrinkage="auto") -> None:
        self.shrinkage = shrinkage

    def fit(self, X: MatrixLike, y: VectorLike) -> "WhitenedMeanDifference":
        """Fit on X [n, d_model] and binary y [n]. Raises ValueError as `MeanDifference.fit`."""
        X, positive = self._check(X, y)
        lda: Any = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=self.shrinkage)
        lda.fit(X, positive)
        self.direction_ = lda.coef_[0]
        self.intercept_ = float(lda.intercept_[0])
        return self


class LogisticProbe(_LinearProbe):
    """L2-penalized logistic regression on standardized activations.

    C: inverse of the penalty, in standardized coordinates. `direction_` and `intercept_` are
    expressed in raw ones, in log-odds per unit of activation.
    """

    def __init__(self, C=1.0) -> None:
        self.C = C

    def fit(self, X: MatrixLike, y: VectorLike) -> "LogisticProbe":
        """Fit on X [n, d_model] and binary y [n]. Raises ValueError as `MeanDifference.fit`."""
        X, positive = self._check(X, y)
        scaler: Any = StandardScaler().fit(X)
        # The default tolerance, 1e-4, leaves errors of 0.1 in the log-odds of correlated features.
        logistic: Any = LogisticRegression(C=self.C, tol=1e-6, max_iter=1000)
        logistic.fit(scaler.transform(X), positive)
        self.direction_ = logistic.coef_[0] / scaler.scale_
        self.intercept_ = float(logistic.intercept_[0] - self.direction_ @ scaler.mean_)
        return self


def _matched_weights(
    positive: Bool[np.ndarray, " n"], strata: Int[np.ndarray, " n"], contrast: str
) -> Float[np.ndarray, " n"]:
    """Signed row weights whose sum over X is the matched contrast.

    In stratum s with p positives and q negatives, the difference of means counts p times for
    "rest" and p q / (p + q) times for "overall", out of all the positives of usable strata.
    """
    p = np.bincount(strata, positive)
    q = np.bincount(strata, ~positive)
    usable = (p > 0) & (q > 0)
    if not usable.any():
        raise ValueError(
            f"none of the {len(p)} strata has both classes, expected at least one that does: "
            "use coarser strata"
        )
    p, q = np.where(usable, p, 1), np.where(usable, q, 1)
    share = usable * (p if contrast == "rest" else p * q / (p + q)) / p[usable].sum()
    return np.where(positive, (share / p)[strata], -(share / q)[strata])


def _platt(
    z: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Slope a > 0 and intercept c with P(positive) = expit(a (z + c)), by weighted Platt scaling.

    Newton's method on one standardized feature. Targets are (N+ + 1) / (N+ + 2) and
    1 / (N- + 2) (Platt 1999), so separable classes also have a finite optimum.
    """
    n_pos, n_neg = weight[positive].sum(), weight[~positive].sum()
    prior = np.log((n_pos + 1) / (n_neg + 1))
    center, scale = z.mean(), z.std()
    gap = np.average(z[positive], weights=weight[positive]) - np.average(
        z[~positive], weights=weight[~positive]
    )
    if not gap > 1e-9 * scale:  # the classes have the same mean, up to rounding
        return 1.0, float(prior - center)
    target = np.where(positive, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    features = np.column_stack([(z - center) / scale, np.ones_like(z)])

    def loss(theta: Float[np.ndarray, " 2"]) -> float:
        logit = features @ theta
        return float(weight @ (np.logaddexp(0, logit) - target * logit))

    theta, ridge = np.array([0.0, prior]), 1e-9 * weight.sum() * np.eye(2)
    for _ in range(100):
        p = expit(features @ theta)
        gradient = features.T @ (weight * (p - target))
        hessian = (features * (weight * p * (1 - p))[:, None]).T @ features
        step = np.linalg.solve(hessian + ridge, gradient)
        before = loss(theta)
        # A full step can overshoot where most rows are saturated.
        while loss(theta - step) > before and np.abs(step).max() > 1e-9:
            step = step / 2
        theta = theta - step
        if np.abs(step).max() < 1e-9:
            break
    return float(theta[0] / scale), float(theta[1] * scale / theta[0] - center)
