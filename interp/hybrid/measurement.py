"""The report split: every arm with every seed, and what stands beside it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.behaviors import segment_all
from interp.hybrid.alone import equal_cost, power_sampled, prompted
from interp.hybrid.arms import (
    COEFFICIENTS,
    CONTROLLERS,
    Planned,
    Recipe,
    ceiling,
    method,
    only,
    plan_controls,
    plan_method,
)
from interp.hybrid.lab import Lab
from interp.hybrid.measures import Scale, arm_record, by_problem
from interp.hybrid.outcomes import Asked, Bench, Outcome
from interp.hybrid.preparation import Traces
from interp.hybrid.selection import Choice, best_of
from interp.hybrid.shown import examples, firing
from interp.hybrid.vectors import METHODS
from interp.runs import read_json, write_json
from interp.setup import Setup

MARGINS = (0.0, 0.25, 0.5, 0.75, 0.95)
"""Margins, in probability, of the curve of recovery against the share of tokens steered."""


@dataclass(frozen=True)
class Measured:
    """Arms' records, their accuracy by problem, and what figures and tables show besides."""

    records: dict[str, dict]
    accuracy: dict[str, Float[np.ndarray, " problem"]]
    extras: dict


def methods(choice: Choice) -> dict[str, Recipe]:
    """The chosen recipe, those that differ from it in one factor, and two that stand alone.

    Those two are differences of means with nothing trained, and the entropy gate without a judge, which
    then needs no thinking model.
    """
    recipe, factorial = choice.recipe, choice.factorial
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
    found["teacher-free"] = best_of(
        factorial, controllers=("entropy",), coefficients=("fixed", "network")
    )
    return found


class Measurement:
    """Runs the arms; every finished shard stays when the run is killed."""

    def __init__(
        self, setup: Setup, lab: Lab, taxonomy: dict, traces: Traces, choice: Choice
    ) -> None:
        self.taxonomy = taxonomy
        self.setup, self.lab, self.traces = setup, lab, traces
        self.recipe, self.settings = choice.recipe, choice.settings
        self.methods = methods(choice)
        asked = setup.config.prompt
        self.prompt = setup.pair.prompt if asked is None else asked
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
            found = self._work(Bench.of(self.setup, "report", folder))
            write_json(
                folder / "arms.json",
                {
                    "records": found.records,
                    "accuracy": {name: a.tolist() for name, a in found.accuracy.items()},
                    "extras": found.extras,
                },
            )

        chosen = [asdict(self.settings), {name: asdict(of) for name, of in self.methods.items()}]
        folder = self.setup.stage("arms", work, *chosen, self.taxonomy)
        found = read_json(folder / "arms.json")
        accuracy = {name: np.array(values) for name, values in found["accuracy"].items()}
        return Measured(found["records"], accuracy, found["extras"])

    def _work(self, bench: Bench) -> Measured:
        seeds, seed = self.setup.config.seeds, self.setup.config.seed
        n_sets = -(-self.setup.config.n_random // len(seeds))
        records: dict[str, dict] = {}
        accuracy: dict[str, np.ndarray] = {}

        def keep(name: str, kind: str, of: Recipe | None, runs: list[list[Outcome]]) -> None:
            records[name] = arm_record(kind, of, runs, self.scale)
            accuracy[name] = by_problem([o for sets in runs for o in sets])

        def asked(name: str, arm: Planned) -> list[Asked]:
            return [
                bench.arm(
                    f"{name} {k}" if k else name,
                    s,
                    lambda s=s, make=make: make(self.lab.fits(s)),
                    name == "hybrid",
                )
                for s in seeds
                for k, make in enumerate(arm.makes)
            ]

        def run(arms: dict[str, Planned]) -> dict[str, list[list[Outcome]]]:
            every = [one for name, arm in arms.items() for one in asked(name, arm)]
            outcomes, runs = iter(bench.outcomes(every, advance)), {}
            for name, arm in arms.items():
                runs[name] = [list(islice(outcomes, len(arm.makes))) for _ in seeds]
                keep(name, arm.kind, arm.recipe, runs[name])
            return runs

        n_arms = len(self.methods) + n_sets + 8
        total = len(seeds) * n_arms + 2 * len(MARGINS) + 3
        with self.setup.progress.bar("arms", total) as advance:
            hybrid = run({"hybrid": plan_method(self.recipe, self.settings)})["hybrid"]
            steered, eligible = (
                sum(o[field].sum() for sets in hybrid for o in sets)
                for field in ("steered", "eligible")
            )
            rate = float(steered / eligible)
            others = {n: of for n, of in self.methods.items() if n != "hybrid"}
            run(
                {name: plan_method(of, self.settings) for name, of in others.items()}
                | plan_controls(self.recipe, self.settings, rate, n_sets)
            )
            writer = bench.writer
            prompt, power = bench.outcomes(
                [
                    Asked("prompt", seed, lambda: partial(prompted, writer, self.prompt, seed)),
                    Asked("power-sampling", seed, lambda: partial(power_sampled, writer, seed)),
                ],
                advance,
            )
            keep("prompt", "baseline", None, [[prompt]])
            keep("power-sampling", "baseline", None, [[power]])
            free = method(self.methods["teacher-free"], self.lab.fits(seed), self.settings)
            extras = {"equal_cost": equal_cost(bench, free, power, seed, self.scale)}
            advance(1)
            extras |= {"budget": self._budget(bench, advance)}
            return Measured(records, accuracy, extras | self._shown(bench, hybrid[0][0].rows or []))

    def _budget(self, bench: Bench, advance: Callable[[int], None]) -> dict[str, list[dict]]:
        """Recovery of the hybrid and of its ceiling where only the clearer disagreements count."""
        fits, seed = self.lab.fits(self.setup.config.seed), self.setup.config.seed
        makers = {
            "hybrid": lambda: method(self.recipe, fits, self.settings),
            "thinking-token": lambda: ceiling(self.recipe, fits, self.settings),
        }
        # Margin 0 is the arm itself, which has run.
        asked = [
            bench.arm(
                f"{name} margin {margin}" if margin else name,
                seed,
                lambda make=make, margin=margin: only(make(), margin, fits),
            )
            for name, make in makers.items()
            for margin in MARGINS
        ]
        outcomes = iter(bench.outcomes(asked, advance))
        return {
            name: [
                {
                    "margin": margin,
                    "tokens_steered": float(found["steered"].sum() / found["n_tokens"].sum()),
                    "gap_recovery": self.scale.recovery(found["correct"]),
                }
                for margin, found in zip(MARGINS, outcomes, strict=False)
            ]
            for name in makers
        }

    def _labels(self) -> list[str | None]:
        """The behavior that each of the chosen controller's categories mostly stands for."""
        if CONTROLLERS[self.recipe.controller] == "taxonomy":
            return [category["behavior"] for category in self.taxonomy["categories"]]
        names = self.lab.fits(self.setup.config.seed).categories("behaviors").names
        return [None if name == "other" else name for name in names]

    def _shown(self, bench: Bench, rows: list) -> dict:
        problems, pair = bench.problems, self.setup.pair
        traces = bench.writer.traces(problems, rows)
        segments = segment_all(pair.base, traces, self.setup.config.annotator)
        base, thinking = (self.traces[m, "report"][: len(problems)] for m in ("base", "thinking"))
        shown = examples(pair, problems, base, traces, rows, thinking, self._labels())
        return {"firing": firing(traces, segments, rows), "examples": shown}
