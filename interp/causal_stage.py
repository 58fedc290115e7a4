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
    ablation_effects,
    addition_effects,
    choose,
    count,
    effect_record,
    effects_at,
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
    StreamingMeanDifference,
    paired_bootstrap,
    paired_ratio_bootstrap,
    random_directions,
    shuffle_labels,
)

ADD_READINGS = (("before", "rest"), ("mean", "rest"))
ABLATE_READINGS = (("before", "rest"), ("before", "matched"))
N_FOLDS = 5


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


def _real_vectors(store, behavior, readings, n_layers) -> Float[Tensor, "reading layer d_model"]:
    y = check_labels(store, behavior)
    return torch.stack(
        [
            torch.stack(
                [
                    as_tensor(
                        mean_difference(
                            store[hook_name("resid_post", layer), read], y, contrast, store.previous
                        )
                    )
                    for layer in range(n_layers)
                ]
            )
            for read, contrast in readings
        ]
    )


def _shuffled_vectors(
    store: ActivationStore, behaviors, readings, n_layers: int, seed: int
) -> dict[str, Float[Tensor, "reading layer d_model"]]:
    codes = np.array([behaviors.index(b) + 1 if b in behaviors else 0 for b in store.labels])
    codes = shuffle_labels(codes, store.groups, seed)
    found: dict[str, list[Tensor]] = {b: [] for b in behaviors}
    for read, _ in readings:
        for layer in range(n_layers):
            x = store[hook_name("resid_post", layer), read]
            stream = StreamingMeanDifference(x.shape[1])
            stream.update(x, codes)
            for i, behavior in enumerate(behaviors):
                found[behavior].append(as_tensor(stream.direction(i + 1)))
    shape = (len(readings), n_layers, -1)
    return {b: torch.stack(vectors).reshape(shape) for b, vectors in found.items()}


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
        self.readings = ADD_READINGS if kind == "addition" else ABLATE_READINGS
        self.units = layer_units(store, model.n_layers)
        befores = [
            torch.from_numpy(store[hook_name("resid_post", layer), "before"]).mean(0)
            for layer in range(model.n_layers)
        ]
        self.means = torch.stack(befores).to(model.device) if kind == "ablation" else None
        self.clean_traces: list[Trace] = material.traces[name, "report"]
        shares = first_token_shares(
            material.traces[name, "fit"],
            material.segments[name, "fit"],
            self.behaviors,
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

    def effects(self, vectors: Float[Tensor, "reading layer d_model"]) -> np.ndarray:
        """Effects [reading, layer, dose, behavior, point] on the select split."""
        vectors = vectors.to(self.model.device)
        if self.means is None:
            return addition_effects(self.select, vectors, self.units)
        return ablation_effects(self.select, vectors, self.means)

    def run(self, progress: Progress) -> dict:
        """Select, evaluate by decision points, and confirm by generation; one entry a behavior."""
        config, n_layers = self.config, self.model.n_layers
        n_random, n_shuffled = config.n_random, config.n_shuffled
        real = {b: _real_vectors(self.store, b, self.readings, n_layers) for b in self.behaviors}
        real_effects = {b: self.effects(real[b]) for b in self.behaviors}
        random = torch.from_numpy(
            random_directions(n_random * len(self.readings), self.model.d_model, 1.0, config.seed)
        ).float()
        random = random.reshape(n_random, len(self.readings), 1, -1).expand(-1, -1, n_layers, -1)
        arms: dict[str, Arm] = {}
        nulls: dict[str, list[str]] = {b: [] for b in self.behaviors}
        layer_null: dict[str, list[np.ndarray]] = {b: [] for b in self.behaviors}

        def enlist(behavior: str, prefix: str, vectors: Tensor, effects: np.ndarray) -> str:
            i = self.behaviors.index(behavior)
            candidate = choose(effects[..., i, :].mean(-1), self.sign)
            name = f"{prefix}/{candidate.reading}/{candidate.layer}/{candidate.dose}"
            arms[name] = Arm(name, vectors[candidate.reading, candidate.layer], candidate)
            return name

        with progress.bar(f"{self.kind}: null choices", n_random + n_shuffled) as advance:
            for n in range(n_random):
                effects = self.effects(random[n])
                for i, behavior in enumerate(self.behaviors):
                    nulls[behavior].append(enlist(behavior, f"random-{n}", random[n], effects))
                    layer_null[behavior].append(effects[..., i, :].mean(-1))
                advance(1)
            for n in range(n_shuffled):
                shuffled = _shuffled_vectors(
                    self.store, self.behaviors, self.readings, n_layers, config.seed * 1000 + n
                )
                for behavior in self.behaviors:
                    vectors = shuffled[behavior]
                    effects = self.effects(vectors)
                    name = enlist(behavior, f"shuffled-{n}-{behavior}", vectors, effects)
                    nulls[behavior].append(name)
                advance(1)
        chosen = {b: enlist(b, f"real-{b}", real[b], real_effects[b]) for b in self.behaviors}
        return self._confirm(arms, chosen, nulls, real_effects, layer_null, progress)

    def _confirm(self, arms, chosen, nulls, real_effects, layer_null, progress) -> dict:
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
                groups,
                real_effects[b],
                np.array(layer_null[b]),
            )  # fmt: skip
            for i, b in enumerate(self.behaviors)
        }

    def _entry(
        self, i, behavior, arms, name, null_names, full, null, clean, groups, effects, layer_null
    ) -> dict:
        seed, arm, steered = self.config.seed, arms[name], full[name]
        candidate: Candidate = arm.candidate
        read, contrast = self.readings[candidate.reading]
        record = effect_record(clean, steered, [null[n] for n in null_names], i, self.sign, seed)
        own = self._at_report(arm)[i]
        null_own = np.array([self._at_report(arms[n])[i].mean() for n in null_names])
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
            record["removed_share"] = -record["effect"] / max(record["baseline_rate"], 1e-9)
            return {"ablation": record}
        record["dose"] = candidate.dose
        return {
            "addition": record,
            "accuracy_effect": accuracy_effect,
            "specificity": self._specificity(clean, steered),
            "causal_sweep": self._causal_sweep(effects[..., i, :], layer_null),
            "dose_response": self._dose_response(effects[..., i, :], layer_null, candidate),
        }

    def _at_report(self, arm: Arm) -> np.ndarray:
        vector = arm.vector.to(self.model.device)
        return effects_at(self.report, vector, arm.candidate, self.units, self.means)

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
