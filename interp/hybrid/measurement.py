"""The report split: every arm with every seed, and what stands beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.behaviors import segment_all
from interp.hybrid.alone import equal_cost, power_sampled, prompted
from interp.hybrid.arms import (
    COEFFICIENTS,
    CONTROLLERS,
    Recipe,
    Settings,
    ceiling,
    controls,
    method,
    only,
    random_vectors,
)
from interp.hybrid.decode import Arm
from interp.hybrid.lab import Fits, Lab
from interp.hybrid.measures import Scale, arm_record, by_problem
from interp.hybrid.outcomes import Bench, Outcome
from interp.hybrid.preparation import Traces
from interp.hybrid.selection import best_of
from interp.hybrid.setup import Setup
from interp.hybrid.shown import examples, firing
from interp.hybrid.vectors import METHODS
from interp.runs import read_json, write_json

MARGINS = (0.0, 0.25, 0.5, 0.75, 0.95)
"""Margins, in probability, of the curve of recovery against the share of tokens steered."""


@dataclass(frozen=True)
class Measured:
    """Arms' records, their accuracy by problem, and what figures and tables show besides."""

    records: dict[str, dict]
    accuracy: dict[str, Float[np.ndarray, " problem"]]
    extras: dict


def methods(recipe: Recipe, factorial: list[dict]) -> dict[str, Recipe]:
    """The chosen recipe, those that differ from it in one factor, and two that stand alone.

    Those two are differences of means with nothing trained, and the entropy gate without a judge, which
    then needs no thinking model.
    """
    found = {"hybrid": recipe}
    for factor, values in (
        ("controller", CONTROLLERS),
        ("vectors", METHODS),
        ("coefficients", COEFFICIENTS),
    ):
        for value in values:
            # Random positions are among the controls, at this recipe's own rate.
            if value not in (getattr(recipe, factor), "random-positions"):
                found[f"{factor}: {value}"] = replace(recipe, **{factor: value})
    found["difference of means alone"] = best_of(
        factorial, vectors=METHODS[:1], coefficients=("fixed",)
    )
    found["teacher-free"] = best_of(factorial, ("entropy",), coefficients=("fixed", "network"))
    return found


class Measurement:
    """Runs the arms; every finished shard stays when the run is killed."""

    def __init__(
        self,
        setup: Setup,
        lab: Lab,
        taxonomy: dict,
        traces: Traces,
        settings: Settings,
        factorial: list[dict],
    ) -> None:
        self.taxonomy = taxonomy
        self.setup, self.lab, self.traces, self.settings = setup, lab, traces, settings
        self.recipe = best_of(factorial)
        self.methods = methods(self.recipe, factorial)
        problems = setup.splits["report"]
        base, thinking = (
            np.array([t.correct for t in traces[m, "report"]], float)
            .reshape(-1, len(problems))
            .mean(0)
            for m in ("base", "thinking")
        )
        self.scale = Scale(base, thinking, [p.id for p in problems], setup.config.seed)

    def measure(self) -> Measured:
        """All arms; done once."""

        def work(folder: Path) -> None:
            n_sets = -(-self.setup.config.n_random // len(self.setup.config.seeds))
            n_arms = len(self.methods) + n_sets + 7
            n = len(self.setup.config.seeds) * n_arms + 2 * len(MARGINS) + 3
            with self.setup.progress.bar("arms", n) as advance:
                found = self._work(self.setup.bench("report", folder), n_sets, advance)
            write_json(
                folder / "arms.json",
                {
                    "records": found.records,
                    "accuracy": {name: a.tolist() for name, a in found.accuracy.items()},
                    "extras": found.extras,
                },
            )

        found = read_json(self.setup.stage("arms", work) / "arms.json")
        accuracy = {name: np.array(values) for name, values in found["accuracy"].items()}
        return Measured(found["records"], accuracy, found["extras"])

    def _work(self, bench: Bench, n_sets: int, advance: Callable[[int], None]) -> Measured:
        recipe, settings, seeds = self.recipe, self.settings, self.setup.config.seeds
        records: dict[str, dict] = {}
        accuracy: dict[str, np.ndarray] = {}

        def outcomes(
            name: str, make: Callable[[Fits], Arm], keep_rows: bool = False
        ) -> list[Outcome]:
            found = []
            for seed in seeds:
                found.append(
                    bench.outcome(
                        name, seed, lambda seed=seed: make(self.lab.fits(seed)), keep_rows
                    )
                )
                advance(1)
            return found

        def keep(name: str, kind: str, of: Recipe | None, runs: list[list[Outcome]]) -> None:
            records[name] = arm_record(kind, of, runs, self.scale)
            accuracy[name] = by_problem([o for row in runs for o in row])

        rows = None
        for name, of in self.methods.items():
            made = outcomes(name, lambda fits, of=of: method(of, fits, settings), name == "hybrid")
            keep(name, "method", of, [[o] for o in made])
            rows = rows or made[0].rows
        sets = [
            outcomes(
                f"random-vectors {k}", lambda fits, k=k: random_vectors(recipe, fits, settings, k)
            )
            for k in range(n_sets)
        ]
        keep("random-vectors", "control", recipe, [list(runs) for runs in zip(*sets, strict=True)])
        rate = records["hybrid"]["tokens_steered"]
        for name in controls(recipe, self.lab.fits(seeds[0]), settings, rate):
            made = outcomes(
                name, lambda fits, name=name: controls(recipe, fits, settings, rate)[name]()
            )
            keep(name, "control", recipe, [[o] for o in made])
        made = outcomes("thinking-token", lambda fits: ceiling(recipe, fits, settings))
        keep("thinking-token", "ceiling", recipe, [[o] for o in made])
        prompt = prompted(bench, self.setup.config.prompt, seeds[0])
        keep("prompt", "baseline", None, [[prompt]])
        power = power_sampled(bench, seeds[0])
        keep("power-sampling", "baseline", None, [[power]])
        free = method(self.methods["teacher-free"], self.lab.fits(seeds[0]), settings)
        extras = {"equal_cost": equal_cost(bench, free, power, seeds[0], self.scale)}
        advance(3)
        extras |= {"budget": self._budget(bench, advance)} | self._shown(bench, rows or [])
        return Measured(records, accuracy, extras)

    def _budget(self, bench: Bench, advance: Callable[[int], None]) -> dict[str, list[dict]]:
        """Recovery of the hybrid and of its ceiling where only the clearer disagreements count."""
        fits, seed = self.lab.fits(self.setup.config.seed), self.setup.config.seed
        makers = {
            "hybrid": lambda: method(self.recipe, fits, self.settings),
            "thinking-token": lambda: ceiling(self.recipe, fits, self.settings),
        }
        curves: dict[str, list[dict]] = {}
        for name, make in makers.items():
            for margin in MARGINS:
                # Margin 0 is the arm itself, which has run.
                key = f"{name} margin {margin}" if margin else name
                found = bench.outcome(
                    key, seed, lambda make=make, margin=margin: only(make(), margin, fits)
                )
                curves.setdefault(name, []).append(
                    {
                        "margin": margin,
                        "tokens_steered": float(found["steered"].sum() / found["n_tokens"].sum()),
                        "gap_recovery": self.scale.recovery(found["correct"]),
                    }
                )
                advance(1)
        return curves

    def _labels(self) -> list[str | None]:
        """The behavior that each of the chosen controller's categories mostly stands for."""
        if CONTROLLERS[self.recipe.controller] == "taxonomy":
            return [category["behavior"] for category in self.taxonomy["categories"]]
        names = self.lab.fits(self.setup.config.seed).categories("behaviors").names
        return [None if name == "other" else name for name in names]

    def _shown(self, bench: Bench, rows: list) -> dict:
        problems, pair = bench.problems, self.setup.pair
        traces = bench.traces(problems, rows)
        segments = segment_all(pair.base, traces, self.setup.config.annotator)
        base, thinking = (self.traces[m, "report"][: len(problems)] for m in ("base", "thinking"))
        shown = examples(pair.base, problems, base, traces, rows, thinking, self._labels())
        return {"firing": firing(traces, segments, rows), "examples": shown}
