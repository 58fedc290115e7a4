"""The texts on which the models are compared: the thinking model's, the base's, and a hybrid's."""

from pathlib import Path

from interp.divergence.vocabulary import Vocabulary
from interp.errors import UserError
from interp.hybrid.controllers import at_disagreements, one_category
from interp.hybrid.decode import Arm, steered
from interp.hybrid.outcomes import Bench
from interp.hybrid.points import disagreements, read_points
from interp.hybrid.vectors import trained_jointly
from interp.setup import Setup
from interp.traces import generate_once, read_traces, write_traces
from interp.types import Trace

SOURCES = ("thinking", "base", "hybrid")
Traces = dict[tuple[str, str], list[Trace]]
"""By (model or hybrid, split); `sampled` are temperature-1 traces of the fit split."""


def make_traces(setup: Setup, vocabulary: Vocabulary) -> Traces:
    """Write every trace once; those with tokens that one model does not know are left out.

    The hybrid is the base steered by one trained vector of a middle layer wherever the greedy tokens
    differ; there is none where the vocabularies differ.
    """
    config, pair = setup.config, setup.pair
    mode = config.sampled
    jobs = [("base", "sampled", "fit", True), ("thinking", "sampled", "fit", True)]
    jobs += [("thinking", split, split, mode) for split in ("fit", "select", "report")]
    jobs += [("base", "report", "report", mode)]

    def work(folder: Path) -> None:
        with setup.progress.bar(
            "traces", sum(len(setup.splits[s]) for *_, s, _ in jobs)
        ) as advance:
            for model, name, split, sampled in jobs:
                generate_once(
                    folder / f"{model}-{name}.jsonl",
                    getattr(pair, model),
                    setup.splits[split],
                    sampled=sampled,
                    seed=config.seed,
                    max_new_tokens=setup.max_new_tokens,
                    advance=advance,
                )
        if vocabulary.ids is None and not (folder / "hybrid-report.jsonl").exists():
            fit = read_traces(folder / "thinking-fit.jsonl")
            write_traces(_hybrid(setup, fit), folder / "hybrid-report.jsonl")

    folder = setup.stage("traces", work)
    found: Traces = {}
    names = [(model, name) for model, name, *_ in jobs]
    if vocabulary.ids is None:
        names.append(("hybrid", "report"))
    for key in names:
        traces = read_traces(folder / f"{'-'.join(key)}.jsonl")
        found[key] = [t for t in traces if vocabulary.knows(t.tokens)]
        if len(found[key]) < 2:
            raise UserError(
                f"Only {len(found[key])} of {len(traces)} traces of {key[0]} are in tokens that both "
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
    bench = Bench(pair, problems, Path(), setup.config.sampled, setup.max_new_tokens)
    arm = Arm(at_disagreements("disagreement", one), steered(vectors), thinking_layer=layer)
    return bench.decode(arm, problems, seed)[0]
