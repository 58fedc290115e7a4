"""Write a finished run's report, with traces to read."""

from pathlib import Path

import torch

from interp.behaviors import segment_all
from interp.causal import generate_under
from interp.config import Material, asked_problems
from interp.directions import DirectionSet
from interp.interventions import Add
from interp.pairs import Pair
from interp.progress import Progress
from interp.report import render_report
from interp.runs import write_json
from interp.tasks import load_task
from interp.types import Segment, Trace

N_PROBLEMS = 4


def examples(material: Material, pair: Pair, directions: DirectionSet, results: dict) -> list[dict]:
    """Both models' sampled traces of the first report problems, and the first one's steered ones."""
    found, first = [], material.traces["base", "report"][0].problem_id
    for i in range(N_PROBLEMS):
        for model in pair.names:
            trace = material.traces[model, "report"][i]
            found.append(_example(trace, material.segments[model, "report"][i], model))
        if i == 0:
            found += _steered(first, pair, directions, results)
    return found


def _steered(problem_id: str, pair: Pair, directions: DirectionSet, results: dict) -> list[dict]:
    """The base model's sampled trace of one problem under each behavior's direction, all in one batch."""
    task, behaviors = load_task(results["task"]), results["behaviors"]
    problem = next(p for p in asked_problems(task) if p.id == problem_id)
    edits = []
    for own, (behavior, entry) in zip(torch.eye(len(behaviors)), behaviors.items(), strict=True):
        direction = directions[behavior, pair.base.name]
        edits.append(Add(direction.vector, direction.layer, entry["dose"] * own, direction.unit))
    longest = results["config"]["max_new_tokens"]
    asked = (pair.base, edits, [problem], len(edits), task.grade, results["seed"], longest)
    traces = [trace for (trace,) in generate_under(*asked)[0]]
    segments = segment_all(pair.base, traces, results["config"]["annotator"])
    shown = zip(traces, segments, behaviors, strict=True)
    return [_example(trace, parts, "base", behavior) for trace, parts, behavior in shown]


def _example(
    trace: Trace, segments: list[Segment], model: str, steered_by: str | None = None
) -> dict:
    return {
        "problem": trace.prompt,
        "model": model,
        "steered_by": steered_by,
        "correct": trace.correct,
        "segments": [{"text": s.text, "behavior": s.behavior} for s in segments],
    }


def write_report(
    out: Path,
    results: dict,
    material: Material,
    pair: Pair,
    directions: DirectionSet,
    progress: Progress,
) -> None:
    """Write examples.json and report.html."""
    with progress.bar("report", 1) as advance:
        shown = examples(material, pair, directions, results)
        write_json(out / "examples.json", shown)
        (out / "report.html").write_text(render_report(results, shown))
        advance(1)
