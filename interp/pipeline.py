"""The main job: traces, activations, probes, causal tests, results, figures and report."""

import importlib.metadata
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from interp import causal_stage
from interp.activations import ActivationStore, Lazy, collect
from interp.behaviors import asked_behaviors, labels_of, segment_all
from interp.causal import MIN_PROBLEMS
from interp.config import (
    ENOUGH,
    Config,
    Material,
    config_json,
    layers_tried,
    shortage,
    split_problems,
)
from interp.directions import Direction, DirectionSet
from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.loading import DeviceMap
from interp.pairs import Pair, load_pair
from interp.pooling import READS, hook_name
from interp.progress import Progress
from interp.readings import check_labels, vector_and_unit
from interp.runs import Run, write_json
from interp.tasks import load_task
from interp.texts import moved, told_to
from interp.traces import Job, accuracy, generate_all, read_traces
from interp.types import Segment, Trace
from interp.verdicts import verdict
from probes import (
    LogisticProbe,
    MeanDifference,
    WhitenedMeanDifference,
    auroc_bootstrap,
    bootstrap_over_groups,
    cosine_with_ci,
    expected_calibration_error,
    holm,
    ratio_bootstrap,
    sweep,
)

SCHEMA = "whenlens.results/1"
ESTIMATORS = {
    "difference-of-means": MeanDifference,
    "whitened": WhitenedMeanDifference,
    "logistic": LogisticProbe,
}
"""The probes compared in the chosen cell."""


def make_traces(run: Run, pair: Pair, config: Config, progress: Progress) -> Material:
    """Sample every split from both models, and decode the report split greedily as well."""
    splits, grade = split_problems(config), load_task(config.task).grade
    wanted = [(m, s, True) for m in pair.names for s in splits]
    wanted += [(m, "report", False) for m in pair.names]
    jobs = {
        (m, s if sampled else "greedy"): Job(
            f"{m}-{s}-{'sampled' if sampled else 'greedy'}.jsonl",
            getattr(pair, m), splits[s], grade, sampled, config.seed,
        )
        for m, s, sampled in wanted
    }  # fmt: skip

    def work(folder: Path) -> None:
        generate_all(folder, list(jobs.values()), progress, config.max_new_tokens, run.engine)

    folder = run.stage("traces", pair.fingerprints, work)
    traces, segments = {}, {}
    for (model, split), job in jobs.items():
        found = read_traces(folder / job.file)
        labeled = segment_all(job.model, found, config.annotator)
        for name in (model, "thinking") if pair.alone else (model,):
            traces[name, split], segments[name, split] = found, labeled
    return Material(traces, segments, pair.alone)


def read_activations(
    run: Run, pair: Pair, material: Material, split: str, progress: Progress
) -> dict[str, ActivationStore]:
    """Both models' activations over the pooled traces of both models in one split.

    A model reads another's trace after its own prompt, up to the first token that one of them does not know.
    """
    pooled = material.pooled(split)
    models = {name: getattr(pair, name) for name in pair.names}

    texts: dict[str, tuple[list[Trace], list[list[Segment]]]] = {}
    for name, model in models.items():
        told = told_to(model, pair, pooled[0])
        texts[name] = told, moved(pooled[1], pooled[0], told)

    def work(folder: Path) -> None:
        with progress.bar(f"activations ({split})", len(models) * len(pooled[0])) as advance:
            for name, model in models.items():
                told, parts = texts[name]
                collect(
                    model, told, parts, folder / model.fingerprint,
                    advance=advance, engine=run.engine,
                )  # fmt: skip

    folder = run.stage(f"activations-{split}", pair.fingerprints, work)
    # Costs nothing but where a damaged shard was taken away.
    found = {
        name: collect(model, texts[name][0], texts[name][1], folder / model.fingerprint)
        for name, model in models.items()
    }
    return {"thinking": found["base"]} | found


def measure_probes(
    run: Run, pair: Pair, config: Config, fit: dict[str, ActivationStore], progress: Progress
) -> dict:
    """Cross-validated sweep over layers and read positions, and the two models' cosine."""
    layers, behaviors = layers_tried(config, pair.base.n_layers), config.behaviors or ()
    store = fit["base"]
    cells: Lazy[tuple[str, int], np.ndarray] = Lazy(
        list(product(READS, layers)),
        lambda cell: store[hook_name("resid_post", cell[1]), cell[0]],
    )

    def work(folder: Path) -> None:
        found = {}
        with progress.bar("probes", len(behaviors)) as advance:
            for behavior in behaviors:
                y = check_labels(store, behavior)
                result = sweep(cells, y, store.groups, MeanDifference(), seed=config.seed)
                found[behavior] = {
                    "layer_sweep": [
                        {
                            "read": c.read,
                            "layer": c.layer,
                            "auroc": c.auroc,
                            "auroc_ci": [c.auroc_ci.low, c.auroc_ci.high],
                            "selectivity": c.selectivity,
                            "ece": c.ece,
                        }
                        for c in result.cells
                    ],
                    "cosine": []
                    if pair.alone
                    else [_cosine(fit, y, layer, config.seed) for layer in layers],
                }
                advance(1)
        write_json(folder / "probes.json", found)

    folder = run.stage("probes", [*pair.fingerprints, list(behaviors)], work)
    return json.loads((folder / "probes.json").read_text())


def _cosine(fit: dict[str, ActivationStore], y: np.ndarray, layer: int, seed: int) -> dict:
    key = (hook_name("resid_post", layer), "before")
    try:
        found = cosine_with_ci(
            fit["base"][key], fit["thinking"][key], y, fit["base"].groups, seed=seed
        )
    except ValueError:  # a direction that does not stand out from its own noise has no cosine
        return {"layer": layer, "value": None, "ci": None}
    return {"layer": layer, "value": found.corrected, "ci": [found.ci.low, found.ci.high]}


def report_probes(
    fit: ActivationStore, report: ActivationStore, behavior: str, read: str, layer: int, seed: int
) -> dict:
    """Fit each kind of probe in one cell on the fit split and measure it on the report split.

    All three tell the behavior from the rest. Without problems enough of either class in the report
    split, AUROC and its interval are None.
    """
    key = (hook_name("resid_post", layer), read)
    y = report.labels == behavior
    enough = min(len(np.unique(report.groups[y == side])) for side in (True, False)) >= MIN_PROBLEMS
    found = {}
    for name, estimator in ESTIMATORS.items():
        probe = estimator().fit(fit[key], fit.labels == behavior)
        scores, chances = probe.decision_function(report[key]), probe.predict_proba(report[key])
        estimate = auroc_bootstrap(scores, y, report.groups, seed=seed) if enough else None
        found[name] = {
            "auroc": estimate and estimate.value,
            "auroc_ci": estimate and [estimate.ci.low, estimate.ci.high],
            "ece": expected_calibration_error(chances[:, 1], y),
        }
    return found["difference-of-means"] | {"estimators": found}


def _estimate(values: np.ndarray, groups: list[str], seed: int) -> dict:
    found = bootstrap_over_groups(values, groups, seed=seed)
    return found.as_json() | {"n": len(values)}


def _frequency(material: Material, model: str, behavior: str, seed: int) -> dict:
    rows = material.segments[model, "report"]
    hits = np.array([sum(s.behavior == behavior for s in row) for row in rows], float)
    found = ratio_bootstrap(hits, np.array([len(row) for row in rows], float), seed=seed)
    return found.as_json()


def run_main_job(
    config: Config,
    out: Path,
    command: str,
    progress: Progress | None = None,
    engine: Engine = HERE,
    device_map: DeviceMap | None = None,
) -> dict:
    """Run or resume the whole job in `out`, write results.json and the rest, return the results."""
    from interp.report_files import write_report  # plotly and jinja2 only when needed

    progress = progress or Progress()
    asked_behaviors(config)
    told = config_json(config)  # a task that does not exist is refused before models are loaded
    progress.say(shortage(config))
    pair = load_pair(
        config.pair,
        config.thinking,
        template=config.template,
        temperature=config.temperature,
        device_map=device_map,
    )
    for layer in config.layers or ():
        pair.base.check_layer(layer)
    run = Run(out, told, engine)
    with torch.no_grad():
        material = make_traces(run, pair, config, progress)
        fit = read_activations(run, pair, material, "fit", progress)
        report = read_activations(run, pair, material, "report", progress)
        config, skipped = measurable(config, pair, fit)
        probes = measure_probes(run, pair, config, fit, progress)
        causal = causal_stage.run_stage(run, pair, config, material, fit, progress)
    with progress.bar("results", len(causal)) as advance:
        results = _assemble(
            config, pair, run, material, fit, report, probes, causal, command, advance
        )
    results |= {"config": run.config, "not_tested": skipped}
    write_json(out / "results.json", results)
    found = directions(config, pair, fit, causal)
    found.save(out / "directions.safetensors")
    write_report(out, results, material, pair, found, progress)
    return results


def measurable(
    config: Config, pair: Pair, fit: dict[str, ActivationStore]
) -> tuple[Config, dict[str, str]]:
    """The configuration with the behaviors that can be tested, and why others cannot.

    Behaviors that were asked for by name are tested, or raise; without names, those that are too rare in the
    fit split are left out.
    """
    if config.behaviors is not None:
        return config, {}
    seen = [
        b for b in labels_of(config.annotator) if any((s.labels == b).any() for s in fit.values())
    ]
    kept, skipped = [], {}
    for behavior in seen:
        try:
            for name in pair.names:
                check_labels(fit[name], behavior)
            kept.append(behavior)
        except UserError as error:
            skipped[behavior] = str(error).split(":")[0] + "."
    if not kept:
        n = len(split_problems(config)["fit"])
        enough = n >= ENOUGH * config.n_fit
        more = "sample more with --n-fit" if enough else "take a task with more problems"
        raise UserError(
            f"No behavior that annotator {config.annotator!r} tells apart is frequent enough to be tested in {n} "
            f"problems: {more}, or choose another --annotator (grammar for what built-in pairs write, keywords "
            "for English, form for questions)."
        )
    return replace(config, behaviors=tuple(kept)), skipped


def directions(
    config: Config, pair: Pair, fit: dict[str, ActivationStore], causal: dict
) -> DirectionSet:
    """The chosen direction of every behavior: the base's for adding, the thinking model's to ablate."""
    found = []
    for behavior in causal:
        for name, model, use in (
            ("base", pair.base, causal[behavior]["addition"]),
            ("thinking", pair.thinking, causal[behavior]["ablation"]),
        )[: len(pair.names)]:
            vector, unit = vector_and_unit(fit[name], behavior, use)
            found.append(
                Direction(
                    vector=vector,
                    behavior=behavior,
                    layer=use["layer"],
                    read=use["position"],
                    contrast=use["contrast"],
                    unit=unit,
                    model=model.name,
                    model_fingerprint=model.fingerprint,
                    tokenizer_hash=model.tokenizer_hash,
                    hook=hook_name("resid_post", use["layer"]),
                    fit_split=fit[name].split_key,
                )
            )
    return DirectionSet.of(found)


def _assemble(config, pair, run, material, fit, report, probes, causal, command, advance) -> dict:
    seed, names = config.seed, pair.names
    groups = [t.problem_id for t in material.traces["base", "report"]]
    entries = {}
    adjusted = {
        kind: holm(np.array([causal[b][kind]["p_value"] for b in causal]))
        for kind in ("addition", "ablation")
    }
    for i, (behavior, found) in enumerate(causal.items()):
        add = found["addition"]
        cell = next(
            c
            for c in probes[behavior]["layer_sweep"]
            if (c["read"], c["layer"]) == (add["position"], add["layer"])
        )
        probe = report_probes(
            fit["base"], report["base"], behavior, add["position"], add["layer"], seed
        )
        entry = {
            "n_segments": int((fit["base"].labels == behavior).sum()),
            "frequency": {m: _frequency(material, m, behavior, seed) for m in names},
            "layer": add["layer"],
            "position": add["position"],
            "dose": add["dose"],
            "probe": {**probe, "selectivity": cell["selectivity"]},
            **probes[behavior],
            **found,
        }
        for kind in ("addition", "ablation"):
            entry[kind] = {**found[kind], "p_holm": float(adjusted[kind][i])}
        entry["verdict"] = verdict(entry)
        entries[behavior] = entry
        advance(1)
    return {
        "schema": SCHEMA,
        "version": importlib.metadata.version("whenlens"),
        "pair": pair.name,
        "task": config.task,
        "models": pair.described(),
        "seed": seed,
        "d_model": pair.base.d_model,
        "n_layers": pair.base.n_layers,
        "command": command,
        "splits": {name: len(ps) for name, ps in split_problems(config).items()},
        "accuracy": {
            m: {
                mode: _estimate(accuracy(material.traces[m, key]), groups, seed)
                for mode, key in (("greedy", "greedy"), ("sampled", "report"))
            }
            for m in names
        },
        "behaviors": entries,
        "timings": run.timings,
    }
