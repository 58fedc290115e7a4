"""The select split's choices: layers, the dose of differences of means, and the best combination."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from interp.hybrid.arms import ALL, FULL, Recipe, Settings, gate, method, random_vectors
from interp.hybrid.lab import Lab, candidate_layers
from interp.hybrid.measures import Scale
from interp.hybrid.outcomes import Outcome
from interp.hybrid.points import disagreements
from interp.hybrid.preparation import Traces
from interp.hybrid.setup import Setup
from interp.hybrid.vectors import METHODS
from interp.runs import read_json, write_json

DOSES = (0.3, 0.6)
"""Lengths of differences of means that are tried, in mean norms of the residual stream."""

N_NULLS = 3
"""Sets of random vectors beside which a layer and a dose are judged."""


def choose(setup: Setup, lab: Lab, traces: Traces) -> tuple[Settings, list[dict]]:
    """Layers and dose by two fixed recipes, then every combination, all with the first seed.

    Layers and dose are those with the largest excess over random vectors of the same length, or over
    the base where that is better; the layer by a sweep, whose judge lends most to random vectors.
    Returns the settings and the factorial's rows.
    """
    seed, layers = setup.config.seed, candidate_layers(lab.pair.base.n_layers)

    def work(folder: Path) -> None:
        disagreements(lab.points)  # a pair that never differs ends here
        bench, fits = setup.bench("select", folder), lab.fits(seed)

        base, thinking = (
            np.array([float(t.correct) for t in traces[m, "select"]]) for m in ("base", "thinking")
        )
        scale = Scale(base, thinking, [p.id for p in bench.problems], seed)

        def tried(recipe: Recipe, settings: Settings) -> Outcome:
            return bench.outcome(
                f"{recipe} {settings}", seed, lambda: method(recipe, fits, settings)
            )

        def best(recipe: Recipe, options: list[Settings]) -> Settings:
            scores = []
            for settings in options:
                null = [
                    bench.outcome(
                        f"{recipe} {settings} random {k}",
                        seed,
                        lambda k=k, s=settings: random_vectors(recipe, fits, s, k),
                    )
                    for k in range(N_NULLS)
                ]
                chance = np.mean([o["correct"].mean() for o in null])
                excess = tried(recipe, settings)["correct"].mean() - max(chance, base.mean())
                scores.append(excess)
                advance(1)
            return options[int(np.argmax(scores))]

        with setup.progress.bar("layers", len(layers) * (1 + len(DOSES))) as advance:
            start = Settings(0, 0, 0.0, *gate(lab))
            settings = best(
                Recipe("probe", METHODS[0], "fixed"),
                [replace(start, mean_layer=n, dose=dose) for n in layers for dose in DOSES],
            )
            settings = best(
                Recipe("taxonomy", METHODS[2], "sweep"),
                [replace(settings, layer=n) for n in layers],
            )
        rows = []
        with setup.progress.bar("factorial", len(ALL)) as advance:
            for recipe in ALL:
                found = tried(recipe, settings)
                rows.append(
                    asdict(recipe)
                    | {
                        "accuracy": float(found["correct"].mean()),
                        "gap_recovery": scale.share(found["correct"]),
                        "tokens_steered": float(found["steered"].sum() / found["n_tokens"].sum()),
                    }
                )
                advance(1)
        write_json(folder / "chosen.json", {"settings": asdict(settings), "factorial": rows})

    chosen = read_json(setup.stage("select", work) / "chosen.json")
    return Settings(**chosen["settings"]), chosen["factorial"]


def best_of(
    factorial: list[dict],
    controllers: tuple[str, ...] = FULL,
    vectors: tuple[str, ...] = METHODS,
    coefficients: tuple[str, ...] | None = None,
) -> Recipe:
    """The most accurate combination on the select split; of equals the first."""
    rows = [
        row
        for row in factorial
        if row["controller"] in controllers
        and row["vectors"] in vectors
        and (coefficients is None or row["coefficients"] in coefficients)
    ]
    best = max(rows, key=lambda row: row["accuracy"])
    return Recipe(best["controller"], best["vectors"], best["coefficients"])
