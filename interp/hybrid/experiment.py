"""The hybrid experiment from end to end, and its results."""

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

from interp.behaviors import labels_of
from interp.config import HybridConfig, config_json
from interp.engine import HERE, Engine
from interp.hybrid.measurement import Measurement
from interp.hybrid.measures import contrast, verdict
from interp.hybrid.preparation import make_traces, prepare
from interp.hybrid.selection import choose
from interp.hybrid_report import write_hybrid_report
from interp.loading import DeviceMap
from interp.pairs import load_pair
from interp.progress import Progress
from interp.runs import write_json
from interp.setup import Setup

SCHEMA = "whenlens.hybrid/1"


def run_hybrid(
    config: HybridConfig,
    out: Path,
    command: str = "",
    progress: Progress | None = None,
    engine: Engine = HERE,
    device_map: DeviceMap | None = None,
) -> dict:
    """Fit on one split, choose on another, measure on a third; writes `hybrid.json` and `report.html`.

    An interrupted run goes on at the arm and shard where it stopped. Raises `UserError` for models
    that do not match or never differ, and for a budget that leaves no room.
    """
    # An annotator or a task that does not exist is refused before models are loaded.
    labels_of(config.annotator)
    told = config_json(config)
    pair = load_pair(config.pair, config.thinking, template=config.template, device_map=device_map)
    setup = Setup("hybrid", pair, config, out, progress or Progress(), engine)
    traces = make_traces(setup)
    lab, taxonomy = prepare(setup, traces)
    choice = choose(setup, lab, traces, taxonomy)
    measurement = Measurement(setup, lab, taxonomy, traces, choice)
    measured, scale = measurement.measure(), measurement.scale
    results = {
        "schema": SCHEMA,
        "version": importlib.metadata.version("whenlens"),
        "command": command,
        "pair": setup.pair.name,
        "task": config.task,
        "models": setup.pair.described(),
        "mode": "sampled" if config.sampled else "greedy",
        "seeds": list(config.seeds),
        "d_model": setup.pair.base.d_model,
        "n_layers": setup.pair.base.n_layers,
        "config": told,
        "splits": {name: len(problems) for name, problems in setup.splits.items()},
        "accuracy": {
            name: scale.accuracy(values) | {"n": len(values)}
            for name, values in (("base", scale.base), ("thinking", scale.thinking))
        },
        "gap": scale.gap.as_json(),
        "gap_refused": scale.refused,
        "taxonomy": taxonomy,
        "layer": choice.settings.layer,
        "settings": asdict(choice.settings),
        "factorial": choice.factorial,
        "chosen": asdict(choice.recipe),
        "prompt": measurement.prompt,
        "arms": measured.records,
        "contrasts": {
            name: contrast(measured.accuracy["hybrid"], measured.accuracy[name], scale)
            for name, record in measured.records.items()
            if record["kind"] != "method"
        },
        **measured.extras,
        "verdict": verdict(measured.accuracy, scale),
        "timings": setup.run.timings,
    }
    write_json(out / "hybrid.json", results)
    write_hybrid_report(results, out / "report.html")
    return results
