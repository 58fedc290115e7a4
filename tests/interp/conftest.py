"""Texts as traces, and a slow reference over Hugging Face's own model: one row at a time, no cache, no padding."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.models import load_model
from interp.pairs import Pair
from interp.tasks import load_task
from interp.types import Segment, Trace

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 12])[:12]


def as_traces(sequences):
    """Sequences as traces that have a segment at every token but the first."""
    traces = [Trace(str(i), "m", "", "", tuple(x), 1, True, True) for i, x in enumerate(sequences)]
    return traces, [[Segment(t, t + 1, "") for t in range(1, len(x))] for x in sequences]


class SlowReference:
    """Full forwards of `model`; `edits[layer](resid [1, pos, d_model])` replaces layer outputs."""

    def __init__(self, model):
        self.model = model

    @contextmanager
    def _edited(self, edits):
        with ExitStack() as stack:
            for layer, edit in edits.items():

                def hook(module, args, output, edit=edit):
                    if isinstance(output, tuple):
                        return (edit(output[0]), *output[1:])
                    return edit(output)

                stack.enter_context(self.model.model.layers[layer].register_forward_hook(hook))
            yield

    @torch.no_grad()
    def logits(self, tokens, edits=None):
        """Logits [pos, d_vocab] of one sequence by one full forward."""
        with self._edited(edits or {}):
            return self.model(torch.tensor([list(tokens)]), use_cache=False).logits[0]

    @torch.no_grad()
    def outputs(self, tokens, layer, edits=None):
        """Output [pos, d_model] of one block, after its edit."""
        kept = []

        def keep(resid):
            kept.append((edits or {}).get(layer, lambda x: x)(resid))
            return kept[-1]

        self.logits(tokens, {**(edits or {}), layer: keep})
        return kept[0][0]

    def complete(self, prompt, n, eos, uniforms=None, edits_for=lambda tokens: {}):
        """New tokens of one prompt; `edits_for(tokens so far)` gives each full forward's edits."""
        tokens = list(prompt)
        for step in range(n):
            logits = self.logits(tokens, edits_for(tokens))[-1]
            tokens.append(pick(logits, None if uniforms is None else float(uniforms[step])))
            if tokens[-1] == eos:
                break
        return tokens[len(prompt) :]


def pick(logits, uniform=None):
    """Argmax, or the first token at which the cumulative probability exceeds `uniform`."""
    scores = logits.double().numpy()
    if uniform is None:
        return int(np.argmax(scores))
    weights = np.exp(scores - scores.max())
    total, below = weights.sum(), 0.0
    for token, weight in enumerate(weights):
        below += weight
        if below > uniform * total:
            return token
    return len(weights) - 1


def slow_model(folder):
    """A fresh Hugging Face model over the same files."""
    return SlowReference(
        AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
    )


def at_last(values):
    """An edit that replaces the last position's residual stream."""

    def edit(resid):
        resid = resid.clone()
        resid[0, -1] = values
        return resid

    return edit


@pytest.fixture(scope="session")
def slow(sharp_folder):
    """The slow reference of `sharp`."""
    return slow_model(sharp_folder)


@pytest.fixture(scope="session")
def other_folder(save_random):
    """Another random model of the same shape, with large weights too."""
    return save_random(scale=5.0, seed=1)


@pytest.fixture(scope="session")
def even_folders(tiny_folder, save_random):
    """Two random models of small weights, whose numbers rounding changes little."""
    return tiny_folder, save_random(seed=1)


def segments_of_four(traces):
    """Every four tokens of each trace, in turns of two behaviors."""
    return [
        [Segment(t, t + 4, "a" if t % 8 else "b") for t in range(x.n_prompt, len(x.tokens) - 4, 4)]
        for x in traces
    ]


@pytest.fixture(scope="session")
def pair(sharp, other_folder):
    """`sharp` as the base and the other model as the thinking one: they disagree."""
    other = load_model(other_folder, "other", device="cpu")
    other.boundary = sharp.boundary
    return Pair("tiny", sharp, other)


@pytest.fixture(scope="session")
def slow_thinking(other_folder):
    """The slow reference of the pair's thinking model."""
    return slow_model(other_folder)


@pytest.fixture
def looks(monkeypatch):
    """Look every `n` tokens, as on an accelerator."""

    def every(n: int) -> None:
        for module in ("traces", "interventions", "hybrid.decode"):
            monkeypatch.setattr(f"interp.{module}.look_every", lambda device: n)

    return every
