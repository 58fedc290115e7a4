"""The select split's choices: layers, the dose of differences of means, and the best combination."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from interp.hybrid.arms import (
    ALL,
    COEFFICIENTS,
    FULL,
    Recipe,
    Settings,
    gate,
    method,
    random_vectors,
)
from interp.hybrid.lab import Lab, candidate_layers
from interp.hybrid.measures import Scale, by_problem
from interp.hybrid.outcomes import Asked, Bench
from interp.hybrid.points import disagreements
from interp.hybrid.preparation import Traces
from interp.hybrid.vectors import METHODS
from interp.runs import read_json, write_json
from interp.setup import Setup
from probes import simplest_near_best

DOSES = (0.3, 0.6)
"""Lengths of differences of means that are tried, in mean norms of the residual stream."""

N_NULLS = 3
"""Sets of random vectors beside which a layer and a dose are judged."""

N_FINAL_NULLS = 3
"""Sets of random vectors, for each seed, beside which a finalist is judged."""


@dataclass(frozen=True)
class Choice:
    """What the select split chose, and every combination as it did there (`hybrid.json: factorial`)."""

    settings: Settings
    recipe: Recipe
    factorial: list[dict]


def choose(setup: Setup, lab: Lab, traces: Traces, taxonomy: dict) -> Choice:
    """Layers and dose by two fixed recipes, then every combination, then the best of these again.

    Layers and dose are those with the largest excess over random vectors of the same length, or over
    the base where that is better; the layer by a sweep, whose judge lends most to random vectors. All
    that with the first seed on the first problems; the finalists with every seed on all problems.
    """

    def work(folder: Path) -> None:
        disagreements(lab.points)  # a pair that never differs ends here
        selection = Selection(setup, lab, traces, folder)
        settings = selection.settings()
        rows = selection.factorial(settings)
        recipe = selection.final(settings, rows)
        write_json(
            folder / "chosen.json",
            {"settings": asdict(settings), "recipe": asdict(recipe), "factorial": rows},
        )

    chosen = read_json(setup.stage("select", work, taxonomy) / "chosen.json")
    return Choice(Settings(**chosen["settings"]), Recipe(**chosen["recipe"]), chosen["factorial"])


class Selection:
    """Runs arms on the select split; finished shards stay when the run is killed."""

    def __init__(self, setup: Setup, lab: Lab, traces: Traces, folder: Path) -> None:
        self.setup, self.lab, self.progress = setup, lab, setup.progress
        self.all = Bench.of(setup, "select", folder)
        self.first = Bench.of(setup, "select", folder, setup.config.n_screen)
        right = (
            np.array([float(t.correct) for t in traces[m, "select"]]) for m in ("base", "thinking")
        )
        base, thinking = right
        n, ids, seed = (
            len(self.first.problems),
            [p.id for p in self.all.problems],
            setup.config.seed,
        )
        self.scale = Scale(base, thinking, ids, seed)
        self.first_scale = Scale(base[:n], thinking[:n], ids[:n], seed)

    def _asked(self, bench: Bench, recipe: Recipe, settings: Settings, seed: int) -> Asked:
        name = f"{recipe} {settings} of {len(bench.problems)}"
        return bench.arm(name, seed, lambda: method(recipe, self.lab.fits(seed), settings))

    def _random(
        self, bench: Bench, recipe: Recipe, settings: Settings, seed: int, number: int
    ) -> Asked:
        return bench.arm(
            f"{recipe} {settings} of {len(bench.problems)} random {number}",
            seed,
            lambda: random_vectors(recipe, self.lab.fits(seed), settings, "select", number),
        )

    def _best(
        self, recipe: Recipe, options: Sequence[Settings], advance: Callable[[int], None]
    ) -> Settings:
        seed, asked = self.setup.config.seed, []
        for settings in options:
            asked.append(self._asked(self.first, recipe, settings, seed))
            asked += [self._random(self.first, recipe, settings, seed, k) for k in range(N_NULLS)]
        means = np.array([o["correct"].mean() for o in self.first.outcomes(asked, advance)])
        found, null = means.reshape(-1, 1 + N_NULLS)[:, 0], means.reshape(-1, 1 + N_NULLS)[:, 1:]
        scores = found - np.maximum(null.mean(1), self.first_scale.base.mean())
        return options[int(np.argmax(scores))]

    def settings(self) -> Settings:
        """The layers and the dose."""
        layers = candidate_layers(self.lab.pair.base.n_layers)
        n_options = len(layers) * (1 + len(DOSES))
        with self.progress.bar("layers", n_options * (1 + N_NULLS)) as advance:
            start = Settings(0, 0, 0.0, *gate(self.lab))
            found = self._best(
                Recipe("probe", METHODS[0], "fixed"),
                [replace(start, mean_layer=n, dose=dose) for n in layers for dose in DOSES],
                advance,
            )
            return self._best(
                Recipe("taxonomy", METHODS[2], "sweep"),
                [replace(found, layer=n) for n in layers],
                advance,
            )

    def factorial(self, settings: Settings) -> list[dict]:
        """Every combination on the first problems, with the first seed."""
        seed, rows = self.setup.config.seed, []
        asked = [self._asked(self.first, recipe, settings, seed) for recipe in ALL]
        with self.progress.bar("factorial", len(ALL)) as advance:
            outcomes = self.first.outcomes(asked, advance)
        for recipe, found in zip(ALL, outcomes, strict=True):
            rows.append(
                asdict(recipe)
                | {
                    "accuracy": float(found["correct"].mean()),
                    "gap_recovery": self.first_scale.share(found["correct"]),
                    "tokens_steered": float(found["steered"].sum() / found["n_tokens"].sum()),
                    "final_accuracy": None,
                    "final_random_gain": None,
                    "final_gap_recovery": None,
                }
            )
        return rows

    def final(self, settings: Settings, rows: list[dict]) -> Recipe:
        """The full hybrid with the simplest coefficients within one standard error of the best.

        The finalists are the most accurate full hybrid of each kind of coefficients, and the best is the
        farthest above random vectors of the same lengths, or above the base where that is better: a judge
        helps random vectors too, so accuracy alone would choose what the judge lends. The standard error
        is that of the best's accuracy over problems. A full
        hybrid steers wherever the models disagree; differences of means, which do so only where a segment
        may start, stand alone. Random sets differ more than problems do, so there are many sets on the
        first problems. The finalists' `rows` get their final numbers.
        """
        seeds, scores, errors = self.setup.config.seeds, [], []
        of_kind = [matching(rows, vectors=METHODS[1:], coefficients=[k]) for k in COEFFICIENTS]
        finalists = [most_accurate(some) for some in of_kind if some]
        cases = [(recipe_of(row), seed) for row in finalists for seed in seeds]
        n_nulls = N_FINAL_NULLS * len(seeds)
        with self.progress.bar("finalists", len(cases) * (1 + N_FINAL_NULLS)) as advance:
            runs = self.all.outcomes(
                [self._asked(self.all, recipe, settings, seed) for recipe, seed in cases], advance
            )
            null = self.first.outcomes(
                [
                    self._random(self.first, recipe, settings, seed, k)
                    for recipe, seed in cases
                    for k in range(N_FINAL_NULLS)
                ],
                advance,
            )
        for i, row in enumerate(finalists):
            accuracy = by_problem(runs[i * len(seeds) : (i + 1) * len(seeds)])
            nulls = by_problem(null[i * n_nulls : (i + 1) * n_nulls])
            lent = nulls.mean() - self.first_scale.base.mean()
            row["final_accuracy"] = float(accuracy.mean())
            row["final_random_gain"] = float(lent)
            row["final_gap_recovery"] = self.scale.share(accuracy)
            scores.append(accuracy.mean() - max(lent, 0.0))
            errors.append(accuracy.std(ddof=1) / len(accuracy) ** 0.5)
        return recipe_of(finalists[simplest_near_best(scores, errors)])


def recipe_of(row: dict) -> Recipe:
    """The combination that a row of the factorial is about."""
    return Recipe(row["controller"], row["vectors"], row["coefficients"])


def matching(
    factorial: list[dict],
    controllers: Sequence[str] = FULL,
    vectors: Sequence[str] = METHODS,
    coefficients: Sequence[str] | None = None,
) -> list[dict]:
    """The rows of some controllers, vectors and coefficients."""
    return [
        row
        for row in factorial
        if row["controller"] in controllers
        and row["vectors"] in vectors
        and (coefficients is None or row["coefficients"] in coefficients)
    ]


def most_accurate(rows: list[dict]) -> dict:
    """The row with the largest accuracy on the first problems; of equals the first."""
    return max(rows, key=lambda row: row["accuracy"])


def best_of(factorial: list[dict], **only: Sequence[str]) -> Recipe:
    """The most accurate of the combinations that match."""
    return recipe_of(most_accurate(matching(factorial, **only)))
