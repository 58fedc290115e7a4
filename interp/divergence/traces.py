"""The texts on which the models are compared: the thinking model's, the base's, and a hybrid's."""

from functools import partial
from pathlib import Path

from interp.errors import UserError
from interp.hybrid.controllers import at_disagreements, one_category
from interp.hybrid.decode import Arm, steered
from interp.hybrid.points import disagreements, read_points
from interp.hybrid.vectors import trained_jointly
from interp.hybrid.writing import Writer
from interp.setup import Setup
from interp.tasks import load_task
from interp.texts import told_to
from interp.traces import BATCH_SIZE, Job, generate_all, read_traces, write_traces
from interp.types import Trace

SOURCES = ("thinking", "base", "hybrid")
Traces = dict[tuple[str, str], list[Trace]]
"""By (model or hybrid, split); `sampled` are temperature-1 traces of the fit split."""


def make_traces(setup: Setup) -> Traces:
    """Write every trace once, and return it as the base reads it, up to the first token that one model lacks.

    The hybrid is the base steered by one trained vector of a middle layer wherever the greedy tokens
    differ; there is none where the vocabularies differ.
    """
    mode, splits, pair = setup.config.sampled, setup.splits, setup.pair
    grade = load_task(setup.config.task).grade
    wanted = [("base", "sampled", "fit", True), ("thinking", "sampled", "fit", True)]
    wanted += [("thinking", split, split, mode) for split in ("fit", "select", "report")]
    wanted += [("base", "report", "report", mode)]
    jobs = {
        (m, name): Job(
            f"{m}-{name}.jsonl",
            getattr(pair, m),
            splits[split],
            grade,
            sampled,
            setup.config.seed,
        )  # fmt: skip
        for m, name, split, sampled in wanted
    }
    files = {key: job.file for key, job in jobs.items()}
    if pair.vocabulary.ids is None:
        files["hybrid", "report"] = "hybrid-report.jsonl"

    def work(folder: Path) -> None:
        generate_all(
            folder, list(jobs.values()), setup.progress, setup.max_new_tokens, setup.engine
        )
        hybrid = files.get(("hybrid", "report"))
        if hybrid and not (folder / hybrid).exists():
            fit = told_to(pair.base, pair, read_traces(folder / files["thinking", "fit"]))
            write_traces(_hybrid(setup, fit), folder / hybrid)

    folder = setup.stage("traces", work)
    found: Traces = {}
    for key, file in files.items():
        traces = told_to(pair.base, pair, read_traces(folder / file))
        found[key] = [t for t in traces if len(t.tokens) > t.n_prompt]
        if len(found[key]) < 2:
            raise UserError(
                f"Only {len(found[key])} of {len(traces)} traces of {key[0]} begin with a token that both "
                "models know, expected at least 2: choose a pair with one vocabulary."
            )
    return found


def _hybrid(setup: Setup, fit: list[Trace]) -> list[Trace]:
    pair, seed, one = setup.pair, setup.config.seed, one_category()
    layer = pair.base.n_layers // 2
    points = disagreements(read_points(pair, fit, [layer], layer))
    categories = [one.read(p.thinking_resid) for p in points]
    vectors = trained_jointly(points, categories, one.names, layer, seed, network=False)
    problems = setup.splits["report"]
    arm = Arm(at_disagreements("disagreement", one), steered(vectors), thinking_layer=layer)
    write = partial(Writer.of(setup).decode, arm, seed)
    shards = [problems[i : i + BATCH_SIZE] for i in range(0, len(problems), BATCH_SIZE)]
    return [trace for traces, _ in setup.engine.map_shards(write, shards) for trace in traces]
