"""The stages of a divergence run: each is done once and kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from interp.activations import collect
from interp.atlas import SCHEMA as ATLAS
from interp.behaviors import segment_all
from interp.config import DivergenceConfig
from interp.directions import as_tensor, mean_difference
from interp.divergence.atlas_data import trace_record
from interp.divergence.explained import (
    HIGH,
    NOTHING,
    Directions,
    Divergences,
    choose_use,
    divergences,
    explain,
)
from interp.divergence.layers import foretell_data, lens_kl, predict_disagreement
from interp.divergence.patching import (
    COMPONENTS,
    PATCHES,
    Restored,
    Splits,
    factorial,
    patch_one,
    splits_at,
)
from interp.divergence.projection import projected
from interp.divergence.reading import resid_before
from interp.divergence.shown import counterfactuals
from interp.divergence.store import load_tokens, save_tokens
from interp.divergence.summary import Table, tabulate
from interp.divergence.tokens import TokenDivergence, score
from interp.divergence.traces import SOURCES, Traces
from interp.errors import UserError
from interp.hybrid.points import Points, read_points
from interp.pairs import Pair
from interp.pooling import hook_name
from interp.readings import check_labels, layer_units
from interp.runs import read_json, write_json
from interp.setup import Setup
from interp.texts import told_to
from interp.types import Segment, Trace
from interp.vocabulary import Vocabulary
from probes import ratio_bootstrap, rng


@dataclass(frozen=True)
class Scored:
    """Traces of one kind with their segments, token-level numbers, and all tokens as a table."""

    traces: list[Trace]
    segments: list[list[Segment]]
    found: list[TokenDivergence]
    table: Table

    @property
    def differ(self) -> list[tuple[int, int]]:
        """All disagreements, as (trace, place)."""
        return [self.table.places[row] for row in np.flatnonzero(self.table.differ)]

    @property
    def first(self) -> list[tuple[int, int]]:
        """The first disagreement of each trace that has one, as (trace, place)."""
        return [self.table.places[row] for row in self.table.first]


class Divergence:
    """The stages of one run; each is done once and kept."""

    def __init__(
        self, setup: Setup[DivergenceConfig], vocabulary: Vocabulary, traces: Traces
    ) -> None:
        self.setup, self.vocabulary, self.traces = setup, vocabulary, traces
        self.pair: Pair = setup.pair
        self.config = setup.config
        self.sources = [name for name in SOURCES if (name, "report") in traces]
        self._scored: dict[tuple[str, str], Scored] = {}

    def kept(self, name: str, work: Callable[[], dict]) -> dict:
        """What `work()` gives, as JSON."""
        file = f"{name}.json"
        folder = self.setup.stage(name, lambda folder: write_json(folder / file, work()))
        return read_json(folder / file)

    def scored(self, name: str, split: str) -> Scored:
        """Both models on the traces of one kind and split."""
        if (name, split) not in self._scored:
            traces = self.traces[name, split]

            def work(folder: Path) -> None:
                with self.setup.progress.bar(f"tokens ({name}, {split})", len(traces)) as advance:
                    found = score(self.pair, self.vocabulary, traces, advance, self.setup.engine)
                save_tokens(folder / "tokens.safetensors", found)

            folder = self.setup.stage(f"tokens-{name}-{split}", work)
            found = load_tokens(folder / "tokens.safetensors")
            segments = segment_all(self.pair.base, traces, self.config.annotator)
            table = tabulate(traces, segments, found)
            self._scored[name, split] = Scored(traces, segments, found, table)
        return self._scored[name, split]

    def prediction(self) -> dict:
        """`predict_disagreement`: probes of each layer, chosen on select."""
        n, seed, data = self.config.n_points, self.config.seed, {}
        with self.setup.progress.bar("prediction", 3) as advance:
            for split in ("fit", "select", "report"):
                one = self.scored("thinking", split)
                data[split] = foretell_data(
                    self.pair, one.traces, one.table, n, seed, self.setup.engine
                )
                advance(1)
        return predict_disagreement(data["fit"], data["select"], data["report"], seed)

    @cached_property
    def directions(self) -> Directions:
        """Differences of means in the base, which reads both models' sampled traces of the fit split.

        A behavior is deployed where the thinking model's share of sentences is above the base's,
        intervals apart. Behaviors that are too rare for a direction are left out.
        """
        both = self.traces["base", "sampled"] + self.traces["thinking", "sampled"]
        n_base, seed = len(self.traces["base", "sampled"]), self.config.seed
        segments = segment_all(self.pair.base, both, self.config.annotator)
        store = collect(self.pair.base, both, segments, reads=["before"], engine=self.setup.engine)
        labels = {}
        for behavior in self.config.behaviors:
            try:
                labels[behavior] = check_labels(store, behavior)
            except UserError:
                continue
        n_layers, vectors = self.pair.base.n_layers, []
        for layer in range(n_layers):
            x = store[hook_name("resid_post", layer), "before"]
            vectors += [
                as_tensor(mean_difference(x, y, "matched", store.previous)) for y in labels.values()
            ]
        stacked = torch.stack(vectors) if vectors else torch.zeros(0, self.pair.base.d_model)
        deployed = []
        counts = np.array([len(parts) for parts in segments])
        for behavior in labels:
            hits = np.array([sum(s.behavior == behavior for s in parts) for parts in segments])
            base, thinking = (
                ratio_bootstrap(hits[part], counts[part], seed=seed)
                for part in (slice(None, n_base), slice(n_base, None))
            )
            if thinking.ci.low > base.ci.high:
                deployed.append(behavior)
        return Directions(
            stacked.reshape(n_layers, len(labels), self.pair.base.d_model),
            layer_units(store, n_layers),
            list(labels),
            deployed,
            store,
        )

    def drawn(self, split: str) -> list[tuple[int, int]]:
        """Up to `n_points` of a split's disagreements, drawn at random."""
        every = self.scored("thinking", split).differ
        order = rng(self.config.seed, "divergences", split).permutation(len(every))
        return sorted(every[i] for i in order[: self.config.n_points])

    def _divergences(
        self, split: str, places: Sequence[tuple[int, int]], layers: Sequence[int]
    ) -> Divergences:
        """Disagreements of the thinking model's traces of a split, at (trace, place)."""
        traces, pair = self.scored("thinking", split).traces, self.pair
        rows = sorted({i for i, _ in places})
        wanted = {(i, traces[i].n_prompt + t - 1) for i, t in places}

        def asked(p: Points) -> torch.Tensor:
            here = [
                [(rows[k], at) in wanted for at in row]
                for k, row in zip(p.trace.tolist(), p.at.tolist(), strict=True)
            ]
            return torch.tensor(here, device=p.at.device)

        read = [traces[i] for i in rows]
        points = read_points(pair, read, layers, pair.thinking.n_layers - 1, asked)
        return divergences(pair, self.vocabulary, traces, rows, points)

    def explained(self) -> dict:
        """`explained`: layer and dose from select, shares on report."""
        ours, seed = self.directions, self.config.seed
        one = self.scored("thinking", "report")
        if not ours.behaviors:
            unknown = {"all": None, "high": HIGH, "layer": None, "dose": None, "deployed": []}
            none = {"by_behavior": {}, "table": {}, "table_n": {}, "examples": []}
            return NOTHING | unknown | none | {"n_random": self.config.n_random}
        with self.setup.progress.bar("explained", 2) as advance:
            tried = self._divergences("select", self.drawn("select"), range(len(ours.vectors)))
            deployed = [ours.behaviors.index(b) for b in ours.deployed or ours.behaviors]
            use = choose_use(tried, ours.vectors[:, deployed], ours.units, seed)
            advance(1)
            report = self._divergences("report", self.drawn("report"), [use.layer])
            where = {at: row for row, at in enumerate(one.table.places)}
            rows = [
                where[at] for at in zip(report.trace.tolist(), report.place.tolist(), strict=True)
            ]
            found, after = explain(
                report, use, ours, [str(b) or "none" for b in one.table.behavior[rows]],
                self.config.n_random, seed,
            )  # fmt: skip
            found["examples"] = counterfactuals(
                self.pair, one.traces, one.found, report, use, ours, after
            )
            advance(1)
        return found

    def patching(self, explained: dict) -> dict:
        """`patching`, and by trace what the atlas shows."""
        one, pair, seed = self.scored("thinking", "report"), self.pair, self.config.seed
        traces = sorted({i for i, _ in one.differ})[: self.config.n_patched]
        draws, places = rng(seed, "patched"), []
        for i in traces:
            places.append((i, int(draws.choice(np.flatnonzero(one.found[i].differ)))))
        firsts = [place for place in one.first if place[0] in set(traces)]
        splits, at_first = (self._splits(at) for at in (places, firsts))
        groups = np.array([one.traces[i].problem_id for i in traces])
        found: dict[str, dict[str, Restored]] = {}
        shards = [(name, component) for name in PATCHES for component in COMPONENTS]
        work = partial(patch_one, splits, self.config.n_offsets)
        with self.setup.progress.bar("patching", len(shards) + 2) as advance:
            patched = self.setup.engine.map_shards(work, shards)
            for (name, component), one_restored in zip(shards, patched, strict=True):
                found.setdefault(name, {})[component] = one_restored
                advance(1)
            crossed = factorial(at_first, groups, seed)
            advance(1)
            parts = None
            if explained["layer"] is not None:
                whole = found["thinking_into_base"]["resid_post"].whole
                parts = self._projected(explained["layer"], places, whole)
            advance(1)
        layers = range(pair.base.n_layers)
        into = found["thinking_into_base"]
        return {
            "n": len(places),
            "offsets": [-k for k in range(into[COMPONENTS[0]].gain.shape[1])],
            "heatmap": {
                name: {c: r.heatmap.tolist() for c, r in by_component.items()}
                for name, by_component in found.items()
            },
            "at_last": {
                name: {c: [at_last(r, n, groups, seed) for n in layers] for c, r in rows.items()}
                for name, rows in found.items()
            },
            "factorial": crossed,
            "projected": parts,
            "by_trace": [
                {
                    "trace": i,
                    "place": t,
                    "patching": {c: r.of(k).round(3).tolist() for c, r in into.items()},
                }
                for k, (i, t) in enumerate(places)
            ],
        }

    def _splits(self, places: Sequence[tuple[int, int]]) -> Splits:
        one = self.scored("thinking", "report")
        tokens = [
            (int(one.found[i].thinking_token[t]), int(one.found[i].base_token[t]))
            for i, t in places
        ]
        return splits_at(self.pair, one.traces, places, tokens)

    def _projected(
        self, layer: int, places: Sequence[tuple[int, int]], whole: Float[np.ndarray, " row"]
    ) -> dict:
        first, ours = self._divergences("report", places, [layer]), self.directions
        at = list(zip(first.trace.tolist(), first.place.tolist(), strict=True))
        traces = self.scored("thinking", "report").traces
        told = told_to(self.pair.thinking, self.pair, traces)
        thinking = resid_before(self.pair.thinking, told, at, self.setup.engine)[layer]
        order = [places.index(place) for place in at]
        return projected(
            first, layer, thinking, whole[order], ours.vectors[layer], ours.behaviors,
            self.config.n_random, self.config.seed,
        )  # fmt: skip

    def atlas(self, sources: dict[str, Scored], patched: list[dict]) -> dict:
        """`atlas.json`: the first traces of each kind."""
        records = []
        with self.setup.progress.bar("atlas", len(sources)) as advance:
            for name, one in sources.items():
                n = min(self.config.n_atlas, len(one.traces))
                at = [(i, int(t)) for i in range(n) for t in np.flatnonzero(one.found[i].differ)]
                read = (self.pair, self.vocabulary, one.traces, at, self.setup.engine)
                kl = lens_kl(*read).T if at else []
                for i in range(n):
                    lens = {t: kl[k] for k, (j, t) in enumerate(at) if j == i}
                    shown = {
                        row["place"]: row["patching"]
                        for row in patched
                        if name == "thinking" and row["trace"] == i
                    }
                    records.append(
                        trace_record(
                            self.pair.base, name, one.traces[i], one.segments[i], one.found[i],
                            lens, shown,
                        )
                    )  # fmt: skip
                advance(1)
        return {
            "schema": ATLAS,
            "pair": self.pair.name,
            "n_layers": self.pair.base.n_layers,
            "components": list(COMPONENTS),
            "offsets": [-k for k in range(self.config.n_offsets)],
            "behaviors": sorted({s["behavior"] for r in records for s in r["segments"]} - {None}),
            "traces": records,
        }


def at_last(one: Restored, layer: int, groups: np.ndarray, seed: int) -> dict:
    """One row of `patching.at_last`."""
    found = one.at_last(layer, groups, seed)
    return {"layer": layer, "restored": found["value"], "ci": found["ci"]}
