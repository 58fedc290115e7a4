"""Write a finished run's report, with traces to read."""

from pathlib import Path

from interp.behaviors import segment_all
from interp.config import Material, asked_problems
from interp.directions import DirectionSet
from interp.interventions import Add, intervene
from interp.pairs import Pair
from interp.progress import Progress
from interp.report import render_report
from interp.runs import write_json
from interp.tasks import load_task
from interp.traces import generate
from interp.types import Segment, Trace

N_PROBLEMS = 4


def examples(material: Material, pair: Pair, directions: DirectionSet, results: dict) -> list[dict]:
    """Both models' sampled traces of the first report problems, and the first one's steered ones."""
    found, task = [], load_task(results["task"])
    longest = results["config"]["max_new_tokens"]
    for i in range(N_PROBLEMS):
        for model in pair.names:
            trace = material.traces[model, "report"][i]
            found.append(_example(trace, material.segments[model, "report"][i], model))
        if i:
            continue
        problem_id = material.traces["base", "report"][0].problem_id
        problem = next(p for p in asked_problems(task) if p.id == problem_id)
        for behavior, entry in results["behaviors"].items():
            direction = directions[behavior, pair.base.name]
            edit = Add(direction.vector, direction.layer, entry["dose"], direction.unit)
            with intervene(pair.base, edit):
                traces = generate(
                    pair.base, [problem], task.grade, seed=results["seed"], max_new_tokens=longest
                )
            segments = segment_all(pair.base, traces, results["config"]["annotator"])
            found.append(_example(traces[0], segments[0], "base", behavior))
    return found


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
