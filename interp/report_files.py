"""Write a finished run's report and its figures."""

from pathlib import Path

from interp.config import Material
from interp.progress import Progress
from interp.report import render_report
from interp.runs import write_json

N_EXAMPLES = 8


def examples(material: Material) -> list[dict]:
    """The first sampled report traces of both models on the same problems."""
    found = []
    for i in range(N_EXAMPLES // 2):
        for model in ("base", "thinking"):
            trace = material.traces[model, "report"][i]
            parts = material.segments[model, "report"][i]
            found.append(
                {
                    "problem": trace.prompt,
                    "model": model,
                    "steered_by": None,
                    "correct": trace.correct,
                    "segments": [{"text": s.text, "behavior": s.behavior} for s in parts],
                }
            )
    return found


def write_report(out: Path, results: dict, material: Material, progress: Progress) -> None:
    """Write examples.json and report.html."""
    with progress.bar("report", 1) as advance:
        shown = examples(material)
        write_json(out / "examples.json", shown)
        (out / "report.html").write_text(render_report(results, shown))
        advance(1)
