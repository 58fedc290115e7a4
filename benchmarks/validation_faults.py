"""Do the gates tell good directions from bad ones? True directions, planted faults, and random ones.

    whenlens run --pair countdown-rl --out runs/demo
    whenlens run --pair countdown-distilled --out runs/distilled
    python benchmarks/validation_faults.py runs/demo runs/distilled --out runs/faults

Each fault is a direction that is wrong in one way, and should fail a gate that is there for it. Random
directions have the layer of the true one, and the covariance of what labels leave unexplained of the
activations, drawn with another seed than the nulls. They go through the gates until one fails.
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

from interp.config import Config
from interp.directions import DirectionSet
from interp.pairs import load_pair
from interp.progress import Progress
from interp.readings import random_vectors, shuffled_vectors
from interp.runs import Run
from interp.validation.bench import READING, Bench
from interp.validation.evidence import Evidence
from interp.validation.experiment import N_NULL_PROBLEMS
from interp.validation.gates import read_gates
from interp.validation.trial import Trial

PAIR, FOREIGN = "countdown-rl", "countdown-distilled"
TRUE = ("subgoal-setting", "verification")
CHEAP_FIRST = (
    "transfer", "redundancy", "specificity", "prompt", "side_effects", "sufficiency", "dose_response",
    "necessity", "fired", "stability",
)  # fmt: skip
N_ALWAYS = 2
"""So many gates are tried on every random direction, the others only until one fails."""


Fault = tuple[str, dict[int, torch.Tensor], float | None, set[str]]
"""Behavior claimed, vectors, dose (None: chosen), and the gates of which at least one should fail."""


def faults(
    bench: Bench, own: DirectionSet, foreign: DirectionSet, behavior: str
) -> dict[str, Fault]:
    """What is wrong, and with what."""
    true = own[behavior, f"{PAIR}/base"]
    layer, vector, layers = true.layer, true.vector, range(bench.own.model.n_layers)
    noise = torch.randn(len(vector), generator=torch.Generator().manual_seed(1))
    shuffled = shuffled_vectors(bench.own.store, [behavior], layers, READING, 12345)[behavior]
    other = TRUE[TRUE.index(behavior) - 1]
    away = foreign[behavior, f"{FOREIGN}/base"]
    found = {
        "true": (behavior, {layer: vector}, None, set()),
        "random": (behavior, {layer: noise}, None, {"sufficiency"}),
        "shuffled labels": (behavior, {layer: shuffled[0, layer]}, None, {"sufficiency"}),
        "negated": (behavior, {layer: -vector}, None, {"sufficiency"}),
        "collapse dose": (behavior, {layer: vector}, 2.0, {"dose_response", "side_effects"}),
        "wrong layer": (behavior, {0: vector}, None, {"sufficiency", "stability"}),
        f"that of {other}": (behavior, {layer: own[other, f"{PAIR}/base"].vector}, None,
                             {"sufficiency", "specificity"}),
        f"from {FOREIGN}": (behavior, {away.layer: away.vector}, None,
                            {"sufficiency", "stability", "transfer"}),
    }  # fmt: skip
    return found


def random_passes(bench: Bench, own: DirectionSet, behavior: str, n: int) -> Counter[str]:
    """How many of `n` random directions pass each cheap gate, and all gates (with and without stability)."""
    true = own[behavior, f"{PAIR}/base"]
    seed = bench.own.config.seed + 77
    layers = range(bench.own.model.n_layers)
    drawn = random_vectors(bench.noise, layers, READING, n, seed)[:, 0, true.layer]
    gates, passes = read_gates(), Counter()
    with Progress().bar(f"random directions ({behavior})", n) as advance:
        for vector in drawn:
            trial = Trial(Evidence(bench, behavior, {true.layer: vector}, None), gates)
            held = True
            for number, name in enumerate(CHEAP_FIRST):
                if number >= N_ALWAYS and not held:
                    break
                passed = bool(getattr(trial, name)(**gates[name]).passed)
                passes[name] += passed
                if name == "stability":
                    passes["all but stability"] += held
                held = held and passed
            passes["all"] += held
            advance(1)
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help=f"finished run of {PAIR}")
    parser.add_argument("foreign", type=Path, help=f"finished run of {FOREIGN}")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--n-random", type=int, default=100, help="random directions a behavior")
    parser.add_argument("--no-faults", action="store_true", help="random directions alone")
    parser.add_argument("--only", choices=TRUE, help="one of the behaviors")
    given = parser.parse_args()
    behaviors = TRUE if given.only is None else (given.only,)
    own, foreign = (
        DirectionSet.load(f / "directions.safetensors") for f in (given.run, given.foreign)
    )
    config = Config(pair=PAIR, n_null_problems=N_NULL_PROBLEMS)
    run = Run(given.out, json.loads(json.dumps(asdict(config))))
    gates, wrong = read_gates(), 0
    with torch.no_grad():
        bench = Bench.prepare(run, load_pair(PAIR), "base", config, Progress())
        for behavior in () if given.no_faults else behaviors:
            for name, (claimed, vectors, dose, should) in faults(
                bench, own, foreign, behavior
            ).items():
                trial = Trial(Evidence(bench, claimed, vectors, dose), gates)
                found = trial.run()
                failed = [gate.name for gate in found if not gate.passed]
                right = bool(should & set(failed)) if should else not failed
                wrong += not right
                print(f"{behavior} | {name} | dose {trial.dose:g} | fails {', '.join(failed) or 'none'}"
                      f" | {'as it should' if right else 'NOT as it should'}", flush=True)  # fmt: skip
                for gate in found:
                    print(
                        f"    {gate.name}: {'holds' if gate.passed else 'fails'}: {gate.reason}",
                        flush=True,
                    )
        for behavior in behaviors:
            if given.n_random:
                print(
                    behavior,
                    "random:",
                    dict(random_passes(bench, own, behavior, given.n_random)),
                    flush=True,
                )
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
