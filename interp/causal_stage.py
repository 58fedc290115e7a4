"""The causal stage of the main job: choose on the select split, confirm on the report split."""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ActivationStore, hook_name
from interp.causal import (
    DOSES,
    Arm,
    Candidate,
    choose,
    count,
    edited,
    effect_record,
    effects,
    proxy_record,
    run_arms,
)
from interp.config import Config, Material
from interp.decisions import DecisionPoints, first_token_shares
from interp.directions import as_tensor, mean_difference
from interp.errors import UserError
from interp.models import Model, mean_norm
from interp.pairs import Pair
from interp.progress import Progress
from interp.runs import Run, write_json
from interp.tasks import Countdown
from interp.types import Trace
from probes import (
    covariance_matched_directions,
    paired_bootstrap,
    paired_ratio_bootstrap,
    shuffle_labels,
)

READINGS = (("before", "rest"), ("before", "matched"), ("mean", "rest"))
"""Read position and contrast of the differences of means that stand for selection."""
N_FOLDS = 5
EDITS_PER_BATCH = 12


def check_labels(store: ActivationStore, behavior: str) -> np.ndarray:
    """Which segments show the behavior; raises `UserError` where there are too few or only such."""
    y = store.labels == behavior
    if y.sum() < N_FOLDS:
        raise UserError(
            f"Only {int(y.sum())} segments show {behavior}, fewer than the {N_FOLDS} folds: sample "
            "more problems or leave this behavior out with --behavior."
        )
    if y.all():
        raise UserError(
            f"Every segment shows {behavior}: a contrast needs other segments; check the annotator."
        )
    return y


def layer_units(store: ActivationStore, n_layers: int) -> list[float]:
    """Mean norm of the residual stream at `before` positions, for each layer."""
    return [
        mean_norm(torch.from_numpy(store[hook_name("resid_post", layer), "before"]))
        for layer in range(n_layers)
    ]


def vector_and_unit(
    store: ActivationStore, behavior: str, use: dict
) -> tuple[Float[Tensor, " d_model"], float]:
    """The difference of means that a chosen use refers to, and its layer's residual norm."""
    hook = hook_name("resid_post", use["layer"])
    x = store[hook, use["position"]]
    y = store.labels == behavior
    vector = mean_difference(x, y, use["contrast"], store.previous)
    return as_tensor(vector), mean_norm(torch.from_numpy(store[hook, "before"]))


def fitted_vectors(
    store: ActivationStore, y: np.ndarray, n_layers: int
) -> Float[Tensor, "reading layer d_model"]:
    """Differences of means of one behavior (`y` [segment]) for every reading and layer."""
    found = [
        as_tensor(
            mean_difference(
                store[hook_name("resid_post", layer), read], y, contrast, store.previous
            )
        )
        for read, contrast in READINGS
        for layer in range(n_layers)
    ]
    return torch.stack(found).reshape(len(READINGS), n_layers, -1)


def shuffled_vectors(
    store: ActivationStore, behaviors: list[str], n_layers: int, seed: int
) -> dict[str, Float[Tensor, "reading layer d_model"]]:
    """What `fitted_vectors` finds when labels are shuffled inside every problem."""
    labels = shuffle_labels(store.labels, store.groups, seed)
    return {b: fitted_vectors(store, labels == b, n_layers) for b in behaviors}


def random_vectors(
    store: ActivationStore, n_layers: int, n: int, seed: int
) -> Float[Tensor, "n reading layer d_model"]:
    """Random directions with the activations' own covariance within problems.

    Isotropic ones would be too easy to beat: most of them point where the residual stream never
    goes. These are what differences of means look like for labels without meaning.
    """
    slots = np.array([f"{g}/{p}" for g, p in zip(store.groups, store.previous, strict=True)])
    found = [
        covariance_matched_directions(
            store[hook_name("resid_post", layer), read],
            n,
            1.0,
            seed,
            groups=slots if contrast == "matched" else store.groups,
        )
        for read, contrast in READINGS
        for layer in range(n_layers)
    ]
    shape = (n, len(READINGS), n_layers, -1)
    return torch.from_numpy(np.stack(found, 1)).float().reshape(shape)


def run_stage(
    run: Run,
    pair: Pair,
    config: Config,
    material: Material,
    fit: dict[str, ActivationStore],
    progress: Progress,
) -> dict:
    """Addition in the base and ablation in the thinking model, for every behavior, with nulls."""

    def work(folder: Path) -> None:
        parts = {}
        for kind, name in (("addition", "base"), ("ablation", "thinking")):
            path = folder / f"{kind}.json"
            if not path.exists():
                test = CausalTest(kind, getattr(pair, name), name, config, material, fit[name])
                write_json(path, test.run(progress))
            parts[kind] = json.loads(path.read_text())
        merged = {b: {**parts["ablation"][b], **parts["addition"][b]} for b in config.behaviors}
        write_json(folder / "causal.json", merged)

    fingerprints = [pair.base.fingerprint, pair.thinking.fingerprint]
    return json.loads((run.stage("causal", fingerprints, work) / "causal.json").read_text())


class CausalTest:
    """One kind of edit in one model, for all behaviors at once, beside shared nulls."""

    def __init__(
        self,
        kind: str,
        model: Model,
        name: str,
        config: Config,
        material: Material,
        store: ActivationStore,
    ) -> None:
        self.kind, self.model, self.config, self.store = kind, model, config, store
        self.behaviors = list(config.behaviors)
        self.sign = 1 if kind == "addition" else -1
        self.units = layer_units(store, model.n_layers)
        befores = [
            torch.from_numpy(store[hook_name("resid_post", layer), "before"]).mean(0)
            for layer in range(model.n_layers)
        ]
        self.means = torch.stack(befores).to(model.device) if kind == "ablation" else None
        self.clean_traces: list[Trace] = material.traces[name, "report"]
        segments = material.segments[name, "fit"]
        others = {s.behavior for row in segments for s in row if s.behavior} - {*self.behaviors}
        shares = first_token_shares(
            material.traces[name, "fit"],
            segments,
            [*self.behaviors, *sorted(others)],
            model.bridge.cfg.d_vocab,
        )
        self.select, self.report = (
            DecisionPoints(
                model,
                material.traces[name, split],
                material.segments[name, split],
                shares,
                config.n_points,
                config.seed,
            )
            for split in ("select", "report")
        )

    def effects(
        self, points: DecisionPoints, vectors: Float[Tensor, "reading layer d_model"]
    ) -> Float[np.ndarray, "reading layer dose behavior point"]:
        """Change of every behavior's probability under every use of the vectors."""
        return effects(points, vectors.to(self.model.device), self.units, self.means)

    def run(self, progress: Progress) -> dict:
        """Select, evaluate by decision points, and confirm by generation; one entry a behavior."""
        config, n_layers = self.config, self.model.n_layers
        arms: dict[str, Arm] = {}

        def enlist(label, vectors, effects, i, dose=None) -> Arm:
            use = choose(effects, i, self.sign, dose)
            name = f"{label}/{use.reading}/{use.layer}/{use.dose}"
            arms[name] = Arm(name, vectors[use.reading, use.layer], use)
            return arms[name]

        real, chosen = {}, {}
        for i, b in enumerate(self.behaviors):
            vectors = fitted_vectors(self.store, check_labels(self.store, b), n_layers)
            real[b] = self.effects(self.select, vectors)
            chosen[b] = enlist(f"real-{b}", vectors, real[b].mean(-1), i)
        nulls: dict[str, list[str]] = {b: [] for b in self.behaviors}
        random_effects = []
        total = config.n_random + config.n_shuffled
        with progress.bar(f"{self.kind}: null choices", total) as advance:
            random = random_vectors(self.store, n_layers, config.n_random, config.seed)
            for n, vectors in enumerate(random):
                found = self.effects(self.select, vectors).mean(-1)
                random_effects.append(found)
                for i, b in enumerate(self.behaviors):
                    dose = chosen[b].candidate.dose
                    nulls[b].append(enlist(f"random-{n}", vectors, found, i, dose).name)
                advance(1)
            for n in range(config.n_shuffled):
                seed = config.seed * 1000 + n
                shuffled = shuffled_vectors(self.store, self.behaviors, n_layers, seed)
                for i, b in enumerate(self.behaviors):
                    found = self.effects(self.select, shuffled[b]).mean(-1)
                    label, dose = f"shuffled-{n}-{b}", chosen[b].candidate.dose
                    nulls[b].append(enlist(label, shuffled[b], found, i, dose).name)
                advance(1)
        names = {b: arm.name for b, arm in chosen.items()}
        return self._confirm(arms, names, nulls, real, np.array(random_effects), progress)

    def _confirm(self, arms, chosen, nulls, real_effects, random_effects, progress) -> dict:
        config, task = self.config, Countdown()
        problems = {p.id: p for p in task.problems()}
        report = [problems[t.problem_id] for t in self.clean_traces]
        few = report[: config.n_null_problems]
        with progress.bar(f"{self.kind}: generation", len(arms)) as advance:

            def generate_arms(wanted, on):
                return run_arms(
                    self.model,
                    on,
                    wanted,
                    self.behaviors,
                    config.annotator,
                    self.units,
                    self.means,
                    task.grade,
                    config.seed,
                    advance,
                )

            full = generate_arms([arms[name] for name in chosen.values()], report)
            null = generate_arms([a for n, a in arms.items() if n not in chosen.values()], few)
        clean = count(self.model, self.clean_traces, self.behaviors, config.annotator)
        proxies = self._at_report(arms)
        groups = [t.problem_id for t in self.clean_traces]
        return {
            b: self._entry(
                i,
                b,
                arms,
                chosen[b],
                nulls[b],
                full,
                null,
                clean,
                proxies,
                groups,
                real_effects[b][..., i, :],
                random_effects[..., i],
            )  # fmt: skip
            for i, b in enumerate(self.behaviors)
        }

    def _entry(
        self,
        i,
        behavior,
        arms,
        name,
        null_names,
        full,
        null,
        clean,
        proxies,
        groups,
        effects,
        random_effects,
    ) -> dict:
        seed, arm, steered = self.config.seed, arms[name], full[name]
        candidate: Candidate = arm.candidate
        read, contrast = READINGS[candidate.reading]
        record = effect_record(clean, steered, [null[n] for n in null_names], i, self.sign, seed)
        own = proxies[name][:, i]
        null_own = np.array([proxies[n][:, i].mean() for n in null_names])
        record |= {
            "layer": candidate.layer,
            "position": read,
            "contrast": contrast,
            "proxy": proxy_record(own, null_own, self.sign, self.report.groups, seed),
        }
        change = paired_bootstrap(steered.correct, clean.correct, groups, seed=seed)
        accuracy_effect = {"value": change.value, "ci": [change.ci.low, change.ci.high]}
        if self.kind == "ablation":
            record["kind"] = "mean"
            record["accuracy_effect"] = accuracy_effect
            rate = record["baseline_rate"]
            record["removed_share"] = -record["effect"] / rate if rate else None
            return {"ablation": record}
        record["dose"] = candidate.dose
        return {
            "addition": record,
            "accuracy_effect": accuracy_effect,
            "specificity": self._specificity(clean, steered),
            "causal_sweep": self._causal_sweep(effects, random_effects),
            "dose_response": self._dose_response(effects, random_effects, candidate),
        }

    def _at_report(self, arms: dict[str, Arm]) -> dict[str, Float[np.ndarray, "point behavior"]]:
        """The change of every behavior's probability at the report points, for every arm."""
        found: dict[str, np.ndarray] = {}
        for layer in range(self.model.n_layers):
            here = [arm for arm in arms.values() if arm.candidate.layer == layer]
            for begin in range(0, len(here), EDITS_PER_BATCH):
                batch = here[begin : begin + EDITS_PER_BATCH]
                rows = [
                    edited(
                        self.report,
                        layer,
                        arm.vector.to(self.model.device),
                        [arm.candidate.dose],
                        self.units,
                        self.means,
                    )
                    for arm in batch
                ]
                changed = self.report.probabilities(layer, torch.cat(rows)) - self.report.clean
                found |= zip((arm.name for arm in batch), changed.cpu().numpy(), strict=True)
        return found

    def _specificity(self, clean, steered) -> dict:
        found = {}
        for j, other in enumerate(self.behaviors):
            e = paired_ratio_bootstrap(
                steered.counts[j], steered.totals, clean.counts[j], clean.totals,
                seed=self.config.seed,
            )  # fmt: skip
            found[other] = {"effect": e.value, "ci": [e.ci.low, e.ci.high]}
        return found

    def _point(self, values: np.ndarray, null: np.ndarray) -> dict:
        e = paired_bootstrap(
            values, np.zeros_like(values), self.select.groups, seed=self.config.seed
        )
        return {
            "effect": e.value,
            "ci": [e.ci.low, e.ci.high],
            "null_q05": float(np.quantile(null, 0.05)),
            "null_q95": float(np.quantile(null, 0.95)),
        }

    def _causal_sweep(self, effects: np.ndarray, null: np.ndarray) -> list[dict]:
        rows = []
        for layer in range(effects.shape[1]):
            best = np.unravel_index(
                int(effects[:, layer].mean(-1).argmax()), effects[:, layer].shape[:2]
            )
            strongest = null[:, :, layer].max((1, 2))
            rows.append({"layer": layer, **self._point(effects[:, layer][best], strongest)})
        return rows

    def _dose_response(self, effects, null, candidate: Candidate) -> list[dict]:
        zero = {"dose": 0.0, "effect": 0.0, "ci": [0.0, 0.0], "null_q05": 0.0, "null_q95": 0.0}
        cell = (candidate.reading, candidate.layer)
        return [zero] + [
            {"dose": dose, **self._point(effects[cell][d], null[:, *cell, d])}
            for d, dose in enumerate(DOSES)
        ]
