"""Slow references over Hugging Face's own model: one row at a time, no cache, no padding."""

from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def edited(hf, edits):
    """Within the block, `edits[layer](resid [1, pos, d_model])` replaces the output of the layer."""
    with ExitStack() as stack:
        for layer, edit in edits.items():

            def hook(module, args, output, edit=edit):
                if isinstance(output, tuple):
                    return (edit(output[0]), *output[1:])
                return edit(output)

            stack.enter_context(hf.model.layers[layer].register_forward_hook(hook))
        yield


@torch.no_grad()
def logits_of(hf, tokens, edits=None):
    """Logits [pos, d_vocab] of one sequence by one full forward."""
    with edited(hf, edits or {}):
        return hf(torch.tensor([list(tokens)]), use_cache=False).logits[0]


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


def continue_slowly(hf, prompt, n, eos, uniforms=None, edits_for=lambda tokens: {}):
    """New tokens of one prompt; `edits_for(tokens so far)` gives the edits of each full forward."""
    tokens = list(prompt)
    for step in range(n):
        logits = logits_of(hf, tokens, edits_for(tokens))[-1]
        tokens.append(pick(logits, None if uniforms is None else float(uniforms[step])))
        if tokens[-1] == eos:
            break
    return tokens[len(prompt) :]
