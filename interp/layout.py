"""How the texts of one forward pass lie beside each other: padded, or each distinct beginning once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models import Model, inputs_of, left_pad

SLIDING = "sliding_attention"
"""Transformers' name for layers that see a window of the text alone."""
TEXTS_PER_ROW = 32
"""Texts that share a row: in a longer one, attention would cost more than common beginnings save."""


@dataclass(frozen=True)
class Layout:
    """Arguments of the model's body, and where each text's tokens are in the flattened batch."""

    inputs: dict[str, Any]
    places: list[Sequence[int]]


def padded(model: Model, texts: Sequence[Sequence[int]]) -> Layout:
    """A text a row, with padding on the left."""
    ids, real = left_pad(texts, model.tokenizer.pad_token_id or 0, model.device)
    ends = range(ids.shape[1], ids.numel() + 1, ids.shape[1])
    return Layout(
        inputs_of(ids, real),
        [range(end - len(text), end) for end, text in zip(ends, texts, strict=True)],
    )


def packed(model: Model, texts: Sequence[Sequence[int]]) -> Layout | None:
    """Several texts a row, a beginning that some have in common once and without padding between them.

    A token sees its own text alone. None where `padded` is less work: attention looks at all of a row.
    """
    parts = [texts[i : i + TEXTS_PER_ROW] for i in range(0, len(texts), TEXTS_PER_ROW)]
    trees = [_Tree(part) for part in parts]
    width, longest = max(len(tree.tokens) for tree in trees), max(map(len, texts))

    def work(n_tokens: int, n_seen: int) -> int:
        return n_tokens * (
            6 * model.d_model + n_seen
        )  # of matrices of 12 d_model^2 and of attention

    if work(len(trees) * width, width) >= work(len(texts) * longest, longest):
        return None
    ids = torch.zeros(len(trees), width, dtype=torch.long)
    depth = torch.zeros_like(ids)
    visible = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    places: list[Sequence[int]] = []
    for row, tree in enumerate(trees):
        n = len(tree.tokens)
        ids[row, :n] = torch.tensor(tree.tokens)
        for node, parent in enumerate(tree.parents):
            if parent is not None:
                depth[row, node] = depth[row, parent] + 1
                visible[row, node] |= visible[row, parent]
        places += [[row * width + node for node in path] for path in tree.paths]
    ids, depth, visible = (x.to(model.device) for x in (ids, depth, visible))
    behind = depth[:, :, None] - depth[:, None]
    mask = attention_mask(model.hf, visible, behind)
    return Layout({"input_ids": ids, "attention_mask": mask, "position_ids": depth}, places)


class _Tree:
    """Texts as paths from a root: `tokens` and `parents` of its nodes, and each text's nodes."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        found: dict[tuple[int | None, int], int] = {}
        self.paths = []
        for text in texts:
            path: list[int] = []
            for token in text:
                before = path[-1] if path else None
                path.append(found.setdefault((before, token), len(found)))
            self.paths.append(path)
        self.parents, self.tokens = zip(*found, strict=True)


def attention_mask(
    hf: Any, visible: Bool[Tensor, "row query key"], behind: Int[Tensor, "row query key"]
) -> Float[Tensor, "row 1 query key"] | dict[str, Float[Tensor, "row 1 query key"]]:
    """What attention adds where a token sees what is `visible`; `behind` says how many tokens back a key is.

    By kind of layer where some see a window of the text alone.
    """
    mask, config = _added(visible, hf.dtype), hf.base_model.config
    if SLIDING not in (getattr(config, "layer_types", None) or ()):
        return mask
    near = visible & (behind < config.sliding_window)
    return {"full_attention": mask, SLIDING: _added(near, hf.dtype)}


def _added(
    visible: Bool[Tensor, "row query key"], dtype: torch.dtype
) -> Float[Tensor, "row 1 query key"]:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
