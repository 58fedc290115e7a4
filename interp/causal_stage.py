"""The causal stage of the main job: choose on the select split, confirm on the report split."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import ActivationStore
from interp.causal import (
    DOSES,
    EDITS_PER_BATCH,
    Arm,
    ArmResult,
    Candidate,
    beside_null,
    changes,
    choose,
    effect_record,
    over_choices,
    rate_change,
    run_arms,
    sizes,
    spread,
)
from interp.causal_scan import Asked, Scan, Scanned
from interp.causal_subject import Subject
from interp.config import Config, Material, asked_problems, layers_tried
from interp.curves import causal_sweep, dose_response, mean_effect
from interp.engine import HERE, Engine
from interp.models import Model
from interp.pairs import Pair
from interp.progress import Progress
from interp.readings import (
    READINGS,
    check_labels,
    fitted_vectors,
    random_vectors,
    residuals,
    shuffled_vectors,
)
from interp.runs import Run, write_json
from interp.tasks import load_task
from interp.traces import generate
from probes import paired_bootstrap


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
                test = CausalTest(
                    kind, model, name, config, material, fit[name], progress, run.engine
                )
                write_json(path, test.run())
            parts[kind] = json.loads(path.read_text())
        tested = parts["addition"]
        merged = {b: {**parts["ablation"][b], **tested[b]} for b in tested}
        write_json(folder / "causal.json", merged)

    inputs = [*pair.fingerprints, list(config.behaviors or ())]
    return json.loads((run.stage("causal", inputs, work) / "causal.json").read_text())


@dataclass(frozen=True)
class Trial:
    """One behavior on trial: the arms of its direction and of its nulls, each with its own use.

    `effects` [reading, layer, use, point] are the direction's on the select points.
    """

    effects: Float[np.ndarray, "reading layer use point"]
    real: Arm
    nulls: list[Arm]


class CausalTest(Subject):
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
        engine: Engine = HERE,
    ) -> None:
        super().__init__(model, name, config, material, store)
        self.progress = progress or Progress()
        self.kind = kind
        self.sign = 1 if kind == "addition" else -1
        self.means = self.centers if kind == "ablation" else None
        self.engine = engine
        self.layers = layers_tried(config, model.n_layers)
        self.uses = Scan(self.select, self.layers, self.units, self.means, self.select_at)
        self.draw_nulls(store)

    def scan(
        self, asked: Sequence[Asked], advance: Callable[[int], None] = lambda n: None
    ) -> list[Scanned]:
        """Select effects of every use of many directions, and amounts."""
        return self.uses.every(asked, self.engine, advance)

    def draw_nulls(self, store: ActivationStore) -> None:
        """Draw the random directions, from what is left of activations when labels are explained."""
        config = self.config
        self.noise = residuals(store, self.layers)
        self.random = random_vectors(
            self.noise, self.layers, READINGS, config.n_random, config.seed
        )
        self.random_effects = self.spreads = None
        if self.means is None:  # the same for every behavior, unlike ablations of a given size
            with self.progress.bar("addition: random directions", config.n_random) as advance:
                [(self.random_effects, _)] = self.scan([(self.random, None)], advance)
            self.spreads = spread(self.random_effects)

    def arm(
        self, label: str, vectors: Float[Tensor, "reading layer d_model"], behavior: int
    ) -> tuple[Arm, Float[np.ndarray, "reading layer use behavior point"]]:
        """The direction on trial with the use that suits `behavior` best, and its select effects."""
        found, _ = self.uses.effects(vectors[None])
        reading, layer, use = choose(
            over_choices(found[0], self.select_at), behavior, self.sign, self.spreads
        )
        if self.means is None:
            dose = DOSES[use]
        else:
            dose = float(self.sizes(vectors[None].to(self.means))[0, reading, layer])
        return self.named(label, vectors, (reading, layer), dose), found[0]

    def sizes(
        self, vectors: Float[Tensor, "direction reading layer d_model"]
    ) -> Float[Tensor, "direction reading layer"]:
        """Mean size, as a dose, of the change that ablating a direction makes at the select points."""
        assert self.means is not None
        return sizes(self.select, self.layers, vectors, self.units, self.means)

    def named(
        self,
        label: str,
        vectors: Float[Tensor, "reading layer d_model"],
        cell: tuple[int, int],
        dose: float,
        strength: float = 1.0,
    ) -> Arm:
        """The arm that uses a direction's vector of one cell (reading, place of the layer)."""
        candidate = Candidate(cell[0], self.layers[cell[1]], dose, strength)
        use = "/".join(map(str, (candidate.reading, candidate.layer, candidate.dose)))
        return Arm(f"{label}/{use}", vectors[cell], candidate)

    def null_arms(
        self,
        label: str,
        vectors: Float[Tensor, "direction reading layer d_model"],
        behavior: int,
        dose: float,
        effects: Float[np.ndarray, "direction reading layer use behavior"] | None = None,
        amounts: Float[Tensor, "direction reading layer use"] | None = None,
    ) -> list[Arm]:
        """Null directions at the dose of the one on trial, each with the use that suits it best.

        `effects` gives their select effects where these are known, `amounts` those of ablations as well.
        """
        if effects is None:
            [(effects, amounts)] = self.scan([(vectors, dose)])
        adds = self.means is None
        use = DOSES.index(dose) if adds else 0
        arms = []
        for n, v in enumerate(vectors):
            reading, layer, _ = choose(effects[n], behavior, self.sign, self.spreads, use)
            strength = 1.0 if adds or amounts is None else float(amounts[n, reading, layer, 0])
            arms.append(self.named(f"{label}-{n}", v, (reading, layer), dose, strength))
        return arms

    def run(self) -> dict:
        """Select, evaluate by decision points, and confirm by generation; one entry a behavior."""
        trials = self._choose()
        arms = {arm.name: arm for t in trials.values() for arm in (t.real, *t.nulls)}
        full, few = self._generate(trials, arms)
        proxies = self.proxies(arms.values())
        return {
            b: self._entry(i, trial, full, few, proxies)
            for i, (b, trial) in enumerate(trials.items())
        }

    def _choose(self) -> dict[str, Trial]:
        config, trials = self.config, {}
        seeds = [config.seed * 1000 + n for n in range(config.n_shuffled)]
        shuffled = [
            shuffled_vectors(self.noise, self.behaviors, self.layers, READINGS, seed)
            for seed in seeds
        ]
        real = {}
        for i, b in enumerate(self.behaviors):
            y = check_labels(self.store, b)
            vectors = fitted_vectors(self.store, y, self.layers, READINGS)
            real[b] = self.arm(f"real-{b}", vectors, i)
        nulls = [("random", b, self.random) for b in self.behaviors]
        if shuffled:
            nulls += [
                (f"shuffled-{b}", b, torch.stack([v[b] for v in shuffled])) for b in self.behaviors
            ]
        known = self.random_effects  # those of additions do not depend on the behavior
        asked = [
            (vectors, real[b][0].candidate.dose)
            for label, b, vectors in nulls
            if known is None or label != "random"
        ]
        total = sum(len(vectors) for vectors, _ in asked)
        with self.progress.bar(f"{self.kind}: selection", total) as advance:
            scans = iter(self.scan(asked, advance))
        arms: dict[str, list[Arm]] = {b: [] for b in self.behaviors}
        for label, b, vectors in nulls:
            scanned = next(scans) if known is None or label != "random" else (known, None)
            i, dose = self.behaviors.index(b), real[b][0].candidate.dose
            arms[b] += self.null_arms(label, vectors, i, dose, *scanned)
        for i, (b, (arm, found)) in enumerate(real.items()):
            trials[b] = Trial(found[..., i, self.select_at[i]], arm, arms[b])
        return trials

    def _generate(
        self, trials: dict[str, Trial], arms: dict[str, Arm]
    ) -> tuple[dict[str, ArmResult], dict[str, ArmResult]]:
        """The directions' results on all report problems, and every arm's on the first of them.

        The second are for the p-value: fewer problems and shorter traces, alike for all. The name
        "clean" stands for the unedited model.
        """
        config, task = self.config, load_task(self.config.task)
        problems = {p.id: p for p in asked_problems(task)}
        report = [problems[t.problem_id] for t in self.clean_traces]
        real = [trial.real for trial in trials.values()]
        total = len(real) + len(arms)
        with self.progress.bar(f"{self.kind}: generation", total) as advance:
            full, few = (
                run_arms(
                    self.model, on, wanted, config.annotator, self.after, self.units, self.means,
                    task.grade, config.seed, advance, max_new_tokens=most, engine=self.engine,
                )
                for wanted, on, most in (
                    (real, report, config.max_new_tokens),
                    (list(arms.values()), report[: config.n_null_problems], config.null_new_tokens),
                )
            )  # fmt: skip
        short = generate(
            self.model,
            report[: config.n_null_problems],
            task.grade,
            seed=config.seed,
            max_new_tokens=config.null_new_tokens,
        )
        for results, traces in ((full, self.clean_traces), (few, short)):
            results["clean"] = self.count(traces)
        return full, few

    def _entry(
        self,
        i: int,
        trial: Trial,
        full: dict[str, ArmResult],
        few: dict[str, ArmResult],
        proxies: dict[str, np.ndarray],
    ) -> dict:
        name = trial.real.name
        clean, steered = full["clean"], full[name]
        seed, sign, use = self.config.seed, self.sign, trial.real.candidate
        nulls = [few[arm.name] for arm in trial.nulls]
        read, contrast = READINGS[use.reading]
        points = proxies[name][self.report_at[i], i]
        null_proxies, seen = (
            over_choices(np.swapaxes(found, -1, -2), self.report_at)
            for found in (np.stack([proxies[arm.name] for arm in trial.nulls]), proxies[name])
        )
        record = effect_record(clean, steered, few["clean"], few[name], nulls, i, sign, seed) | {
            "layer": use.layer,
            "position": read,
            "contrast": contrast,
            "choice_after": sorted(self.after[self.behaviors[i]]),
            "proxy": {
                **mean_effect(points, self.report.groups[self.report_at[i]], seed),
                **beside_null(seen, null_proxies, i, sign),
            },
        }
        groups = [t.problem_id for t in self.clean_traces]
        change = paired_bootstrap(steered.correct, clean.correct, groups, seed=seed)
        accuracy_effect = change.as_json()
        if self.kind == "ablation":
            rate = record["baseline_rate"]
            removed = -record["effect"] / rate if rate else None
            more = {
                "kind": "mean",
                "dose": use.dose,
                "accuracy_effect": accuracy_effect,
                "removed_share": removed,
                "specificity": self._specificity(clean, steered),
            }
            return {"ablation": record | more}
        assert self.random_effects is not None
        random_effects = self.random_effects[..., i]
        groups_at = self.select.groups[self.select_at[i]]
        cell = use.reading, self.layers.index(use.layer)
        return {
            "addition": record | {"dose": use.dose},
            "accuracy_effect": accuracy_effect,
            "specificity": self._specificity(clean, steered),
            "causal_sweep": causal_sweep(
                self.layers, trial.effects, random_effects, groups_at, seed
            ),
            "dose_response": dose_response(trial.effects, random_effects, groups_at, cell, seed),
        }

    def proxies(self, arms: Iterable[Arm]) -> dict[str, Float[np.ndarray, "point behavior"]]:
        """The change of every behavior's probability at the report points, for every arm."""
        found: dict[str, np.ndarray] = {}
        arms = list(arms)
        for layer in self.layers:
            here = [arm for arm in arms if arm.candidate.layer == layer]
            for begin in range(0, len(here), EDITS_PER_BATCH):
                batch = here[begin : begin + EDITS_PER_BATCH]
                vectors = torch.stack([arm.vector for arm in batch]).to(self.model.device)
                amounts = [
                    a.dose * self.units[layer] if self.means is None else a.strength
                    for a in (arm.candidate for arm in batch)
                ]
                at = torch.tensor(amounts).to(vectors)
                rows = changes(self.report, layer, vectors, at, self.means).cpu().numpy()
                found |= zip((arm.name for arm in batch), rows, strict=True)
        return found

    def _specificity(self, clean, steered) -> dict:
        seed = self.config.seed
        return {b: rate_change(clean, steered, j, seed) for j, b in enumerate(self.behaviors)}
