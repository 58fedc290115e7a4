"""In which layer the decisions part, and whether the base's activations foretell it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from interp.divergence.reading import Places, resid_before
from interp.divergence.summary import Table
from interp.divergence.tokens import compare
from interp.engine import HERE, Engine
from interp.lens import lens, parts
from interp.pairs import Pair
from interp.texts import told_to
from interp.types import Trace
from interp.vocabulary import Vocabulary
from probes import (
    LogisticProbe,
    auroc,
    auroc_bootstrap,
    bootstrap_over_groups,
    paired_auroc_bootstrap,
    rng,
    shuffle_labels,
)


@torch.no_grad()
def lens_kl(
    pair: Pair,
    vocabulary: Vocabulary,
    traces: Sequence[Trace],
    places: Places,
    engine: Engine = HERE,
) -> Float[np.ndarray, "layer place"]:
    """KL(thinking||base) of the two models' logit lenses, in nats."""
    base, thinking = (
        resid_before(m, told_to(m, pair, traces), places, engine)
        for m in (pair.base, pair.thinking)
    )
    found = np.zeros(base.shape[:2])
    for layer in range(len(base)):
        for part in parts(len(places), vocabulary.size):
            logits = [
                vocabulary.shared_logits(lens(model, resid[layer, part]))
                for model, resid in ((pair.base, base), (pair.thinking, thinking))
            ]
            found[layer, part] = compare(*logits)["kl_thinking_base"].cpu()
    return found


def matched(table: Table, wanted: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """For each wanted row the agreement that is nearest in the base's entropy and in place.

    None where there is no agreement at all.
    """
    features = StandardScaler().fit_transform(np.stack([table.entropy, table.share], 1))
    pool = np.flatnonzero(~table.differ)
    if not len(pool):
        return pool
    nearest = NearestNeighbors(n_neighbors=1).fit(features[pool])
    return pool[nearest.kneighbors(features[wanted], return_distance=False)[:, 0]]


def layer_curves(
    pair: Pair,
    vocabulary: Vocabulary,
    traces: Sequence[Trace],
    table: Table,
    limit: int,
    seed: int,
    engine: Engine = HERE,
) -> dict:
    """`divergence.json: layers`: lenses at disagreements, matched agreements, first disagreements."""
    every = rng(seed, "lens").permutation(np.flatnonzero(table.differ))
    chosen = np.sort(every[:limit])
    kinds = {"disagreement": chosen, "agreement": matched(table, chosen), "first": table.first}
    curves = {}
    for kind, at in kinds.items():
        curves[kind] = []
        if len(set(table.trace[at])) < 2:
            continue
        places = [table.places[row] for row in at]
        for layer, values in enumerate(lens_kl(pair, vocabulary, traces, places, engine)):
            mean = bootstrap_over_groups(values, table.trace[at], seed=seed).as_json()
            curves[kind].append({"layer": layer, "kl": mean["value"], "ci": mean["ci"]})
    return {"lens": curves, "n": {kind: len(set(at.tolist())) for kind, at in kinds.items()}}


@dataclass(frozen=True)
class Foretold:
    """One split's tokens for the probe: base activations, whether the models differ, base entropy."""

    resid: Float[Tensor, "layer n d_model"]
    differ: Bool[np.ndarray, " n"]
    entropy: Float[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]


def foretell_data(
    pair: Pair,
    traces: Sequence[Trace],
    table: Table,
    limit: int,
    seed: int,
    engine: Engine = HERE,
) -> Foretold:
    """Up to `limit` disagreements and as many agreements, drawn at random."""
    draws = rng(seed, "foretell")
    rows = np.sort(
        np.concatenate(
            [
                draws.permutation(np.flatnonzero(table.differ == kind))[:limit]
                for kind in (True, False)
            ]
        )
    )
    places = [table.places[row] for row in rows]
    return Foretold(
        resid_before(pair.base, traces, places, engine),
        table.differ[rows],
        table.entropy[rows],
        np.array([traces[i].problem_id for i, _ in places]),
    )


def predict_disagreement(fit: Foretold, select: Foretold, report: Foretold, seed: int) -> dict:
    """`divergence.json: predict_disagreement`: a logistic probe of each layer of the base."""

    def scores(layer: int, labels: Bool[np.ndarray, " n"], of: Foretold) -> np.ndarray:
        probe = LogisticProbe().fit(fit.resid[layer].numpy(), labels)
        return probe.decision_function(of.resid[layer].numpy())

    layers = range(len(fit.resid))
    on_select = [auroc(scores(n, fit.differ, select), select.differ) for n in layers]
    on_report = [scores(n, fit.differ, report) for n in layers]
    by_layer = []
    for layer in layers:
        scored = on_report[layer], report.differ, report.groups
        found = auroc_bootstrap(*scored, seed=seed).as_json()
        by_layer.append({"layer": layer, "auroc": found["value"], "ci": found["ci"]})
    best = int(np.argmax(on_select))
    by_entropy = auroc_bootstrap(report.entropy, report.differ, report.groups, seed=seed)
    entropy = by_entropy.as_json()
    shuffled = shuffle_labels(fit.differ, np.zeros(len(fit.differ)), seed)
    return {
        "layer": best,
        "auroc": by_layer[best]["auroc"],
        "ci": by_layer[best]["ci"],
        "base_entropy_auroc": entropy["value"],
        "base_entropy_ci": entropy["ci"],
        "difference": paired_auroc_bootstrap(
            on_report[best], report.entropy, report.differ, report.groups, seed=seed
        ).as_json(),
        "shuffled_auroc": auroc(scores(best, shuffled, report), report.differ),
        "by_layer": by_layer,
    }
