"""Does a direction stand for its behavior elsewhere, too: refits, other models and words, what erasing leaves."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from interp.activations import ActivationStore
from interp.behaviors import ANNOTATORS, annotate
from interp.causal import EDITS_PER_BATCH, changes
from interp.causal_subject import Subject
from interp.curves import mean_effect
from interp.decisions import DecisionPoints
from interp.directions import as_tensor, mean_difference
from interp.pooling import hook_name
from interp.queries import Above
from interp.readings import check_labels
from interp.validation.evidence import Evidence
from interp.validation.gates import Gate
from probes import bootstrap_weights, leace, removal

N_REFITS = 100
N_REMOVALS = 12
READABLE = 0.6
"""A probe's AUROC below which little is left to read."""


def stability(evidence: Evidence, min_cosine: float) -> Gate:
    """Cosine of the direction with refits: resampled problems, other problems, other reads and annotators.

    The estimate is the mean over `N_REFITS` bootstrap resamples of the fit problems; it counts together
    with the refit on the report split's problems, which are all others. Of several layers the worst counts.
    The null is the 95th percentile of the cosines that null directions have with the refit on all of fit.
    """
    subject, behavior = evidence.subject, evidence.name
    store, report = subject.store, evidence.bench.report
    try:
        y, y_report = (check_labels(s, behavior) for s in (store, report))
    except ValueError as error:
        return Gate("stability", None, str(error))
    groups = np.unique(store.groups, return_inverse=True)[1]
    weights = bootstrap_weights(int(groups.max()) + 1, N_REFITS, subject.config.seed)
    labelings = {}
    for name in ANNOTATORS:
        rows = [annotate(row, name) for row in subject.fit_segments]
        labelings[name] = np.array([s.behavior == behavior for row in rows for s in row])
    drawn = (np.repeat(np.arange(len(groups)), w[groups].astype(int)) for w in weights.astype(int))
    # Where few problems show it, a resample may hold none of them.
    resampled = [rows for rows in drawn if contrasts(y[rows], store.previous[rows])]

    def refit(layer: int, store: ActivationStore, y: np.ndarray, read: str = "before", rows=None):
        rows = np.arange(len(y)) if rows is None else rows
        x = store[hook_name("resid_post", layer), read]
        return mean_difference(x[rows], y[rows], "matched", store.previous[rows])

    def at(layer: int, vector: Float[np.ndarray, " d_model"], others: Tensor) -> dict:
        cosines = [cosine(refit(layer, store, y, rows=rows), vector) for rows in resampled]
        own = refit(layer, store, y)
        chance = [cosine(own, other) for other in others.double().numpy()]
        found = {
            "mean": float(np.mean(cosines)),
            "ci": [float(q) for q in np.quantile(cosines, [0.025, 0.975])],
            "other_problems": cosine(refit(layer, report, y_report), vector),
            "null": float(np.quantile(chance, 0.95)),
            "reads": {
                "before": cosine(own, vector),
                "mean": cosine(refit(layer, store, y, "mean"), vector),
            },
            "annotators": {},
        }
        for name, labeled in labelings.items():
            able = contrasts(labeled, store.previous)
            again = cosine(refit(layer, store, labeled), vector) if able else None
            found["annotators"][name] = again
        return found

    steering, nulls = evidence.steering, evidence.nulls
    layers = {
        layer: at(layer, steering.vectors[0, k].double().numpy(), nulls.vectors[:, k])
        for k, layer in enumerate(steering.layers)
    }
    worst = min(
        layers, key=lambda layer: min(layers[layer]["mean"], layers[layer]["other_problems"])
    )
    found = layers[worst]
    least = min(found["mean"], found["other_problems"])
    reason = (
        f"refits on resampled problems have a mean cosine of {found['mean']:.2f} with it, a refit on other "
        f"problems has {found['other_problems']:.2f}, null directions have up to {found['null']:.2f}"
    )
    passed = bool(least >= min_cosine and least > found["null"])
    details = {"layer": worst, "layers": layers}
    return Gate("stability", passed, reason, found["mean"], found["ci"], found["null"], details)


def contrasts(y: Bool[np.ndarray, " segment"], previous: Shaped[np.ndarray, " segment"]) -> bool:
    """Whether segments after one kind are labeled and unlabeled, for any kind."""
    return any(not y[previous == kind].all() for kind in np.unique(previous[y]))


def cosine(a: Float[np.ndarray, " d_model"], b: Float[np.ndarray, " d_model"]) -> float:
    """Cosine of two vectors; 0 where one has no length."""
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


Setting = tuple[DecisionPoints, Bool[np.ndarray, " point"]]
"""Decision points, and at which of them the behavior is a choice."""


def transfer(evidence: Evidence, settings: Mapping[str, Setting], min_share: float) -> Gate:
    """Rise of the behavior's probability in other settings, beside that where it is on trial.

    As a share of what is left to rise: where a behavior is likely anyway, little is. A setting with too few
    problems is None.
    """
    i, seed = evidence.behavior, evidence.subject.config.seed

    def measured(points: DecisionPoints, at: Bool[np.ndarray, " point"]) -> dict:
        found = mean_effect(*evidence.rise(points, at), seed)
        room = 1 - float(points.clean[:, i].cpu().numpy()[at].mean())
        return found | {"room": room, "share_of_room": found["effect"] / room}

    own = evidence.subject.report, evidence.subject.report_at[i]
    if few := evidence.too_few(*own):
        return Gate("transfer", None, few)
    here = measured(*own)
    short = {name: few for name, where in settings.items() if (few := evidence.too_few(*where))}
    found = {name: measured(*where) for name, where in settings.items() if name not in short}
    told = found | dict.fromkeys(short)
    if here["effect"] <= 0:
        reason = f"its own behavior changes by {here['effect']:+.3f} where it is on trial"
        return Gate("transfer", False, reason, details={"own": here, "settings": told})
    shares = {name: each["share_of_room"] / here["share_of_room"] for name, each in found.items()}
    unseen = "; ".join(f"{name}, {few}" for name, few in short.items())
    if not shares:
        return Gate("transfer", None, unseen, details={"own": here, "settings": told})
    worst = min(shares, key=lambda name: shares[name])
    sure = all(each["ci"][0] > 0 for each in found.values())
    reason = (
        f"it raises the probability by {here['share_of_room']:.1%} of what is left to rise where it is on "
        f"trial; elsewhere least {worst}, by {found[worst]['share_of_room']:.1%}"
        + (f"; not measured: {unseen}" if unseen else "")
    )
    scale = found[worst]["room"] * here["share_of_room"]
    low, high = (bound / scale for bound in found[worst]["ci"])
    passed = sure and shares[worst] >= min_share
    if passed and short:
        passed = None
    details = {"own": here, "settings": told, "shares": shares}
    return Gate("transfer", passed, reason, shares[worst], (low, high), None, details)


def redundancy(evidence: Evidence, min_share: float) -> Gate:
    """What is left of the behavior without this direction, beside erasing all that is linear.

    In the thinking model, at decision points: the component along the direction is set to the mean at its
    layer and all above, as `MeanAblate` does it; LEACE erases the label at each of these layers; and
    ever larger subspaces are set to their mean, the direction first and then those of probes fitted on
    what is left. The estimate is the share of the behavior's probability that goes with the direction.
    """
    thinking, report = evidence.bench.thinking, evidence.bench.report
    layer, i = evidence.steering.main_layer, evidence.behavior
    vector = evidence.steering.main[0]
    at, seed = thinking.report_at[i], thinking.config.seed
    clean, groups = thinking.report.clean[:, i].cpu().numpy()[at], thinking.report.groups[at]
    whole = float(clean.mean()) if len(clean) else 0.0
    key = hook_name("resid_post", layer), "before"
    y, y_report = (s.labels == evidence.name for s in (evidence.subject.store, report))
    x, x_report = evidence.subject.store[key], report[key]
    y_own = thinking.store.labels == evidence.name
    if whole <= 0 or any(not labels.any() or labels.all() for labels in (y, y_report, y_own)):
        reason = f"{thinking.model.name} never shows {evidence.name}, so nothing can be removed"
        return Gate("redundancy", None, reason)
    if few := evidence.too_few(thinking.report, at):
        return Gate("redundancy", None, f"in {thinking.model.name} {few}")
    readable = removal(x, y, x_report, y_report, N_REMOVALS, vector.double().numpy()).auroc

    def left(edit: Above) -> Float[np.ndarray, " choice"]:
        resid = edit(layer, thinking.report.resid[layer][None])
        found = thinking.report.probabilities(layer, resid, edit)[0, :, i]
        return found.cpu().numpy()[at]

    own = left(_to_mean(vector[None], thinking))
    erased = left(_leace(thinking, y_own, layer))
    basis = removal(
        thinking.store[key], y_own, thinking.store[key], y_own, N_REMOVALS, vector.double().numpy()
    ).directions
    curve = [
        float(1 - left(_to_mean(as_tensor(basis[:n]), thinking)).mean() / whole)
        for n in range(1, len(basis) + 1)
    ]
    null = _removed_by_nulls(evidence, thinking)
    change = mean_effect(clean - own, groups, seed)
    share, low, high = (v / whole for v in (change["effect"], *change["ci"]))
    all_linear = 1 - float(erased.mean() / whole)
    need = next((n for n, gone in enumerate(curve, 1) if gone >= 0.9 * all_linear), None)
    unread = next((n for n, auroc in enumerate(readable) if auroc <= READABLE), None)
    reason = (
        f"without it {1 - share:.0%} of the behavior's probability is left in {thinking.model.name}, without "
        f"anything linear (LEACE) {1 - all_linear:.0%}; nine tenths of that takes "
        + (f"{need} directions" if need else f"over {len(curve)} directions")
        + ", and a probe reads it until "
        + (
            f"{unread} are gone"
            if unread is not None
            else f"more than {len(readable) - 1} are gone"
        )
    )
    details = {
        "leace": all_linear, "removed_by_step": [0.0, *curve], "auroc_by_step": readable,
    }  # fmt: skip
    passed = bool(share >= min_share * all_linear > 0 and low > null)
    return Gate("redundancy", passed, reason, share, (low, high), null, details)


def _removed_by_nulls(evidence: Evidence, thinking: Subject) -> float:
    """The 95th percentile of the share that the null directions remove."""
    at, found = thinking.report_at[evidence.behavior], []
    for part in evidence.nulls.main.to(thinking.centers).split(EDITS_PER_BATCH):
        ones = torch.ones(len(part)).to(part)
        rows = changes(thinking.report, evidence.steering.main_layer, part, ones, thinking.centers)
        found += rows[..., evidence.behavior].cpu().numpy()[:, at].mean(1).tolist()
    clean = thinking.report.clean[:, evidence.behavior].cpu().numpy()[at].mean()
    return float(np.quantile(-np.array(found) / clean, 0.95))


def _to_mean(basis: Float[Tensor, "k d_model"], subject: Subject) -> Above:
    """Set the components in a subspace to the mean of each layer."""
    basis = torch.linalg.qr(basis.T.double())[0].T.to(subject.centers)

    def edit(layer: int, resid: Tensor) -> Tensor:
        return resid + ((subject.centers[layer] - resid) @ basis.T) @ basis

    return edit


def _leace(subject: Subject, y: Bool[np.ndarray, " segment"], first: int) -> Above:
    """Erase the label at every layer from `first` on, each by what was fitted there."""
    erasers = {
        layer: leace(subject.store[hook_name("resid_post", layer), "before"], y)
        for layer in range(first, subject.model.n_layers)
    }

    def edit(layer: int, resid: Tensor) -> Tensor:
        e = erasers[layer]
        read, write, mean = (as_tensor(v).to(resid) for v in (e.read, e.write, e.mean))
        return resid - ((resid - mean) @ read)[..., None] * write

    return edit
