"""Steering vectors: difference of means, trained category by category, or trained jointly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, softplus

from interp.activations import ActivationStore
from interp.directions import as_tensor, mean_difference
from interp.errors import UserError
from interp.hybrid.points import Points
from interp.models import mean_norm, widened
from interp.pooling import hook_name

METHODS = ("difference-of-means", "trained-per-category", "trained-jointly")
EPOCHS = 20
RATE = 0.02
"""Adam's learning rate, in mean norms of the residual stream at the steered layer."""
PENALTY = 0.1
"""Weight of the vectors' mean squared length, in squared mean norms of the residual stream, in the
loss: the shortest vectors that do it, or random ones of the same length would break the base too."""
HIDDEN = 512


class CoefficientNetwork(nn.Module):
    """How strongly to steer, read from the base's own residual stream: one hidden layer of 512 units
    and a softplus output for each category (Venhoff et al. 2510.07364, version 4, appendix E.2)."""

    def __init__(self, d_model: int, n_categories: int, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.inner = nn.Linear(d_model, HIDDEN)
        self.heads = nn.Linear(HIDDEN, n_categories)
        self.mean = nn.Buffer(torch.ones(n_categories))
        nn.init.zeros_(self.heads.weight)
        nn.init.constant_(self.heads.bias, float(np.log(np.e - 1)))  # softplus gives 1

    def forward(
        self, resid: Float[Tensor, "*n d_model"], categories: Int[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """The coefficient of each row's category."""
        found = softplus(
            self.heads(gelu(self.inner(resid / self.unit * self.inner.in_features**0.5)))
        )
        return (found / self.mean).gather(-1, categories[..., None])[..., 0]


@dataclass(frozen=True)
class SteeringVectors:
    """What is added to the base's residual stream at `layer` (output), for each category.

    `shift(c)` is `bias + vectors[c]`, raw; a coefficient of 1 is its natural strength. A
    category whose shift is 0 is never steered. `network` gives a coefficient for each position.
    """

    method: str
    layer: int
    names: tuple[str, ...]
    vectors: Float[Tensor, "category d_model"]
    bias: Float[Tensor, " d_model"]
    network: CoefficientNetwork | None = None
    starts_only: bool = False

    @property
    def shifts(self) -> Float[Tensor, "category d_model"]:
        """The vector of each category, bias included."""
        return self.bias + self.vectors

    def shift(self, categories: Int[Tensor, "*n"]) -> Float[Tensor, "*n d_model"]:
        """The vector of each row's category."""
        return self.shifts.to(categories.device)[categories]

    def check(self, names: Sequence[str]) -> None:
        """Raise `UserError` unless there is a vector for every category of a controller."""
        if missing := [name for name in names if name not in self.names]:
            raise UserError(
                f"There is no steering vector for category {missing[0]!r} (vectors exist for "
                f"{', '.join(self.names)}): fit vectors on the controller's own categories."
            )

    @property
    def idle(self) -> frozenset[int]:
        """Categories that are never steered."""
        return frozenset((self.shifts.norm(dim=-1) == 0).nonzero()[:, 0].tolist())

    def randomized(self, draws: np.random.Generator) -> "SteeringVectors":
        """Random directions, each of the length of the shift that it replaces."""
        return self._pointing(draws, *self.vectors.shape)

    def magnitudes_only(self, draws: np.random.Generator) -> "SteeringVectors":
        """One random direction for all categories, as long as each one's shift."""
        return self._pointing(draws, self.vectors.shape[1])

    def _pointing(self, draws: np.random.Generator, *shape: int) -> "SteeringVectors":
        # One random direction, or one for each category, with the shifts' lengths.
        noise = torch.from_numpy(draws.standard_normal(shape)).to(self.vectors)
        lengths = self.shifts.norm(dim=-1, keepdim=True)
        noise = noise / noise.norm(dim=-1, keepdim=True) * lengths
        return replace(self, vectors=noise, bias=torch.zeros_like(self.bias))


def difference_of_means(
    store: ActivationStore,
    categories: Int[np.ndarray, " segment"],
    previous: np.ndarray,
    names: tuple[str, ...],
    layer: int,
    dose: float,
) -> SteeringVectors:
    """Differences of means of the base's residual stream at `before` positions, by category.

    Against segments that follow the same kind of segment. Each has length `dose` in mean norms of
    the residual stream; one that never stands where another category might is 0.
    """
    x = store[hook_name("resid_post", layer), "before"]
    unit = mean_norm(torch.from_numpy(x))
    vectors = torch.zeros(len(names), x.shape[1])
    for c in range(len(names)):
        y = categories == c
        kinds = set(previous[y]) & set(previous[~y])
        if kinds:
            found = as_tensor(mean_difference(x, y, "matched", previous))
            vectors[c] = found / found.norm().clamp_min(1e-12) * unit * dose
    zero = torch.zeros(x.shape[1])
    return SteeringVectors(METHODS[0], layer, names, vectors, zero, starts_only=True)


Shift = Callable[[Points, Tensor], Float[Tensor, "row query d_model"]]


def train(
    points: Sequence[Points],
    categories: Sequence[Int[Tensor, "row query"]],
    layer: int,
    shift: Shift,
    groups: list[dict],
    vectors: Tensor | None = None,
    *,
    seed: int,
) -> None:
    """Minimize the cross-entropy of the thinking model's token under the steered base, in nats.

    `vectors` [category, d_model], in mean residual norms, are kept short by `PENALTY`.

    `shift(points, categories)` is what is added at the output of `layer`, at the points alone: the
    same edit as in generation. `groups` are Adam's parameter groups.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(groups)
    n_steps = EPOCHS * len(points)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    order = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for i in order.permutation(len(points)):
            batch, real = points[i], points[i].real
            logits = batch.logits(layer, batch.base_resid[layer] + shift(batch, categories[i]))
            loss = cross_entropy(logits[real], batch.target[real])
            long = 0.0 if vectors is None else PENALTY * vectors.square().sum(-1).mean()
            optimizer.zero_grad()
            (loss + long).backward()
            optimizer.step()
            schedule.step()


def unit_of(points: Sequence[Points], layer: int) -> float:
    """Mean norm of the base's residual stream at the points."""
    return mean_norm(torch.cat([p.base_resid[layer][p.real] for p in points]))


@torch.enable_grad()
def trained_jointly(
    points: Sequence[Points],
    categories: Sequence[Int[Tensor, "row query"]],
    names: tuple[str, ...],
    layer: int,
    seed: int,
    network: bool = True,
) -> SteeringVectors:
    """Vectors and coefficient network trained together where the models disagree.

    Venhoff et al. 2510.07364, version 4, section 3.3. The network's mean output in each
    category is folded into its vector, so that a coefficient of 1 is the natural strength.
    """
    d_model, unit = points[0].thinking_resid.shape[-1], unit_of(points, layer)
    generator = torch.Generator().manual_seed(seed)
    device = points[0].target.device
    start = torch.randn(len(names), d_model, generator=generator) * 1e-3
    vectors = nn.Parameter(start.to(device))
    torch.manual_seed(seed)
    net = CoefficientNetwork(d_model, len(names), unit).to(device) if network else None

    def shift(batch: Points, c: Tensor) -> Tensor:
        found = vectors[c] * unit
        return found if net is None else found * net(batch.base_resid[layer], c)[..., None]

    groups = [{"params": [vectors], "lr": RATE}]
    if net is not None:
        groups.append({"params": list(net.parameters()), "lr": 1e-3})
    train(points, categories, layer, shift, groups, vectors, seed=seed)
    which = torch.cat([c[p.real] for p, c in zip(points, categories, strict=True)])
    count = torch.bincount(which, minlength=len(names))
    found = vectors.detach() * unit * (count > 0)[:, None]
    if net is not None:
        resid = torch.cat([p.base_resid[layer][p.real] for p in points])
        with torch.no_grad():
            total = torch.zeros(len(names), device=device).index_add_(0, which, net(resid, which))
        mean = torch.where(count > 0, total / count.clamp_min(1), 1.0)
        net.mean.copy_(mean)
        found = found * mean[:, None]
    return SteeringVectors(
        METHODS[2], layer, names, found, torch.zeros(d_model, device=device), net
    )


@torch.enable_grad()
def trained_per_category(
    whole: Sequence[Points],
    segments: Sequence[Points],
    categories: Sequence[Int[Tensor, "row query"]],
    names: tuple[str, ...],
    layer: int,
    seed: int,
) -> SteeringVectors:
    """A bias vector trained on `whole` traces, then each category's vector on its own `segments`.

    Venhoff et al. 2510.07364, version 1: the vector stands on the frozen bias and is trained at every
    token of the category's sentences.
    """
    d_model, unit = whole[0].thinking_resid.shape[-1], unit_of(whole, layer)
    device = whole[0].target.device
    bias = nn.Parameter(torch.zeros(d_model, device=device))
    none = [torch.zeros_like(p.target) for p in whole]
    train(
        whole,
        none,
        layer,
        lambda batch, c: (bias * unit).expand(*c.shape, -1),
        [{"params": [bias], "lr": RATE}],
        bias[None],
        seed=seed,
    )
    frozen = bias.detach() * unit
    vectors = nn.Parameter(torch.zeros(len(names), d_model, device=device))
    if len(names) > 1:
        train(
            segments,
            categories,
            layer,
            lambda batch, c: frozen + vectors[c] * unit,
            [{"params": [vectors], "lr": RATE}],
            vectors,
            seed=seed,
        )
    return SteeringVectors(METHODS[1], layer, names, vectors.detach() * unit, frozen)


@torch.enable_grad()
def with_network(
    vectors: SteeringVectors,
    points: Sequence[Points],
    categories: Sequence[Int[Tensor, "row query"]],
    seed: int,
) -> SteeringVectors:
    """The same vectors with a coefficient network of their own, trained at disagreements."""
    layer = vectors.layer
    torch.manual_seed(seed)
    device = points[0].target.device
    net = CoefficientNetwork(vectors.vectors.shape[1], len(vectors.names), unit_of(points, layer))
    net.to(device)

    def shift(batch: Points, c: Tensor) -> Tensor:
        return vectors.shift(c) * net(batch.base_resid[layer], c)[..., None]

    train(
        points,
        categories,
        layer,
        shift,
        [{"params": list(net.parameters()), "lr": 1e-3}],
        seed=seed,
    )
    return replace(vectors, network=net)


@torch.enable_grad()
def logit_biases(
    points: Sequence[Points],
    categories: Sequence[Int[Tensor, "row query"]],
    n_categories: int,
) -> Float[Tensor, "category d_vocab"]:
    """Logits to add for each category, trained as the vectors are: steering without a direction."""
    batches = [
        (p.base_logits(), c[p.real], p.target[p.real])
        for p, c in zip(points, categories, strict=True)
    ]
    d_vocab, n = batches[0][0].shape[1], sum(len(target) for *_, target in batches)
    biases = nn.Parameter(torch.zeros(n_categories, d_vocab, device=points[0].target.device))
    optimizer = torch.optim.Adam([biases], lr=0.3)
    for _ in range(5 * EPOCHS):
        optimizer.zero_grad()
        for logits, which, target in batches:  # the gradient of their mean, a batch at a time
            said = widened(logits) + biases[which]
            (cross_entropy(said, target, reduction="sum") / n).backward()
        optimizer.step()
    return biases.detach()
