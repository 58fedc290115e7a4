"""`whenlens validate`: every candidate of a file before every gate, and a card for each."""

import importlib.metadata
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from interp.behaviors import asked_behaviors
from interp.config import Config, config_json, shortage
from interp.errors import UserError, unknown_name
from interp.loading import DeviceMap
from interp.models import Model
from interp.pairs import MODELS, Pair, load_pair, model_place
from interp.presets import config_for
from interp.progress import Progress
from interp.runs import Run, read_json, write_json
from interp.types import Trace
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


def check_shown(candidate: CandidateDirection, bench: Bench) -> None:
    """Raise `UserError` unless the behavior is shown often enough on the fit split to be tested."""
    tested = bench.own.behaviors
    if candidate.behavior not in tested:
        n = len({*bench.own.store.groups.tolist()})
        raise UserError(
            f"{candidate.name!r} steers {candidate.behavior}, which texts of too few of the {n} fit problems show "
            f"to be tested (enough show {', '.join(tested)}): give more problems with --n-fit, another --task or "
            "--annotator, or choose directions with --only."
        )


def config_of(pair: str, seed: int = 0, **given: Any) -> Config:
    """The configuration of a validation: that of the main job, nulls on `N_NULL_PROBLEMS` at most unless given."""
    config = config_for(pair, seed, **given)
    if given.get("n_null_problems") is not None:
        return config
    return replace(config, n_null_problems=min(config.n_null_problems, N_NULL_PROBLEMS))


def split_model(model: str, pair: str | None) -> tuple[str, str]:
    """Pair and which of its models `--model` names: `PAIR/base`, or `base` beside --pair.

    A model that stands alone is its own base. Raises `UserError` for a pair alone, and for what is no model.
    """
    head, _, which = model.rpartition("/")
    if which in MODELS and (head or pair):
        if pair is not None and head and Path(head).name != Path(pair).name:
            raise UserError(f"Model {model!r} is not of pair {pair!r}: leave one of the two out.")
        return pair or head, which
    if pair is not None:
        raise UserError(f"Model {model!r} is not one of pair {pair!r}: give base or thinking.")
    model_place(model)
    return model, "base"


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
    device_map: DeviceMap | None = None,
) -> list[dict]:
    """Test every candidate of the file, write `NAME/card.json` and `NAME/card.html`, return the cards.

    The configuration is, unless given, what `config_for` says of the model.
    """
    from interp.validation.card import write_card  # plotly and jinja2 only when needed

    progress = progress or Progress()
    candidates = read_candidates(path, layer=layer, behavior=behavior, hook=hook)
    if only is not None:
        names = [c.name for c in candidates]
        candidates = [c for c in candidates if only in (c.name, c.behavior)]
        if not candidates:
            raise unknown_name("direction", only, names)
    folder, which = split_model(model, pair)
    config = config or config_of(folder)
    behaviors = asked_behaviors(config)
    told = config_json(config)  # a task that does not exist is refused before models are loaded
    progress.say(shortage(config))
    loaded = load_pair(
        folder,
        config.thinking,
        template=config.template,
        temperature=config.temperature,
        device_map=device_map,
    )
    if loaded.alone and which != "base":
        raise UserError(f"{loaded.name} stands alone and has no {which} model: give {folder}.")
    own: Model = getattr(loaded, which)
    # Of a file for both models, those of the other one are not on trial.
    here = [c for c in candidates if c.provenance.get("model", own.name) == own.name] or candidates
    for candidate in here:
        check_candidate(candidate, own, behaviors)
    run = Run(out, told)
    cards, folders = [], _folders([c.name for c in here])
    with torch.no_grad():
        bench = Bench.prepare(run, loaded, which, config, progress)
        for candidate in here:
            check_shown(candidate, bench)
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
                which, *loaded.fingerprints, loaded.prompt,
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
        "models": pair.described(),
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
