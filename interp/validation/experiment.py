"""`whenlens validate`: every candidate of a file before every gate, and a card for each."""

import importlib.metadata
import itertools
import json
from pathlib import Path

import torch

from interp.config import Config, config_json, shortage
from interp.errors import UserError, unknown_name
from interp.models import Model
from interp.pairs import MODELS, Pair, load_pair
from interp.progress import Progress
from interp.runs import Run, read_json, write_json
from interp.types import BEHAVIORS, Trace
from interp.validation.bench import Bench
from interp.validation.candidates import CandidateDirection, read_candidates
from interp.validation.evidence import Evidence
from interp.validation.gates import Gate, Thresholds
from interp.validation.trial import Trial

SCHEMA = "whenlens.card/1"
N_EXAMPLES = 3
N_NULL_PROBLEMS = 40
"""Problems that nulls are tried on: fewer than in the main job, since several gates ask for them."""


def check_candidate(
    candidate: CandidateDirection, model: Model, behaviors: tuple[str, ...]
) -> None:
    """Raise `UserError` unless the direction belongs in this model and names a known behavior."""
    if candidate.behavior is None:
        raise UserError(
            f"{candidate.name!r} does not say which behavior it steers: give --behavior, one of "
            f"{', '.join(behaviors)}."
        )
    if candidate.behavior not in behaviors:
        raise unknown_name("behavior", candidate.behavior, behaviors)
    if candidate.hook != "resid_post":
        raise UserError(
            f"{candidate.name!r} belongs at {candidate.hook}, but gates are measured at resid_post: give "
            "a direction of resid_post."
        )
    says = candidate.provenance
    for layer, vector in candidate.vectors.items():
        model.check_layer(layer)
        model.check_direction(
            repr(candidate.name), says.get("model", "a model"), len(vector),
            fingerprint=says.get("model_fingerprint"), tokenizer_hash=says.get("tokenizer_hash"),
        )  # fmt: skip


def split_model(model: str, pair: str | None) -> tuple[str, str]:
    """Pair and which of its models `--model` names: `PAIR/base`, or `base` beside --pair."""
    head, _, which = model.rpartition("/")
    if which not in MODELS or not (head or pair):
        raise UserError(
            f"Model {model!r} is not one of a pair: give PAIR/base or PAIR/thinking, for example "
            "countdown-rl/base, or a folder that holds both."
        )
    if pair is not None and head and Path(head).name != Path(pair).name:
        raise UserError(f"Model {model!r} is not of pair {pair!r}: leave one of the two out.")
    return pair or head, which


def run_validation(
    path: Path,
    model: str,
    pair: str | None,
    out: Path,
    gates: Thresholds,
    command: str,
    progress: Progress | None = None,
    *,
    config: Config | None = None,
    only: str | None = None,
    layer: int | None = None,
    behavior: str | None = None,
    hook: str | None = None,
    dose: float | None = None,
) -> list[dict]:
    """Test every candidate of the file, write `NAME/card.json` and `NAME/card.html`, return the cards."""
    from interp.validation.card import write_card  # plotly and jinja2 only when needed

    progress = progress or Progress()
    candidates = read_candidates(path, layer=layer, behavior=behavior, hook=hook)
    if only is not None:
        names = [c.name for c in candidates]
        candidates = [c for c in candidates if only in (c.name, c.behavior)]
        if not candidates:
            raise unknown_name("direction", only, names)
    folder, which = split_model(model, pair)
    config = config or Config(pair=folder, n_null_problems=N_NULL_PROBLEMS)
    progress.say(shortage(config))
    loaded = load_pair(folder, config.thinking, template=config.template)
    own: Model = getattr(loaded, which)
    # Of a file for both models, those of the other one are not on trial.
    here = [c for c in candidates if c.provenance.get("model", own.name) == own.name] or candidates
    for candidate in here:
        check_candidate(candidate, own, config.behaviors or BEHAVIORS)
    run = Run(out, config_json(config))
    cards, folders = [], _folders([c.name for c in here])
    with torch.no_grad():
        bench = Bench.prepare(run, loaded, which, config, progress)
        for number, candidate in enumerate(here):

            def work(folder: Path, candidate=candidate) -> None:
                with progress.bar(candidate.name, len(gates)) as advance:
                    evidence = Evidence(bench, str(candidate.behavior), candidate.vectors, dose)
                    trial = Trial(evidence, gates, advance)
                    found = trial.run()
                    card = _card(candidate, loaded, config, gates, found, trial, command)
                    write_json(folder / "card.json", card | {"dose_given": dose is not None})

            inputs = [
                candidate.name, candidate.behavior, candidate.hook, candidate.provenance, dose,
                json.loads(json.dumps(gates)), {n: v.tolist() for n, v in candidate.vectors.items()},
                which, loaded.base.fingerprint, loaded.thinking.fingerprint, loaded.prompt,
            ]  # fmt: skip
            card = read_json(run.stage(f"card-{number}", inputs, work) / "card.json")
            target = out / "cards" / folders[number]
            target.mkdir(parents=True, exist_ok=True)
            write_json(target / "card.json", card)
            write_card(card, target / "card.html")
            cards.append(card)
    return cards


def _folders(names: list[str]) -> list[str]:
    """A folder for each candidate's name: none leaves the run's folder, and no two are the same."""
    found: list[str] = []
    for name in names:
        kept = "".join(c if c.isalnum() or c in "-_@" else "-" for c in name).strip("-")
        kept = kept or "direction"
        same = itertools.chain([kept], (f"{kept}-{n}" for n in itertools.count(1)))
        found.append(next(folder for folder in same if folder not in found))
    return found


def _card(
    candidate: CandidateDirection,
    pair: Pair,
    config: Config,
    gates: Thresholds,
    found: list[Gate],
    trial: Trial,
    command: str,
) -> dict:
    failed = [gate.name for gate in found if not gate.passed]
    own = trial.own.model
    clean, steered = trial.own.clean_traces, trial.traces
    held_out = candidate.provenance.get("fit_split") == trial.own.store.split_key
    return {
        "schema": SCHEMA,
        "version": importlib.metadata.version("whenlens"),
        "command": command,
        "direction": candidate.name,
        "behavior": candidate.behavior,
        "model": own.name,
        "model_fingerprint": own.fingerprint,
        "tokenizer_hash": own.tokenizer_hash,
        "pair": pair.name,
        "layers": sorted(candidate.vectors),
        "main_layer": trial.steering.main_layer,
        "hook": candidate.hook,
        "dose": trial.dose,
        "n_problems": len(trial.bench.problems),
        "n_null": config.n_random + config.n_shuffled,
        "passed": not failed,
        "failed": failed,
        "thresholds": {name: dict(values) for name, values in gates.items()},
        "gates": {gate.name: gate.as_json() for gate in found},
        "examples": [
            {"problem": a.prompt, "before": _shown(trial.bench, a), "after": _shown(trial.bench, b)}
            for a, b in [p for p in zip(clean, steered, strict=True) if p[0].text != p[1].text][
                :N_EXAMPLES
            ]
        ],
        "provenance": candidate.provenance,
        # Whoever fitted it elsewhere may have used the very problems that it is tested on.
        "held_out": held_out or None,
        "config": config_json(config),
    }


def _shown(bench: Bench, trace: Trace) -> dict:
    return {
        "correct": trace.correct,
        "segments": [{"text": s.text, "behavior": s.behavior} for s in bench.segments([trace])[0]],
    }
