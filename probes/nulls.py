"""What chance looks like: directions and labels that carry no signal."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from probes._arrays import Array, Groups, finite, rng, same_length


def random_directions(
    n: int, d_model: int, norm: float | int, seed: int
) -> Float[np.ndarray, "n d_model"]:
    """n isotropic random directions, each of the given norm (that of the direction on trial)."""
    return _rescale(rng(seed, "random_directions").standard_normal((n, d_model)), norm)


def covariance_matched_directions(
    X: Float[Array, "n d_model"],
    n_draws: int,
    norm: float | int,
    seed: int,
    groups: Groups | None = None,
) -> Float[np.ndarray, "draw d_model"]:
    """n_draws random directions of the given norm, drawn from N(0, covariance of X) before rescaling.

    A harder null than the isotropic one: these stay where the activations vary. With `groups`
    [n] the covariance is that within groups, from which a difference of means under labels
    shuffled inside groups is drawn too, by the central limit theorem. One seed draws the same
    mixture of rows from every X, so matrices of one set of rows give directions that belong
    together.
    Raises ValueError for NaN or where all rows of X (of each group) are equal.
    """
    x = finite(X, "X")
    if groups is None:
        centered = x - x.mean(0)
    else:
        same_length(X=x, groups=groups)
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes)
        sums = np.add.reduceat(x[order], np.cumsum(counts) - counts)
        centered = x - (sums / counts[:, None])[codes]
    if not centered.any():
        raise ValueError(
            f"the {len(x)} rows of X are all equal (in each group), expected activations that vary: pass more rows"
        )
    # A random mixture of centered rows has the covariance of X without decomposing it.
    generator = rng(seed, "covariance_matched_directions")
    return _rescale(generator.standard_normal((n_draws, len(x))) @ centered, norm)


def shuffle_labels(
    labels: Shaped[np.ndarray, " n"], groups: Groups, seed: int, strata: Groups | None = None
) -> Shaped[np.ndarray, " n"]:
    """Permute labels among the rows of each group, so that every group keeps its label counts.

    Rows (segments) are nested in groups (problems), and problems differ both in content and in
    how often a behavior occurs. Rows of different problems are therefore not exchangeable, and
    permuting across problems would give a null that is too narrow. Within a problem, the null
    says that labels are unrelated to activations given the problem. With `strata` [n] rows
    also stay in their stratum, for what differs inside a problem (third of the trace, kind of
    the previous segment): labels are permuted within group and stratum.

    Groups of one label stay as they are. Where every group has one label, as when the label is
    a property of the problem, the group is what can be exchanged: groups swap labels whole.

    Raises ValueError where there is one label only, or every cell of group and stratum has one.
    """
    n = same_length(labels=labels, groups=groups)
    label_codes = np.unique(labels, return_inverse=True)[1]
    if not label_codes.any():
        raise ValueError(
            f"all {n} labels are {labels[0]}, expected at least two labels: "
            "shuffling cannot change them"
        )
    cells = np.unique(np.asarray(groups), return_inverse=True)[1]
    if strata is not None:
        same_length(labels=labels, strata=strata)
        strata_codes = np.unique(np.asarray(strata), return_inverse=True)[1]
        cells = cells * (strata_codes.max() + 1) + strata_codes
    generator = rng(seed, "shuffle_labels")
    if not _pure(label_codes, cells):
        rows = np.argsort(cells, kind="stable")
        shuffled = np.empty_like(labels)
        shuffled[rows] = labels[np.lexsort((generator.random(n), cells))]
        return shuffled
    if strata is not None:
        raise ValueError(
            f"each of the {len(np.unique(cells))} cells of group and stratum has one label, "
            "expected some cell with two: use coarser strata"
        )
    first = np.unique(cells, return_index=True)[1]
    return labels[generator.permutation(first)][cells]


def _pure(labels: Int[np.ndarray, " n"], cells: Int[np.ndarray, " n"]) -> bool:
    pairs = np.unique(np.column_stack([cells, labels]), axis=0)
    return len(pairs) == len(np.unique(cells))


def _rescale(
    x: Float[np.ndarray, "n d_model"], norm: float | int
) -> Float[np.ndarray, "n d_model"]:
    return x * (norm / np.linalg.norm(x, axis=1, keepdims=True))
