"""What makes the decision: activations of one model patched into the other, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models import Model, inputs_of
from interp.pairs import Pair
from interp.pooling import hook_name
from interp.texts import padded_for_both
from interp.types import Trace
from probes import ratio_bootstrap

COMPONENTS = ("resid_post", "attn_out", "mlp_out")
PATCHES = {
    "thinking_into_base": ("thinking", "base"),
    "base_into_thinking": ("base", "thinking"),
}
"""Source and destination of the patches."""
Kept = dict[tuple[str, int], Float[Tensor, "row pos d_model"]]


@dataclass(frozen=True)
class Splits:
    """Texts up to a place where the models part, all ending there, and the two tokens.

    `read` are the tokens and their mask by model, each after its own prompt (`padded_for_both`), `wanted` is
    the thinking model's greedy token, `own` the base's.
    """

    pair: Pair
    read: dict[str, tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]]
    wanted: Int[Tensor, " row"]
    own: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.wanted)

    @property
    def width(self) -> int:
        """Tokens of the longest text."""
        return self.read["base"][0].shape[1]

    def run(
        self, model: str, hooks: Sequence[tuple[str, Any]] = (), text: str | None = None
    ) -> Float[np.ndarray, " row"]:
        """Y: logit of the thinking model's token minus that of the base's, at the last position.

        `base` or `thinking` runs, on its own text unless that of the other is named.
        """
        runs: Model = getattr(self.pair, model)
        with torch.no_grad(), runs.bridge.hooks(fwd_hooks=list(hooks)):
            logits = runs.hf(
                **inputs_of(*self.read[text or model]), use_cache=False, logits_to_keep=1
            ).logits[:, -1]
        y = logits.gather(1, self.wanted[:, None]).double() - logits.gather(1, self.own[:, None])
        return y[:, 0].cpu().numpy()


def splits_at(
    pair: Pair, traces: Sequence[Trace], places: Sequence[tuple[int, int]], tokens: Sequence[tuple]
) -> Splits:
    """Texts before the tokens at `places` (trace, place); `tokens` are (wanted, own) of each."""
    here = [(traces[i], traces[i].n_prompt + t) for i, t in places]
    read = padded_for_both(pair, [replace(trace, tokens=trace.tokens[:end]) for trace, end in here])
    wanted, own = torch.tensor(tokens, device=pair.base.device).T
    return Splits(pair, read, wanted, own)


def keep_all(model: str, splits: Splits, components: Sequence[str] = COMPONENTS) -> tuple:
    """Clean Y of one model, and what its components put out."""
    kept: Kept = {}

    def keep(component: str, layer: int):
        def hook(out: Tensor, hook=None) -> None:
            kept[component, layer] = out.clone()

        return hook_name(component, layer), hook

    n_layers = splits.pair.base.n_layers
    hooks = [keep(c, layer) for c in components for layer in range(n_layers)]
    return splits.run(model, hooks), kept


def replacing(component: str, layer: int, source: Tensor, where: slice):
    """A hook that sets a component's output to the source's at some positions."""

    def hook(out: Tensor, hook=None) -> Tensor:
        out = out.clone()
        out[:, where] = source[:, where].to(out)
        return out

    return hook_name(component, layer), hook


@dataclass(frozen=True)
class Restored:
    """Share of the difference in Y that patches restore, by layer and token offset back from the last.

    `gain` [layer, offset, row] is Y patched minus Y clean, `whole` [row] Y source minus Y clean.
    """

    gain: Float[np.ndarray, "layer offset row"]
    whole: Float[np.ndarray, " row"]

    @property
    def heatmap(self) -> Float[np.ndarray, "layer offset"]:
        """Over all rows: sum of gains over sum of differences."""
        return self.gain.sum(-1) / self.whole.sum()

    def of(self, row: int) -> Float[np.ndarray, "layer offset"]:
        """Of one row alone."""
        return self.gain[..., row] / self.whole[row]

    def at_last(self, layer: int, groups: np.ndarray, seed: int) -> dict:
        """At the last position, with its interval over problems."""
        return restored(self.gain[layer, 0], self.whole, groups, seed)


def restored(
    gain: Float[np.ndarray, " row"], whole: Float[np.ndarray, " row"], groups: np.ndarray, seed: int
) -> dict:
    """sum(gain) / sum(whole), with an interval over groups."""
    codes = np.unique(groups, return_inverse=True)[1]
    # Each model prefers its own token at every disagreement, so `whole` has one sign.
    sign = np.sign(whole.sum())
    parts = np.bincount(codes, sign * gain), np.bincount(codes, (sign * whole).clip(0))
    return ratio_bootstrap(*parts, seed=seed).as_json()


def patch(
    splits: Splits,
    source: str,
    destination: str,
    n_offsets: int,
    components: Sequence[str] = COMPONENTS,
) -> dict[str, Restored]:
    """Activation patching across models (Prakash et al. 2402.14811): one component, layer and position.

    `source` and `destination` are `base` or `thinking`, each of which reads its own text. Offset 0 is the last
    position, whose output is the decision.
    """
    y_source, kept = keep_all(source, splits, components)
    clean = splits.run(destination)
    n_layers, width = splits.pair.base.n_layers, splits.width
    found = {}
    for component in components:
        gain = np.zeros((n_layers, min(n_offsets, width), len(splits)))
        for layer in range(n_layers):
            for offset in range(gain.shape[1]):
                at = slice(width - 1 - offset, width - offset)
                hook = replacing(component, layer, kept[component, layer], at)
                gain[layer, offset] = splits.run(destination, [hook]) - clean
        found[component] = Restored(gain, y_source - clean)
    return found


def patch_one(splits: Splits, n_offsets: int, which: tuple[str, str]) -> Restored:
    """One of `PATCHES`, by name, and one of `COMPONENTS`: a shard of all patching."""
    name, component = which
    return patch(splits, *PATCHES[name], n_offsets, [component])[component]


def factorial(splits: Splits, groups: np.ndarray, seed: int) -> list[dict]:
    """Residual stream up to a layer from one model, the blocks above it from the other.

    With Y(U, L) for upstream U and late stack L: upstream effect Y(t, b) - Y(b, b), late effect
    Y(b, t) - Y(b, b), interaction [Y(t, t) - Y(t, b)] - [Y(b, t) - Y(b, b)]; the portable share is the
    upstream effect over Y(t, t) - Y(b, b).
    """
    (bb, of_base), (tt, of_thinking) = (
        keep_all(m, splits, ("resid_post",)) for m in ("base", "thinking")
    )
    every, rows = slice(None), []
    for layer in range(splits.pair.base.n_layers):
        key = ("resid_post", layer)
        # Blocks above read the text of those below.
        tb = splits.run("base", [replacing(*key, of_thinking[key], every)], "thinking")
        bt = splits.run("thinking", [replacing(*key, of_base[key], every)], "base")
        mixed = (tt - tb) - (bt - bb)
        ones = np.ones_like(mixed)
        portable = restored(tb - bb, tt - bb, groups, seed)
        rows.append(
            {
                "layer": layer,
                "upstream": float((tb - bb).mean()),
                "late": float((bt - bb).mean()),
                "interaction": float(mixed.mean()),
                "interaction_ci": restored(mixed, ones, groups, seed)["ci"],
                "portable": portable["value"],
                "portable_ci": portable["ci"],
            }
        )
    return rows
