"""The first stages of a hybrid run: traces, activations and the taxonomy."""

from dataclasses import asdict
from pathlib import Path

import torch

from interp.activations import ActivationStore, collect
from interp.behaviors import segment_all
from interp.hybrid.lab import Lab, candidate_layers
from interp.pooling import hook_name
from interp.runs import read_json, write_json
from interp.setup import Setup
from interp.tasks import load_task
from interp.taxonomy import Taxonomy, agreement, choose, fit_kmeans
from interp.texts import moved, told_to
from interp.traces import Job, generate_all, read_traces
from interp.types import Trace

Traces = dict[tuple[str, str], list[Trace]]


def make_traces(setup: Setup) -> Traces:
    """Traces of both models by (model, split).

    `fit` is sampled at temperature 1, `greedy` are greedy traces of the same problems, `select` and
    `report` are in the run's own mode; where it samples, `report` holds a trace for each seed.
    """
    config, splits = setup.config, setup.splits
    problems, grade = splits | {"greedy": splits["fit"]}, load_task(config.task).grade
    seeds = config.seeds if config.sampled else config.seeds[:1]
    wanted = [("thinking", "greedy", config.seed)]
    for model in ("base", "thinking"):
        wanted += [(model, split, config.seed) for split in ("fit", "select")]
        wanted += [(model, "report", seed) for seed in seeds]
    sampled = {"greedy": False, "fit": True, "select": config.sampled, "report": config.sampled}
    jobs = [
        Job(f"{m}-{s}-{seed}.jsonl", getattr(setup.pair, m), problems[s], grade, sampled[s], seed)
        for m, s, seed in wanted
    ]

    def work(folder: Path) -> None:
        generate_all(folder, jobs, setup.progress, setup.max_new_tokens, setup.engine)

    folder = setup.stage("traces", work)
    found: Traces = {}
    for (model, split, _), job in zip(wanted, jobs, strict=True):
        found.setdefault((model, split), []).extend(read_traces(folder / job.file))
    return found


def prepare(setup: Setup, traces: Traces) -> tuple[Lab, dict]:
    """The lab with its taxonomy, chosen on the fit split, and the taxonomy's record."""
    pair, config = setup.pair, setup.config
    fit = told_to(
        pair.base,
        pair,
        traces["base", "fit"] + traces["thinking", "fit"] + traces["thinking", "greedy"],
    )
    segments = segment_all(pair.base, fit, config.annotator)
    n_base = len(traces["base", "fit"])
    first_greedy = n_base + len(traces["thinking", "fit"])
    layers = candidate_layers(pair.base.n_layers)

    def stores(folder: Path, advance=lambda n: None) -> tuple[ActivationStore, ActivationStore]:
        read_by = {model: told_to(model, pair, fit) for model in (pair.base, pair.thinking)}
        base, thinking = (
            collect(
                model,
                read_by[model],
                moved(segments, fit, read_by[model]),
                folder / read,
                layers=layers,
                reads=[read],
                advance=advance,
                engine=setup.engine,
            )  # fmt: skip
            for model, read in ((pair.base, "before"), (pair.thinking, "mean"))
        )
        return base, thinking

    def work(folder: Path) -> None:
        with setup.progress.bar("activations", 2 * len(fit)) as advance:
            store = stores(folder, advance)[1]
        own = store.rows(store.trace_index >= n_base)
        rows = {n: torch.from_numpy(own[hook_name("resid_post", n), "mean"]) for n in layers}
        with setup.progress.bar("taxonomy", len(layers) * len(config.sizes)) as advance:
            taxonomy, cells = choose(
                rows,
                own.groups,
                own.labels,
                config.sizes,
                seed=config.seed,
                model=pair.thinking.name,
                advance=advance,
            )
        taxonomy.save(folder / "taxonomy.safetensors")
        kmeans = fit_kmeans(
            rows[taxonomy.layer],
            own.groups,
            taxonomy.layer,
            taxonomy.n_categories,
            seed=config.seed,
        )
        record = _describe(setup, traces, taxonomy, kmeans)
        write_json(folder / "taxonomy.json", record | {"grid": [asdict(cell) for cell in cells]})

    folder = setup.stage("taxonomy", work)
    taxonomy = Taxonomy.load(folder / "taxonomy.safetensors")
    lab = Lab(pair, fit, segments, n_base, first_greedy, *stores(folder), taxonomy)
    return lab, read_json(folder / "taxonomy.json")


def _describe(setup: Setup, traces: Traces, taxonomy: Taxonomy, kmeans: Taxonomy) -> dict:
    """How both taxonomies agree with the behaviors on problems that neither has seen, if any is shown there."""
    report = traces["thinking", "report"][: len(setup.splits["report"])]
    segments = segment_all(setup.pair.thinking, report, setup.config.annotator)
    store = collect(setup.pair.thinking, report, segments, layers=[taxonomy.layer], reads=["mean"])
    rows = torch.from_numpy(store[hook_name("resid_post", taxonomy.layer), "mean"])
    categories = taxonomy.categories(rows)
    n, labeled = taxonomy.n_categories, any(store.labels)
    found = agreement(categories, store.labels, n) if labeled else None
    shares = torch.bincount(categories, minlength=n) / len(rows)
    majority, purity = (found.majority, found.purity) if found else ([None] * n, [0.0] * n)
    described = zip(shares.tolist(), majority, purity, strict=True)
    return {
        "method": taxonomy.method,
        "layer": taxonomy.layer,
        "n_categories": taxonomy.n_categories,
        "k": taxonomy.k,
        "fvu": taxonomy.fvu,
        "ami": found.ami if found else None,
        "kmeans_ami": agreement(kmeans.categories(rows), store.labels).ami if found else None,
        "f1": found.f1 if found else {},
        "categories": [
            {"index": i, "share": share, "behavior": behavior, "purity": purity}
            for i, (share, behavior, purity) in enumerate(described)
        ],
    }
