"""Where along the text two models part: shares, concentration, place, and kind of sentence."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.divergence.tokens import TokenDivergence
from interp.models import Model
from interp.types import Segment, Trace
from probes import Estimate, gini_bootstrap, ratio_bootstrap

N_BINS = 10
FAR = 8
"""Tokens to the next segment start from which on distances are counted together."""
N_PROMOTED = 20
MIN_TRACES = 5
"""Traces with a disagreement under which shares of disagreements have no interval."""
UNKNOWN = {"value": None, "ci": None}
"""What cannot be measured."""


@dataclass(frozen=True)
class Table:
    """Every generated token of some traces, one row each, in the traces' order.

    `trace` is the trace's number, `place` the token's in it from 0, `share` the same from 0 to 1,
    `start` whether a segment starts with it (or might have, where the trace ends instead),
    `distance` how many tokens on the next such place is, `behavior` that of its segment ("" where none),
    `entropy` the base's, in nats.
    """

    trace: Int[np.ndarray, " token"]
    place: Int[np.ndarray, " token"]
    share: Float[np.ndarray, " token"]
    start: Bool[np.ndarray, " token"]
    distance: Int[np.ndarray, " token"]
    behavior: Shaped[np.ndarray, " token"]
    js: Float[np.ndarray, " token"]
    differ: Bool[np.ndarray, " token"]
    entropy: Float[np.ndarray, " token"]
    n_traces: int

    @cached_property
    def first(self) -> Int[np.ndarray, " row"]:
        """The rows of each trace's first disagreement, for those that have one."""
        rows = np.flatnonzero(self.differ)
        return rows[np.unique(self.trace[rows], return_index=True)[1]]

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """(trace, place) of every token."""
        return list(zip(self.trace.tolist(), self.place.tolist(), strict=True))


def tabulate(
    traces: Sequence[Trace],
    segments: Sequence[Sequence[Segment]],
    found: Sequence[TokenDivergence],
) -> Table:
    """The tokens of all traces with their places in text and segment."""
    columns = defaultdict(list)
    for number, (trace, parts, one) in enumerate(zip(traces, segments, found, strict=True)):
        n = len(one.js)
        start, behavior = np.zeros(n, bool), np.full(n, "", object)
        for part in parts:
            start[part.start - trace.n_prompt] = True
            behavior[part.start - trace.n_prompt : part.end - trace.n_prompt] = part.behavior or ""
        if trace.stopped and n:
            start[-1] = True
        places = np.flatnonzero(start)
        after = np.searchsorted(places, np.arange(n))
        next_start = np.append(places, n)[after]  # a text cut off ends in a start that never came
        columns["trace"].append(np.full(n, number))
        columns["place"].append(np.arange(n))
        columns["share"].append((np.arange(n) + 0.5) / max(1, n))
        columns["start"].append(start)
        columns["distance"].append(next_start - np.arange(n))
        columns["behavior"].append(behavior.astype(str))
        columns["js"].append(one.js.astype(float))
        columns["differ"].append(one.differ)
        columns["entropy"].append(one.entropy_base)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Table(**joined, n_traces=len(traces))


def share(
    table: Table, hits: Shaped[np.ndarray, " token"], of: Shaped[np.ndarray, " token"], seed: int
) -> Estimate:
    """sum(hits) / sum(of) with an interval over traces."""
    return ratio_bootstrap(
        np.bincount(table.trace, hits, minlength=table.n_traces),
        np.bincount(table.trace, of, minlength=table.n_traces),
        seed=seed,
    )


def summarize(table: Table, found: Sequence[TokenDivergence], seed: int) -> dict:
    """`divergence.json: sources.NAME`. Raises ValueError under 2 traces."""
    every = np.ones(len(table.js))

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in found])

    def mean(values: np.ndarray) -> dict:
        return share(table, values, every, seed).as_json()

    rank = joined("rank_in_base")
    js, gini, at_starts, top5 = mean(table.js), UNKNOWN, UNKNOWN, None
    if table.js.sum() > 0:
        gini = gini_bootstrap(table.js, table.trace, seed=seed).as_json()
        at_starts = share(table, table.js * table.start, table.js, seed).as_json()
    first = table.place[table.first]
    if len(first) >= MIN_TRACES:
        top5 = share(table, table.differ & (rank <= 5), table.differ, seed).as_json()
    return {
        "traces": table.n_traces,
        "tokens": len(table.js),
        "disagreement": mean(table.differ.astype(float)),
        "js": {
            "mean": js["value"],
            "ci": js["ci"],
            "gini": gini["value"],
            "gini_ci": gini["ci"],
            "share_on_segment_starts": at_starts["value"],
            "share_on_segment_starts_ci": at_starts["ci"],
        },
        "segment_starts": float(table.start.mean()),
        "kl_base_thinking": mean(joined("kl_base_thinking")),
        "kl_thinking_base": mean(joined("kl_thinking_base")),
        "entropy": {m: mean(joined(f"entropy_{m}")) for m in ("base", "thinking")},
        "rank": {
            "unshifted": float((rank == 1).mean()),
            "marginal": float(((rank > 1) & (rank <= 3)).mean()),
            "shifted": float((rank > 3).mean()),
        },
        "promoted_in_base_top5": top5,
        "first_divergence": {
            "share": len(first) / table.n_traces,
            "median": float(np.median(first)) if len(first) else None,
        },
        "by_position": _by_position(table),
        "by_distance": _by_distance(table),
        "by_behavior": _by_behavior(table),
    }


def _row(table: Table, here: Bool[np.ndarray, " token"]) -> dict:
    some = bool(here.any())
    return {
        "tokens": int(here.sum()),
        "disagreement": float(table.differ[here].mean()) if some else None,
        "js": float(table.js[here].mean()) if some else None,
    }


def _by_position(table: Table) -> list[dict]:
    bins = np.minimum((table.share * N_BINS).astype(int), N_BINS - 1)
    return [
        {"from": b / N_BINS, "to": (b + 1) / N_BINS} | _row(table, bins == b) for b in range(N_BINS)
    ]


def _by_distance(table: Table) -> list[dict]:
    distance = table.distance.clip(max=FAR)
    return [{"distance": d} | _row(table, distance == d) for d in range(FAR + 1)]


def _by_behavior(table: Table) -> dict[str, dict]:
    total, found = table.js.sum(), {}
    for name in np.unique(table.behavior):
        here = table.behavior == name
        starts = here & table.start
        found[str(name) or "none"] = _row(table, here) | {
            "starts": int(starts.sum()),
            "js_at_start": float(table.js[starts].mean()) if starts.any() else None,
            "js_share": float(table.js[here].sum() / total) if total else None,
        }
    return found


def promoted(model: Model, found: Sequence[TokenDivergence]) -> list[dict]:
    """The commonest pairs of greedy tokens at disagreements (`divergence.json: promoted`)."""
    columns: dict[tuple[int, int], list[tuple]] = defaultdict(list)
    for one in found:
        for i in np.flatnonzero(one.differ):
            pair = int(one.thinking_token[i]), int(one.base_token[i])
            columns[pair].append(
                (one.js[i], one.rank_in_base[i], one.p_base_promoted[i], one.p_thinking[i, 0])
            )
    counts = Counter({pair: len(rows) for pair, rows in columns.items()})
    text = model.tokenizer.decode
    rows = []
    for (token, base_token), count in counts.most_common(N_PROMOTED):
        js, rank, p_base, p_thinking = np.array(columns[token, base_token]).T
        rows.append(
            {
                "token": text([token]),
                "base_token": text([base_token]),
                "count": count,
                "js": float(js.mean()),
                "median_rank": float(np.median(rank)),
                "probability_base": float(p_base.mean()),
                "probability_thinking": float(p_thinking.mean()),
            }
        )
    return rows
