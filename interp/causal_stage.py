"""The causal stage of the main job: choose on the select split, confirm on the report split."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ActivationStore, hook_name
from interp.causal import (
    DOSES,
    Arm,
    ArmResult,
    Candidate,
    choose,
    count,
    edited,
    effect_record,
    effects,
    proxy_record,
    rate_change,
    run_arms,
    spread,
)
from interp.config import Config, Material
from interp.decisions import DecisionPoints, first_token_shares
from interp.models import Model
from interp.pairs import Pair
from interp.progress import Progress
from interp.readings import (
    READINGS,
    check_labels,
    choices,
    fitted_vectors,
    layer_units,
    random_vectors,
    shuffled_vectors,
)
from interp.runs import Run, write_json
from interp.tasks import Countdown
from interp.types import Trace
from probes import paired_bootstrap

EDITS_PER_BATCH = 48


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
                model = getattr(pair, name)
                test = CausalTest(kind, model, name, config, material, fit[name], progress)
                write_json(path, test.run())
            parts[kind] = json.loads(path.read_text())
        merged = {b: {**parts["ablation"][b], **parts["addition"][b]} for b in config.behaviors}
        write_json(folder / "causal.json", merged)

    fingerprints = [pair.base.fingerprint, pair.thinking.fingerprint]
    return json.loads((run.stage("causal", fingerprints, work) / "causal.json").read_text())


@dataclass
class Trial:
    """One behavior on trial: the arms of its direction and of its nulls, each with its own use.

    `effects` [reading, layer, dose, point] are the direction's on the select points.
    """

    effects: Float[np.ndarray, "reading layer dose point"]
    real: Arm
    nulls: list[Arm] = field(default_factory=list)


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
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self.kind, self.model, self.config, self.store = kind, model, config, store
        self.behaviors = list(config.behaviors)
        self.readings = READINGS[kind]
        self.sign = 1 if kind == "addition" else -1
        self.units = layer_units(store, model.n_layers)
        befores = [
            torch.from_numpy(store[hook_name("resid_post", layer), "before"]).mean(0)
            for layer in range(model.n_layers)
        ]
        self.means = torch.stack(befores).to(model.device) if kind == "ablation" else None
        self.clean_traces: list[Trace] = material.traces[name, "report"]
        # Both models' traces: a base that never shows a behavior cannot tell how one begins.
        traces = material.traces["base", "fit"] + material.traces["thinking", "fit"]
        segments = material.segments["base", "fit"] + material.segments["thinking", "fit"]
        shares = first_token_shares(traces, segments, self.behaviors, model.bridge.cfg.d_vocab)
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
        # Where this model never comes to a place of choice, any place is as good.
        own = {str(kind) for points in (self.select, self.report) for kind in points.previous}
        self.after = {
            b: kinds if all(kinds & {*p.previous} for p in (self.select, self.report)) else own
            for b, kinds in choices(store, self.behaviors).items()
        }
        self.select_at, self.report_at = (
            np.array([np.isin(points.previous, list(kinds)) for kinds in self.after.values()])
            for points in (self.select, self.report)
        )
        self.random = random_vectors(
            store, model.n_layers, self.readings, config.n_random, config.seed
        )
        with self.progress.bar(f"{kind}: random directions", config.n_random) as advance:
            found = []
            for vectors in self.random:
                found.append(self.mean_effects(vectors))
                advance(1)
        self.random_effects = np.array(found)
        self.spreads = spread(self.random_effects)

    def effects(
        self, vectors: Float[Tensor, "reading layer d_model"]
    ) -> Float[np.ndarray, "reading layer dose behavior point"]:
        """Change of every behavior's probability at the select points, for every use."""
        return effects(self.select, vectors.to(self.model.device), self.units, self.means)

    def mean_effects(
        self, vectors: Float[Tensor, "reading layer d_model"]
    ) -> Float[np.ndarray, "reading layer dose behavior"]:
        """Means of `effects` over the points at which the behavior is a choice."""
        return self.means_of(self.effects(vectors))

    def means_of(
        self, effects: Float[np.ndarray, "reading layer dose behavior point"]
    ) -> Float[np.ndarray, "reading layer dose behavior"]:
        """Means of select effects over the points at which the behavior is a choice."""
        weights = self.select_at / self.select_at.sum(1, keepdims=True).clip(1)
        return np.einsum("rldbp,bp->rldb", effects, weights)

    def arm(
        self,
        label: str,
        vectors: Float[Tensor, "reading layer d_model"],
        effects: Float[np.ndarray, "reading layer dose behavior"],
        behavior: int,
    ) -> Arm:
        """The vectors with the use that suits `behavior` best; the name tells both."""
        use = choose(effects, self.spreads, behavior, self.sign)
        name = f"{label}/{use.reading}/{use.layer}/{use.dose}"
        return Arm(name, vectors[use.reading, use.layer], use)

    def run(self) -> dict:
        """Select, evaluate by decision points, and confirm by generation; one entry a behavior."""
        trials = self._choose()
        arms = {arm.name: arm for t in trials.values() for arm in (t.real, *t.nulls)}
        full, null = self._generate(trials, arms)
        clean = count(self.model, self.clean_traces, self.config.annotator, self.after)
        proxies = self.proxies(arms.values())
        return {
            b: self._entry(i, trial, clean, full[trial.real.name], null, proxies)
            for i, (b, trial) in enumerate(trials.items())
        }

    def _choose(self) -> dict[str, Trial]:
        n_layers, trials = self.model.n_layers, {}
        for i, b in enumerate(self.behaviors):
            y = check_labels(self.store, b)
            vectors = fitted_vectors(self.store, y, n_layers, self.readings)
            found = self.effects(vectors)
            real = self.arm(f"real-{b}", vectors, self.means_of(found), i)
            trials[b] = Trial(found[..., i, self.select_at[i]], real)
            for n, (random, changed) in enumerate(
                zip(self.random, self.random_effects, strict=True)
            ):
                arm = self.arm(f"random-{n}", random, changed, i)
                trials[b].nulls.append(arm)
        with self.progress.bar(f"{self.kind}: shuffled labels", self.config.n_shuffled) as advance:
            for n in range(self.config.n_shuffled):
                seed = self.config.seed * 1000 + n
                shuffled = shuffled_vectors(
                    self.store, self.behaviors, n_layers, self.readings, seed
                )
                for i, (b, trial) in enumerate(trials.items()):
                    changed = self.mean_effects(shuffled[b])
                    label = f"shuffled-{n}-{b}"
                    trial.nulls.append(self.arm(label, shuffled[b], changed, i))
                advance(1)
        return trials

    def _generate(
        self, trials: dict[str, Trial], arms: dict[str, Arm]
    ) -> tuple[dict[str, ArmResult], dict[str, ArmResult]]:
        """The directions' results on all report problems, the nulls' on the first of them."""
        config, task = self.config, Countdown()
        problems = {p.id: p for p in task.problems()}
        report = [problems[t.problem_id] for t in self.clean_traces]
        real = {trial.real.name: trial.real for trial in trials.values()}
        null = {name: arm for name, arm in arms.items() if name not in real}
        with self.progress.bar(f"{self.kind}: generation", len(arms)) as advance:
            full, few = (
                run_arms(
                    self.model, on, list(wanted.values()), config.annotator, self.after, self.units,
                    self.means, task.grade, config.seed, advance,
                )
                for wanted, on in ((real, report), (null, report[: config.n_null_problems]))
            )  # fmt: skip
        return full, few

    def _entry(
        self,
        i: int,
        trial: Trial,
        clean: ArmResult,
        steered: ArmResult,
        null: dict[str, ArmResult],
        proxies: dict[str, np.ndarray],
    ) -> dict:
        seed, sign, use = self.config.seed, self.sign, trial.real.candidate
        nulls = [null[arm.name] for arm in trial.nulls]
        read, contrast = self.readings[use.reading]
        choice = self.report_at[i]
        null_proxies = np.array([proxies[arm.name][choice, i].mean() for arm in trial.nulls])
        record = effect_record(clean, steered, nulls, i, sign, seed) | {
            "layer": use.layer,
            "position": read,
            "contrast": contrast,
            "proxy": proxy_record(
                proxies[trial.real.name][choice, i],
                null_proxies,
                sign,
                self.report.groups[choice],
                seed,
            ),
        }
        groups = [t.problem_id for t in self.clean_traces]
        change = paired_bootstrap(steered.correct, clean.correct, groups, seed=seed)
        accuracy_effect = {"value": change.value, "ci": [change.ci.low, change.ci.high]}
        if self.kind == "ablation":
            rate = record["baseline_rate"]
            removed = -record["effect"] / rate if rate else None
            more = {"kind": "mean", "accuracy_effect": accuracy_effect, "removed_share": removed}
            return {"ablation": record | more}
        random_effects = self.random_effects[..., i]
        groups_at = self.select.groups[self.select_at[i]]
        return {
            "addition": record | {"dose": use.dose},
            "accuracy_effect": accuracy_effect,
            "specificity": self._specificity(clean, steered),
            "causal_sweep": self._causal_sweep(trial.effects, random_effects, groups_at),
            "dose_response": self._dose_response(trial.effects, random_effects, groups_at, use),
        }

    def proxies(self, arms: Iterable[Arm]) -> dict[str, Float[np.ndarray, "point behavior"]]:
        """The change of every behavior's probability at the report points, for every arm."""
        found: dict[str, np.ndarray] = {}
        arms = list(arms)
        for layer in range(self.model.n_layers):
            here = [arm for arm in arms if arm.candidate.layer == layer]
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
            e = rate_change(clean, steered, j, self.config.seed)
            found[other] = {"effect": e.value, "ci": [e.ci.low, e.ci.high]}
        return found

    def _point(self, values: np.ndarray, null: np.ndarray, groups: np.ndarray) -> dict:
        e = paired_bootstrap(values, np.zeros_like(values), groups, seed=self.config.seed)
        return {
            "effect": e.value,
            "ci": [e.ci.low, e.ci.high],
            "null_q05": float(np.quantile(null, 0.05)),
            "null_q95": float(np.quantile(null, 0.95)),
        }

    def _causal_sweep(
        self, effects: np.ndarray, null: np.ndarray, groups: np.ndarray
    ) -> list[dict]:
        rows = []
        for layer in range(effects.shape[1]):
            best = np.unravel_index(
                int(effects[:, layer].mean(-1).argmax()), effects[:, layer].shape[:2]
            )
            strongest = null[:, :, layer].max((1, 2))
            rows.append({"layer": layer, **self._point(effects[:, layer][best], strongest, groups)})
        return rows

    def _dose_response(self, effects, null, groups, candidate: Candidate) -> list[dict]:
        zero = {"dose": 0.0, "effect": 0.0, "ci": [0.0, 0.0], "null_q05": 0.0, "null_q95": 0.0}
        cell = (candidate.reading, candidate.layer)
        return [zero] + [
            {"dose": dose, **self._point(effects[cell][d], null[:, *cell, d], groups)}
            for d, dose in enumerate(DOSES)
        ]
