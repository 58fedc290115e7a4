"""Directions from contrastive pairs, against steering-vectors and repeng as they come."""

import importlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from turns import Row, Setting, ratios

from interp.activations import collect
from interp.directions import mean_difference
from interp.models import Model
from interp.pooling import hook_name
from interp.types import Segment, Trace

OPENINGS = ("As an honest person I say that", "As a lying person I say that")
WORDS = (
    "the a cat dog house river stone finds sees under over green small old light paper idea".split()
)
"""One token each, so that a text cut after a word has the tokens with which the whole text begins."""
N_CUTS = 20


@dataclass(frozen=True)
class Pairs:
    """Contrastive pairs, twice: as strings, and as texts of either side with the words after which to cut."""

    strings: list[tuple[str, str]]
    texts: list[tuple[str, Sequence[int]]]


def cut_pairs(n: int, draws: random.Random) -> Pairs:
    """Texts cut after each of their words, as repeng's own recipe does."""
    strings, texts = [], []
    for _ in range(n // N_CUTS):
        words = [f" {draws.choice(WORDS)}" for _ in range(N_CUTS)]
        texts.append(("".join(words), range(1, N_CUTS + 1)))
        for k in range(1, N_CUTS + 1):
            strings.append(tuple(opening + "".join(words[:k]) for opening in OPENINGS))
    return Pairs(strings, texts)


def whole_pairs(n: int, draws: random.Random) -> Pairs:
    """A text of its own for each pair, of 5 to 15 words."""
    strings, texts = [], []
    for _ in range(n):
        n_words = draws.randint(5, 15)
        words = "".join(f" {draws.choice(WORDS)}" for _ in range(n_words))
        texts.append((words, [n_words]))
        strings.append(tuple(opening + words for opening in OPENINGS))
    return Pairs(strings, texts)


def read(model: Model, given: Pairs) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Last tokens' activations at every layer, and which of them are of the first side."""
    traces, segments = [], []
    for side, opening in zip("+-", OPENINGS, strict=True):
        n_opening = len(model.tokenizer(opening)["input_ids"])
        for text, cuts in given.texts:
            ids = tuple(model.tokenizer(opening + text)["input_ids"])
            traces.append(Trace(text, model.name, "", text, ids, n_opening, True, True))
            ends = [n_opening + cut for cut in cuts]
            segments.append([Segment(end - 1, end, "", side) for end in ends])
    store = collect(model, traces, segments, reads=["first"])
    first = store.labels == "+"
    names = {n: (hook_name("resid_post", n), "first") for n in range(model.n_layers)}
    return {n: (store[name], first) for n, name in names.items()}


def means(model: Model, given: Pairs) -> dict[int, np.ndarray]:
    """Difference of means at every layer."""
    return {n: mean_difference(x, first) for n, (x, first) in read(model, given).items()}


def components(model: Model, given: Pairs) -> dict[int, np.ndarray]:
    """repeng's definition (`pca_diff`): the first principal component of the pairs' differences."""
    return {
        n: np.asarray(PCA(1).fit(x[first] - x[~first]).components_)[0]
        for n, (x, first) in read(model, given).items()
    }


def cosine(a: Any, b: Any) -> float:
    """Absolute cosine: the sign of a principal component says nothing."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return abs(float(a @ b)) / float(np.linalg.norm(a) * np.linalg.norm(b))


def pairs(s: Setting) -> list[Row]:
    """Directions of every layer from contrastive pairs, against two toolkits for steering."""
    if s.options.peers:
        sys.path.append(s.options.peers)
    if not hasattr(np, "float_"):  # repeng 0.4 names it in an annotation; numpy 2 has it no more
        setattr(np, "float_", np.float64)  # noqa: B010
    try:
        steering = importlib.import_module("steering_vectors")
        repeng = importlib.import_module("repeng")
    except ImportError as error:
        raise SystemExit(f"{error}: install steering-vectors and repeng, see --help.") from None
    tokenizer, rows = s.model.tokenizer, []
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    for kind, make in (("cut", cut_pairs), ("whole", whole_pairs)):
        given = make(s.options.pairs, random.Random(0))
        entries = [repeng.DatasetEntry(*pair) for pair in given.strings]
        train = partial(steering.train_steering_vector, s.plain, tokenizer)
        ours: dict[str, Callable[[], Any]] = {
            "means": partial(means, s.model, given),
            "components": partial(components, s.model, given),
        }
        theirs: dict[str, Callable[[], Any]] = {
            "repeng": partial(repeng.ControlVector.train, s.plain, tokenizer, entries),
            "steering-vectors": partial(train, given.strings),
            "steering-vectors, batches of 32": partial(train, given.strings, batch_size=32),
        }
        found: dict[str, Any] = {}

        def keep(name: str, work: Callable[[], Any], found=found) -> None:
            found[name] = work()

        s.console.print(f" {kind}, {len(given.strings)} pairs")
        means(s.model, make(N_CUTS, random.Random(1)))  # warm
        train(given.strings[:N_CUTS])
        both = {name: partial(keep, name, work) for name, work in (ours | theirs).items()}
        took = s.in_turn(both, 1)  # the peers take minutes
        again = s.in_turn(ours, 2)
        for name in theirs:
            own = "components" if name == "repeng" else "means"
            peer = found[name]
            peers = peer.directions if name == "repeng" else peer.layer_activations
            # What repeng reads of the last block is its output after the final norm.
            least = min(cosine(found[own][n], peers[n]) for n in range(1, s.model.n_layers - 1))
            cost = f"{name}, {len(given.strings)} {kind} pairs"
            ratio = ratios(3 * took[name], took[own] + again[own])
            rows.append(Row(cost, f"our {own}", ratio, ">= 3", f"cosine {least:.5f}"))
    return rows
