"""How the texts of one forward pass lie beside each other: padded, or each distinct beginning once."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.errors import UserError
from interp.models import Model

FULL, SLIDING = "full_attention", "sliding_attention"
"""Transformers' names for layers that see all of the text, or a window of it."""
WIDEST = 1024
"""Tokens of a row, unless one text is longer: its mask has the square of that."""
MOST_SEEN = 1 << 26
"""Pairs of tokens in the masks of a batch."""
PACKABLE = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2")
"""Types of models in which a mask keeps texts apart: attention alone mixes tokens, positions are as given."""


@dataclass(frozen=True)
class Layout:
    """Arguments of the model's body, and where each text's tokens are in the flattened batch."""

    inputs: dict[str, Any]
    places: list[Sequence[int]]


def batches(lengths: Sequence[int], n_tokens: int, n_rows: int | None = None) -> list[list[int]]:
    """Texts of about one length together: at most `n_tokens` with their padding, or one text, and `n_rows`."""
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        last = len(found[-1]) if found else 0
        if last and lengths[i] * (last + 1) <= n_tokens and last != n_rows:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def padded(model: Model, texts: Sequence[Sequence[int]]) -> Layout:
    """A text a row, with padding on the right, where no token sees it.

    So it takes no mask, which would be as large as the square of the longest text.
    """
    rows = [torch.tensor(list(text), dtype=torch.long) for text in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=model.tokenizer.pad_token_id or 0)
    begins = range(0, ids.numel(), ids.shape[1])
    return Layout(
        {"input_ids": ids.to(model.device)},
        [range(begin, begin + len(text)) for begin, text in zip(begins, texts, strict=True)],
    )


def packed(model: Model, texts: Sequence[Sequence[int]]) -> Layout | None:
    """Several texts a row, in their alphabet's order: what one begins with as the one before stands there once.

    A token sees its own text alone. None where `padded` is less work, since attention looks at all of a row, and
    for models of which it was not tested that a mask keeps their texts apart.
    """
    if getattr(model.hf.config, "model_type", None) not in PACKABLE:
        return None
    order = sorted(range(len(texts)), key=lambda i: list(texts[i]))
    ordered = [list(texts[i]) for i in order]
    lengths = list(map(len, ordered))
    same = [0, *(len(commonprefix(pair)) for pair in pairwise(ordered))]

    def work(n_rows: int, width: int) -> int:
        """Of matrices of 12 d_model^2, and of attention, whose multiplications take twice as long."""
        return n_rows * width * (6 * model.d_model + 2 * width)

    least = work(len(texts), max(lengths))
    found = [r for r in _candidates(lengths, same) if work(len(r[0]), r[1]) < least]
    if not found:
        return None
    rows, width = min(found, key=lambda r: work(len(r[0]), r[1]))
    ids, depth = np.zeros((2, len(rows), width), int)
    visible = np.tile(np.eye(width, dtype=bool), (len(rows), 1, 1))
    places: list[Sequence[int]] = [()] * len(texts)
    for row, part in enumerate(rows):
        path, n = [], 0
        for i in part:
            path = path[: same[i]] if n else path
            new = ordered[i][len(path) :]
            ids[row, n : n + len(new)] = new
            path = path + list(range(n, n + len(new)))
            n += len(new)
            depth[row, path] = range(len(path))
            visible[row][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
            places[order[i]] = [row * width + node for node in path]
    ids, depth, visible = (torch.from_numpy(x).to(model.device) for x in (ids, depth, visible))
    mask = attention_mask(model.hf, visible, lambda: depth[:, :, None] - depth[:, None])
    return Layout({"input_ids": ids, "attention_mask": mask, "position_ids": depth}, places)


def _rows(lengths: Sequence[int], same: Sequence[int], width: int) -> list[range]:
    """Neighbors in rows of at most `width` tokens; each shares its first `same` ones with the one before."""
    begins, filled = [0], 0
    for i, (length, shared) in enumerate(zip(lengths, same, strict=True)):
        filled += length - shared
        if filled > width:
            begins.append(i)
            filled = length
    return list(starmap(range, pairwise([*begins, len(lengths)])))


def _candidates(lengths: Sequence[int], same: Sequence[int]) -> Iterator[tuple[list[range], int]]:
    """The narrowest rows and their width, if they are so few: one, two, four, ...

    None where their masks are too large.
    """
    widths = range(max(lengths), max(*lengths, WIDEST) + 1)
    for n_rows in (1 << k for k in range(len(lengths).bit_length() + 1)):
        at = bisect_left(widths, True, key=lambda w: len(_rows(lengths, same, w)) <= n_rows)
        if at < len(widths) and n_rows * widths[at] ** 2 <= MOST_SEEN:
            yield _rows(lengths, same, widths[at]), widths[at]


def attention_mask(
    hf: Any,
    visible: Bool[Tensor, "row query key"],
    behind: Callable[[], Int[Tensor, "row query key"]],
) -> Float[Tensor, "row 1 query key"] | dict[str, Float[Tensor, "row 1 query key"]]:
    """What attention adds where a token sees what is `visible`; `behind` says how many tokens back a key is.

    By kind of layer where some see a window of the text alone. Raises `UserError` for layers of other kinds.
    """
    config = hf.base_model.config
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if strange := sorted(set(kinds or ()) - {FULL, SLIDING}):
        raise UserError(
            f"This model has layers of {strange[0]}, in which no mask keeps tokens apart: choose one whose layers "
            "are attention alone."
        )
    if window is None or SLIDING not in (kinds or (SLIDING,)):
        return _added(visible, hf.dtype)
    near = _added(visible & (behind() < window), hf.dtype)
    return near if kinds is None else {FULL: _added(visible, hf.dtype), SLIDING: near}


def _added(
    visible: Bool[Tensor, "row query key"], dtype: torch.dtype
) -> Float[Tensor, "row 1 query key"]:
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
