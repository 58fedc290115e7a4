"""The divergence of a pair from end to end, and its results."""

import importlib.metadata
from pathlib import Path

from interp.atlas import write_atlas
from interp.behaviors import labels_of
from interp.config import DivergenceConfig, config_json
from interp.divergence.layers import layer_curves
from interp.divergence.stages import Divergence
from interp.divergence.summary import MIN_TRACES, promoted, summarize
from interp.divergence.traces import make_traces
from interp.divergence.weights import weight_changes
from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.loading import DeviceMap
from interp.pairs import load_pair
from interp.progress import Progress
from interp.runs import write_json
from interp.setup import Setup

SCHEMA = "whenlens.divergence/1"


def run_divergence(
    config: DivergenceConfig,
    out: Path,
    command: str = "",
    progress: Progress | None = None,
    engine: Engine = HERE,
    device_map: DeviceMap | None = None,
) -> dict:
    """Where, in what, in which layer and why two models part; writes `divergence.json` and the atlas.

    An interrupted run goes on at the stage where it stopped. Raises `UserError` for models that do not
    match or never differ, and for a budget that leaves no room.
    """
    # An annotator or a task that does not exist is refused before models are loaded.
    labels_of(config.annotator)
    told = config_json(config)
    pair = load_pair(config.pair, config.thinking, template=config.template, device_map=device_map)
    vocabulary = pair.vocabulary
    setup = Setup("divergence", pair, config, out, progress or Progress(), engine)
    work = Divergence(setup, vocabulary, make_traces(setup))
    sources = {name: work.scored(name, "report") for name in work.sources}
    main = sources["thinking"]
    for split in ("fit", "select", "report"):
        if (n := len(work.scored("thinking", split).first)) < MIN_TRACES:
            raise UserError(
                f"Base and thinking model choose another token in {n} of the thinking model's traces to "
                f"{split}, expected at least {MIN_TRACES}: choose a pair that differs more, or more problems."
            )
    summaries = work.kept(
        "summary",
        lambda: {n: summarize(s.table, s.found, config.seed) for n, s in sources.items()},
    )
    foretold = work.kept("prediction", work.prediction)
    curves = work.kept(
        "layers",
        lambda: layer_curves(
            pair, vocabulary, main.traces, main.table, config.n_points, config.seed, engine
        ),
    )
    explained = work.kept("explained", work.explained)
    patching = work.kept("patching", lambda: work.patching(explained))
    into_base = patching["at_last"]["thinking_into_base"]
    shares = {c: [row["restored"] for row in rows] for c, rows in into_base.items()}
    results = {
        "schema": SCHEMA,
        "version": importlib.metadata.version("whenlens"),
        "command": command,
        "pair": pair.name,
        "task": config.task,
        "models": pair.described(),
        "mode": "sampled" if config.sampled else "greedy",
        "seed": config.seed,
        "d_model": pair.base.d_model,
        "n_layers": pair.base.n_layers,
        "config": told,
        "splits": {name: len(problems) for name, problems in setup.splits.items()},
        "vocabulary": {
            "shared": vocabulary.size,
            "base_only": vocabulary.base_only,
            "thinking_only": vocabulary.thinking_only,
        },
        **{
            key: summaries["thinking"][key]
            for key in ("tokens", "disagreement", "js", "rank", "promoted_in_base_top5")
        },
        "sources": summaries,
        "promoted": promoted(pair.thinking, main.found),
        "predict_disagreement": foretold,
        "layers": curves,
        "patching": {k: v for k, v in patching.items() if k != "by_trace"},
        "explained": explained,
        "weights": weight_changes(pair, shares),
        "timings": setup.run.timings,
    }
    atlas = work.kept("atlas", lambda: work.atlas(sources, patching["by_trace"]))
    write_json(out / "divergence.json", results)
    write_json(out / "atlas.json", atlas)
    write_atlas(atlas, out / "divergence.html")
    return results
