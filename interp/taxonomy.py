"""An unsupervised taxonomy of a thinking model's sentences (Venhoff et al. 2510.07364)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from interp.errors import UserError
from probes import rng

TENSORS = ("mean", "encoder", "bias", "decoder", "offset")
BATCH, PATIENCE, N_EXAMPLES = 512, 10, 10

Categories = Tensor | np.ndarray | Sequence[int]
Rows = Float[Tensor, "n d_model"]
Centers = Float[Tensor, "category d_model"]
Belongs = Callable[[list[str], list[str]], Sequence[bool]]
"""Given examples of a category and other sentences: does each of those belong to it?"""
Fits = Callable[[list[str], str], float]
"""Given examples of a category and one sentence: how well does it fit, from 0 to 1?"""


@dataclass(frozen=True)
class Taxonomy:
    """Categories of segments, by their residual stream at one layer, read position `mean`.

    A row is centered by `mean` and scaled to unit length. Its code is the `k` largest entries of
    `encoder (row - offset) + bias`, signed; its reconstruction is `code decoder + offset`; its
    category is the largest entry. `fvu`: fraction of the fitted rows' variance unexplained.
    """

    layer: int
    method: str
    k: int
    mean: Float[Tensor, " d_model"]
    encoder: Centers
    bias: Float[Tensor, " category"]
    decoder: Centers
    offset: Float[Tensor, " d_model"]
    fvu: float
    model: str

    @property
    def n_categories(self) -> int:
        return len(self.bias)

    def normalize(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """Raw rows of the residual stream, centered and of unit length, in float32."""
        return normalize(x.float() - self.mean.to(x.device), dim=-1)

    def encode(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n category"]:
        """The full encoder output of raw rows, before the top k are kept."""
        encoder, bias, offset = (t.to(x.device) for t in (self.encoder, self.bias, self.offset))
        return (self.normalize(x) - offset) @ encoder.T + bias

    def categories(self, x: Float[Tensor, "*n d_model"]) -> Int[Tensor, "*n"]:
        """The category of each raw row: the argmax of the full encoder output."""
        return self.encode(x).argmax(-1)

    def reconstruct(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """What the top k latents say of raw rows, to be compared with `normalize(x)`."""
        return _keep(self.encode(x), self.k) @ self.decoder.to(x.device) + self.offset.to(x.device)

    def unexplained(self, x: Float[Tensor, "n d_model"]) -> float:
        """Fraction of the variance of `normalize(x)` that `reconstruct(x)` misses."""
        return _unexplained(self.normalize(x), self.reconstruct(x)).item()

    def save(self, path: Path) -> None:
        """Write one safetensors file; the header holds everything that is no tensor as JSON."""
        fields = {name: getattr(self, name) for name in ("layer", "method", "k", "fvu", "model")}
        tensors = {name: getattr(self, name).cpu().contiguous().clone() for name in TENSORS}
        save_file(tensors, path, metadata={"taxonomy": json.dumps(fields)})

    @classmethod
    def load(cls, path: Path) -> "Taxonomy":
        """Read what `save` wrote; raises `UserError` for another file."""
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("taxonomy")
            if header is None:
                raise UserError(f"{path} holds no taxonomy: give a file that Taxonomy.save wrote.")
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        return cls(**json.loads(header), **tensors)


def _keep(codes: Float[Tensor, "*n category"], k: int) -> Float[Tensor, "*n category"]:
    top = codes.topk(k, dim=-1)
    return torch.zeros_like(codes).scatter(-1, top.indices, top.values)


def _unexplained(rows: Rows, rebuilt: Rows) -> Float[Tensor, ""]:
    variance = (rows - rows.mean(0)).square().sum()
    return (rows - rebuilt).square().sum() / variance.clamp_min(1e-12)


def _prepare(x: Tensor, groups: np.ndarray, n_latents: int, k: int):
    """Unit rows, their center and each row's group number; raises what `fit_sae` promises."""
    if n_latents < 2:
        raise UserError(f"A taxonomy of {n_latents} categories tells nothing apart: ask for 2.")
    if not 1 <= k <= n_latents:
        raise UserError(f"k={k} of {n_latents} latents cannot be kept: choose 1 to {n_latents}.")
    if len(groups) != len(x):
        raise UserError(f"{len(groups)} groups for {len(x)} segments: give each segment one.")
    if len(x) < n_latents:
        raise UserError(f"{len(x)} segments cannot make {n_latents} categories: ask for fewer.")
    if bad := int((~torch.isfinite(x)).sum()):
        raise UserError(f"{bad} activations are NaN or infinite: load the model in float32.")
    x, codes = x.detach().float(), np.unique(groups, return_inverse=True)[1]
    # Every group weighs the same: the mean over groups of each group's mean.
    weights = 1 / np.bincount(codes)[codes]
    mean = torch.as_tensor(weights / weights.sum(), dtype=x.dtype, device=x.device) @ x
    return normalize(x - mean, dim=-1), mean, codes


def _far_rows(rows: Rows, n: int, generator: np.random.Generator) -> Centers:
    """Rows far from each other, drawn as k-means++ does."""
    chosen = [int(generator.integers(len(rows)))]
    far = np.full(len(rows), np.inf)
    while len(chosen) < n:
        cosines = (rows @ rows[chosen[-1]]).double().cpu().numpy()
        far = np.minimum(far, np.maximum(1 - cosines, 1e-12))
        chosen.append(int(generator.choice(len(rows), p=far / far.sum())))
    return rows[chosen]


def _spherical_centers(rows: Rows, n: int, generator: np.random.Generator) -> Centers:
    """Unit centers with the largest summed cosine among 10 runs of spherical k-means."""
    best, best_total = rows[:n], -np.inf
    for _ in range(10):
        centers, total = _far_rows(rows, n, generator), -np.inf
        for _ in range(100):
            cosines, nearest = (rows @ centers.T).max(-1)
            reached = cosines.sum().item()
            if reached > best_total:
                best, best_total = centers, reached
            if reached <= total + 1e-6 * len(rows):
                break
            total, members = reached, one_hot(nearest, n)
            sums, empty = members.to(rows.dtype).T @ rows, members.sum(0) == 0
            sums[empty] = rows[cosines.argsort()[: int(empty.sum())]]  # restart at worst-fit rows
            centers = normalize(sums, dim=-1)
    return best


def _finish(x, layer, method, k, mean, parts, model) -> Taxonomy:
    """The taxonomy on the CPU, with the variance of `x` that it leaves unexplained."""
    tensors = [t.detach().cpu().clone() for t in (mean, *parts)]
    found = Taxonomy(layer, method, k, *tensors, fvu=0.0, model=model)
    return replace(found, fvu=found.unexplained(x))


def fit_kmeans(
    x: Rows, groups: np.ndarray, layer: int, n_clusters: int, *, seed: int = 0, model: str = ""
) -> Taxonomy:
    """Spherical k-means on the rows of `fit_sae`, best of 10 starts; raises what that raises."""
    rows, mean, _ = _prepare(x, groups, n_clusters, 1)
    centers = _spherical_centers(rows, n_clusters, rng(seed, "k-means", layer, n_clusters))
    parts = (centers, rows.new_zeros(n_clusters), centers, torch.zeros_like(mean))
    return _finish(x, layer, "spherical-k-means", 1, mean, parts, model)


def fit_sae(
    x: Rows,
    groups: np.ndarray,
    layer: int,
    n_latents: int,
    *,
    k: int = 3,
    seed: int = 0,
    model: str = "",
    max_epochs: int = 300,
    advance: Callable[[int], None] = lambda n: None,
) -> Taxonomy:
    """TopK sparse autoencoder on raw segment means `x`; `groups` names each one's trace or problem.

    Loss, learning rate, batch and patience are the paper's. Two things differ: encoder and decoder
    start at the centers of spherical k-means (a random start leaves latents dead and depends on the
    seed), and training stops by, and returns the best epoch of, a tenth of the groups held out.
    `fvu` is that of all of `x`. `advance` counts epochs, skipped ones at the end.
    Raises `UserError` for fewer than 2 latents, k outside 1..n_latents, fewer segments than
    latents, groups of another length and activations that are not finite.
    """
    rows, mean, codes = _prepare(x, groups, n_latents, k)
    generator = rng(seed, "sae", layer, n_latents, k)
    shuffled = generator.permutation(codes.max() + 1)
    inside = np.isin(codes, shuffled[: -(-len(shuffled) // 10)])
    train, held = rows[np.flatnonzero(~inside)], rows[np.flatnonzero(inside)]
    if len(train) < n_latents:  # too little to hold anything out
        train, held = rows, rows
    centers = _spherical_centers(train, n_latents, generator)
    starts = (centers, rows.new_zeros(n_latents), centers, torch.zeros_like(mean))
    encoder, bias, decoder, offset = parts = [s.clone().requires_grad_() for s in starts]
    optimizer = torch.optim.Adam(parts, lr=2e-4 / (n_latents / 2**14) ** 0.5)

    def loss(part: Tensor) -> Tensor:
        codes = _keep((part - offset) @ encoder.T + bias, k)
        return _unexplained(part, codes @ normalize(decoder, dim=-1) + offset)

    @torch.no_grad()
    def snapshot() -> tuple[float, list[Tensor]]:
        return loss(held).item(), [part.detach().clone() for part in parts]

    (best, kept), waited, epoch = snapshot(), 0, 0
    while epoch < max_epochs and waited < PATIENCE:
        order = torch.from_numpy(generator.permutation(len(train))).to(rows.device)
        with torch.enable_grad():
            for batch in order.tensor_split(-(-len(train) // BATCH)):
                optimizer.zero_grad()
                loss(train[batch]).backward()
                optimizer.step()
        waited = 0 if (now := snapshot())[0] < best else waited + 1
        best, kept = (best, kept) if waited else now
        epoch += 1
        advance(1)
    advance(max_epochs - epoch)
    kept[2] = normalize(kept[2], dim=-1)
    return _finish(x, layer, "topk-sae", k, mean, kept, model)


@dataclass(frozen=True)
class TaxonomyAgreement:
    """How categories agree with behaviors; the two lists go by category.

    `majority` is a category's commonest behavior and `purity` that behavior's share in it (None and
    0 where it is empty); `f1` is that of saying for each segment its category's majority.
    """

    ami: float
    f1: dict[str, float]
    majority: list[str | None]
    purity: list[float]


def _as_numpy(categories: Categories, n: int, what: str) -> np.ndarray:
    found = np.asarray(categories.cpu() if isinstance(categories, Tensor) else categories)
    if found.shape != (n,) or n == 0:
        raise UserError(f"{found.size} categories for {n} {what}: give one for each, at least one.")
    return found


def agreement(
    categories: Categories, labels: np.ndarray | Sequence, n_categories: int | None = None
) -> TaxonomyAgreement:
    """Compare categories with exact behaviors; segments with label "" or None are left out.

    `n_categories` (the largest category + 1 by default) sets the length of the lists by category.
    Raises `UserError` for lengths that differ and where no segment has a label.
    """
    found = _as_numpy(categories, len(labels), "labels")
    names = np.array([name or "" for name in labels])
    size = int(found.max()) + 1 if n_categories is None else n_categories
    found, names = found[names != ""], names[names != ""]
    if not len(names):
        raise UserError("No segment has a behavior: compare with labels of an annotator.")
    behaviors, codes = np.unique(names, return_inverse=True)
    table = np.zeros((size, len(behaviors)), int)
    np.add.at(table, (found, codes), 1)
    totals, largest, voted = table.sum(1), table.max(1), table.argmax(1)
    right, guessed = (np.bincount(voted, n, len(behaviors)) for n in (largest, totals))
    f1 = 2 * right / (guessed + table.sum(0))
    return TaxonomyAgreement(
        ami=float(adjusted_mutual_info_score(codes, found)),
        f1=dict(zip(behaviors.tolist(), f1.tolist(), strict=True)),
        majority=[str(behaviors[v]) if totals[c] else None for c, v in enumerate(voted)],
        purity=(largest / np.maximum(totals, 1)).tolist(),
    )


def orthogonality(taxonomy: Taxonomy) -> float:
    """1 minus the mean absolute cosine of different decoder rows, a stand-in without a judge."""
    n = taxonomy.n_categories
    cosines = (taxonomy.decoder @ taxonomy.decoder.T).abs()
    return 1 - ((cosines.sum() - cosines.trace()) / (n * (n - 1))).item()


def _members(categories, sentences: Sequence[str]) -> dict[int, np.ndarray]:
    """The rows of each category with two or more sentences: one to show, one to ask about."""
    found = _as_numpy(categories, len(sentences), "sentences")
    rows = {int(c): np.flatnonzero(found == c) for c in np.unique(found)}
    if not (rows := {c: r for c, r in rows.items() if len(r) > 1}):
        raise UserError("No category has two sentences: judge more sentences or fewer categories.")
    return rows


def consistency(
    sentences: Sequence[str],
    categories: Categories,
    judge: Belongs,
    seed: int = 0,
    *,
    per_category: int = 100,
    share: float = 0.2,
) -> float:
    """Mean F1 over categories of a judge that says which of some sentences belong to a category.

    It sees up to 10 examples and about `per_category` other sentences, of which `share` belong to
    the category (fewer where the category is small). Categories of one sentence are left out.
    Raises `UserError` for lengths that differ, a share outside (0, 1) and a judge's wrong return.
    """
    if not 0 < share < 1:
        raise UserError(f"A share of {share} leaves nothing to tell: choose one between 0 and 1.")
    scores, texts = [], np.array(sentences, object)
    for category, rows in _members(categories, sentences).items():
        generator = rng(seed, "consistency", category)
        others = np.setdiff1d(np.arange(len(sentences)), rows)
        rows, others = generator.permutation(rows), generator.permutation(others)
        n_inside = max(1, min(round(per_category * share), len(rows) // 2))
        outside = others[: round(n_inside * (1 - share) / share)]
        tested = generator.permutation(np.append(rows[:n_inside], outside))
        examples = rows[n_inside : n_inside + N_EXAMPLES]
        said = list(judge(texts[examples].tolist(), texts[tested].tolist()))
        if len(said) != len(tested) or any(answer not in (True, False) for answer in said):
            raise UserError(f"The judge must return {len(tested)} booleans: it gave {said[:9]}.")
        hits = np.isin(tested, rows) & np.array(said, bool)
        scores.append(2 * hits.sum() / (n_inside + sum(map(bool, said))))
    return float(np.mean(scores))


def completeness(
    sentences: Sequence[str], categories: Categories, judge: Fits, seed: int = 0, *, n: int = 200
) -> float:
    """Mean of a judge's score, 0 to 1, of how well a sentence fits up to 10 others of its category.

    Judges `n` sentences drawn from all, but none that is alone in its category.
    Raises `UserError` for lengths that differ and for a score outside 0 to 1.
    """
    members, generator = _members(categories, sentences), rng(seed, "completeness")
    pairs = [(category, row) for category, rows in members.items() for row in rows]
    scores, texts = [], np.array(sentences, object)
    for drawn in generator.permutation(len(pairs))[:n]:
        category, row = pairs[drawn]
        shown = generator.permutation(members[category][members[category] != row])[:N_EXAMPLES]
        score = float(judge(texts[shown].tolist(), sentences[int(row)]))
        if not 0 <= score <= 1:
            raise UserError(f"The judge gave a score of {score}: it must return one from 0 to 1.")
        scores.append(score)
    return float(np.mean(scores))


@dataclass(frozen=True)
class Cell:
    """The scores of one layer and size (`taxonomy.grid` of the results)."""

    layer: int
    n_latents: int
    fvu: float
    ami: float | None
    consistency: float | None
    completeness: float | None
    orthogonality: float
    score: float


def choose(
    x_by_layer: Mapping[int, Rows],
    groups: np.ndarray,
    labels: np.ndarray | None,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    k: int = 3,
    sentences: Sequence[str] | None = None,
    judges: tuple[Belongs, Fits] | None = None,
    model: str = "",
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[Taxonomy, list[Cell]]:
    """Fit every layer and size; returns the taxonomy with the best score, and all cells.

    The score is the AMI with exact `labels`; without them, the mean of consistency, completeness
    (by the two `judges`, of `sentences`) and orthogonality. Ties go to the smaller size.
    Raises `UserError` where there are neither labels nor judges with sentences, or nothing to fit.
    """
    if not x_by_layer or not sizes:
        raise UserError("There is no taxonomy to choose: give at least one layer and one size.")
    if labels is None and (judges is None or sentences is None):
        raise UserError("A taxonomy needs a score: give labels, or judges and their sentences.")
    cells, fitted = [], []
    for n_latents in sorted(sizes):
        for layer, x in sorted(x_by_layer.items()):
            found = fit_sae(x, groups, layer, n_latents, k=k, seed=seed, model=model)
            categories, apart = found.categories(x), orthogonality(found)
            ami = None if labels is None else agreement(categories, labels).ami
            same = fit = None
            if judges is not None and sentences is not None:
                same = consistency(sentences, categories, judges[0], seed)
                fit = completeness(sentences, categories, judges[1], seed)
            score = ami if ami is not None else ((same or 0.0) + (fit or 0.0) + apart) / 3
            cells.append(Cell(layer, n_latents, found.fvu, ami, same, fit, apart, score))
            fitted.append(found)
            advance(1)
    return fitted[int(np.argmax([cell.score for cell in cells]))], cells
