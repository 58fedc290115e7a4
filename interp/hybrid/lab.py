"""What a hybrid run fits, each thing once and when it is first asked for."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.activations import ActivationStore
from interp.hybrid.controllers import (
    Categories,
    one_category,
    probe_categories,
    taxonomy_categories,
)
from interp.hybrid.points import Points, disagreements, read_points, select
from interp.hybrid.vectors import (
    METHODS,
    SteeringVectors,
    difference_of_means,
    logit_biases,
    trained_jointly,
    trained_per_category,
    with_network,
)
from interp.pairs import Pair
from interp.taxonomy import Taxonomy
from interp.types import Segment, Trace
from probes import rng

SYSTEMS = ("taxonomy", "behaviors", "any")
"""Ways to name what is steered: unsupervised categories, labeled behaviors, or no distinction."""
SHARE_OF_FIT = 0.8
"""Share of the fit problems that one seed's fits use."""
SHARE_WHOLE = 0.1
"""Share of the traces on whose every token a bias vector is trained."""
N_HARD = 24
"""Sentences of a category that its vector is trained on: those that surprise the base most."""


def candidate_layers(n_layers: int) -> tuple[int, ...]:
    """Layers at which steering is tried: all of a small model, four of a large one."""
    return tuple(range(0, n_layers, max(1, n_layers // 4)))


class Lab:
    """The fit split's traces as both models read them, and what is fitted there.

    The stores are the base's activations at `before` and the thinking model's at `mean`, over
    `segments` of `traces`: sampled ones of the base, sampled ones of the thinking model, and from
    `first_greedy` on the thinking model's greedy ones, along which the two models are compared.
    """

    def __init__(
        self,
        pair: Pair,
        traces: Sequence[Trace],
        segments: Sequence[Sequence[Segment]],
        n_base: int,
        first_greedy: int,
        base_store: ActivationStore,
        thinking_store: ActivationStore,
        taxonomy: Taxonomy,
    ) -> None:
        self.pair, self.taxonomy = pair, taxonomy
        self.n_base, self.first_greedy = n_base, first_greedy
        self.traces, self.segments = traces, segments
        self.base_store, self.thinking_store = base_store, thinking_store
        self._fits: dict[int, Fits] = {}

    @cached_property
    def points(self) -> list[Points]:
        """Every position of the thinking model's greedy traces."""
        layers = candidate_layers(self.pair.base.n_layers)
        return read_points(self.pair, self.traces[self.first_greedy :], layers, self.taxonomy.layer)

    @cached_property
    def rate(self) -> float:
        """Share of positions at which the two models disagree."""
        differ = sum(int(p.differ.sum()) for p in self.points)
        return differ / sum(int(p.real.sum()) for p in self.points)

    @cached_property
    def segment_starts(self) -> list[Int[np.ndarray, " segment"]]:
        """Where the segments of each of the greedy traces start."""
        return [np.array([s.start for s in row]) for row in self.segments[self.first_greedy :]]

    def segment_at(self, points: Points) -> Int[Tensor, "row query"]:
        """The segment that each point's next token is part of, counted over the store's rows."""
        counts = np.cumsum([0, *map(len, self.segments)])
        rows = [
            counts[self.first_greedy + i]
            + np.searchsorted(self.segment_starts[i], at.cpu().numpy() + 1, side="right").clip(1)
            - 1
            for i, at in zip(points.trace.tolist(), points.at, strict=True)
        ]
        return torch.from_numpy(np.stack(rows)).to(points.at.device)

    def fits(self, seed: int) -> "Fits":
        """What one seed fits, on its own part of the fit problems: the same object at every call."""
        if seed not in self._fits:
            self._fits[seed] = self._fits_of(seed)
        return self._fits[seed]

    def _fits_of(self, seed: int) -> "Fits":
        groups = np.array(sorted({t.problem_id for t in self.traces}))
        kept = rng(seed, "fit problems").permutation(groups)[: int(SHARE_OF_FIT * len(groups))]
        return Fits(self, set(kept.tolist()), seed)


class Fits:
    """One seed's categories, vectors, networks and logit biases."""

    def __init__(self, lab: Lab, problems: set[str], seed: int) -> None:
        self.lab, self.seed = lab, seed
        thinking = lab.traces[lab.first_greedy :]
        self.in_fit = torch.tensor([t.problem_id in problems for t in thinking])
        self.rows = np.isin(lab.base_store.groups, list(problems))
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made at the first call only."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _within(self, points: Points, mask: Bool[Tensor, "row query"]) -> Tensor:
        return mask & self.in_fit[points.trace].to(mask.device)[:, None]

    @cached_property
    def points(self) -> list[Points]:
        """Where the models disagree."""
        every = select(self.lab.points, [self._within(p, p.differ) for p in self.lab.points])
        return every or disagreements(self.lab.points)

    def categories(self, system: str) -> Categories:
        """How categories of one of `SYSTEMS` are told apart at a token."""
        return self.once(("categories", system), lambda: self._categories(system))

    def _categories(self, system: str) -> Categories:
        if system == "any":
            return one_category()
        resid = torch.cat([p.thinking_resid[p.real] for p in self.points])
        if system == "taxonomy":
            return taxonomy_categories(self.lab.taxonomy, resid.mean(0))
        labels = self.lab.base_store.labels
        segments = torch.cat([self.lab.segment_at(p)[p.real] for p in self.points]).cpu().numpy()
        return probe_categories(resid, [b or "other" for b in labels[segments]])

    def of_segments(self, system: str) -> Int[np.ndarray, " segment"]:
        """The category of every segment of the fit split, -1 where none fits."""
        store, names = self.lab.base_store, self.categories(system).names
        if system == "taxonomy":
            hook = f"blocks.{self.lab.taxonomy.layer}.hook_resid_post"
            mean = torch.from_numpy(self.lab.thinking_store[hook, "mean"])
            return self.lab.taxonomy.categories(mean).numpy()
        if system == "any":  # the thinking model's sentences against the base's
            return np.where(store.trace_index >= self.lab.n_base, 0, -1)
        place = {name: i for i, name in enumerate(names)}
        return np.array([place.get(b or "other", -1) for b in store.labels])

    def vectors(self, method: str, system: str, layer: int, dose: float) -> SteeringVectors:
        """Steering vectors of one method and system; `dose` is for differences of means."""
        key = ("vectors", method, system, layer, dose if method == METHODS[0] else None)
        return self.once(key, lambda: self._vectors(method, system, layer, dose))

    def _vectors(self, method: str, system: str, layer: int, dose: float) -> SteeringVectors:
        names = self.categories(system).names
        if method == METHODS[0]:
            store, found = self.lab.base_store, self.of_segments(system)
            first = np.r_[True, store.trace_index[1:] != store.trace_index[:-1]]
            before = np.where(first, "start", np.roll(found, 1).astype(str))
            previous = before if system == "taxonomy" else store.previous
            return difference_of_means(
                store.rows(self.rows), found[self.rows], previous[self.rows], names, layer, dose
            )
        if method == METHODS[2]:
            return trained_jointly(self.points, self.at_points(system), names, layer, self.seed)
        hard = self._hard_segments(system)
        chosen = torch.from_numpy(np.isin(np.arange(len(self.lab.base_store)), hard))
        parts = select(
            self.lab.points,
            [chosen.to(p.at.device)[self.lab.segment_at(p)] for p in self.lab.points],
        )
        of = torch.from_numpy(self.of_segments(system).clip(0))
        categories = [of.to(p.at.device)[self.lab.segment_at(p)] for p in parts]
        return trained_per_category(self._whole(), parts, categories, names, layer, self.seed)

    def at_points(self, system: str) -> list[Int[Tensor, "row query"]]:
        """The category that a controller would read at each disagreement."""
        read = self.categories(system).read
        return [read(p.thinking_resid) for p in self.points]

    def _whole(self) -> list[Points]:
        drawn = torch.from_numpy(
            rng(self.seed, "whole traces").random(len(self.in_fit)) < SHARE_WHOLE
        )
        masks = [
            self._within(p, p.real) & drawn[p.trace].to(p.real.device)[:, None]
            for p in self.lab.points
        ]
        return select(self.lab.points, masks)

    def _hard_segments(self, system: str) -> list[int]:
        # The base's mean loss over each sentence of this seed's traces.
        total, count = np.zeros((2, len(self.lab.base_store)))
        for p in self.lab.points:
            inside = self._within(p, p.real)
            segments = self.lab.segment_at(p)[inside].cpu().numpy()
            np.add.at(total, segments, p.base_loss[inside].cpu().numpy())
            np.add.at(count, segments, 1)
        mean, of = np.where(count > 0, total / count.clip(1), -np.inf), self.of_segments(system)
        found = []
        for c in np.unique(of[(of >= 0) & (count > 0)]):
            rows = np.flatnonzero((of == c) & (count > 0))
            found += rows[np.argsort(-mean[rows])[:N_HARD]].tolist()
        return found

    def networked(self, method: str, system: str, layer: int, dose: float) -> SteeringVectors:
        """Vectors with a coefficient network; those trained jointly have theirs already."""
        vectors = self.vectors(method, system, layer, dose)
        if vectors.network is not None:
            return vectors
        key = ("network", method, system, layer, dose)
        return self.once(
            key, lambda: with_network(vectors, self.points, self.at_points(system), self.seed)
        )

    def logit_biases(self, system: str) -> Tensor:
        """Trained logits for each category."""
        n = len(self.categories(system).names)
        return self.once(
            ("logits", system), lambda: logit_biases(self.points, self.at_points(system), n)
        )
