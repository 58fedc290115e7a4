"""Edit the residual stream: add, ablate, mean-ablate, and an audit that the edits fired."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.models import Frame, Model, frame_of, inputs_of, left_pad, look_every
from interp.pooling import hook_name

At = Literal["starts", "all"]
NO_ROW = -1
MOST_NOTED = 1024
"""Passes that an audit notes before it asks an accelerator for their counts."""


def _rowwise(values: Float[Tensor, "*row d_model"], frame: Frame) -> Tensor:
    """One vector for all rows, or one for each row of the caller's list."""
    return values if values.ndim == 1 else values[frame.rows][:, None]


def _on(value: float | Tensor, device: torch.device) -> float | Tensor:
    return value.to(device) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Add:
    """Activation addition at one layer (Turner et al. 2308.10248).

    `vector` [d_model], or [row, d_model] to give each generated row its own, is rescaled to length
    `dose` x `unit`, where `unit` is the mean norm of the residual stream at that layer, so a dose
    is a share of the residual's length. `dose` may be a tensor [row] as well. `at` says where:
    `starts` edits only tokens whose next token may start a segment, `all` every token.
    """

    vector: Float[Tensor, "*row d_model"]
    layer: int
    dose: float | Float[Tensor, " row"]
    unit: float
    at: At = "starts"
    site: str = "resid_post"

    @property
    def layers(self) -> tuple[int, ...]:
        """The one layer edited."""
        return (self.layer,)

    def to(self, device: torch.device) -> "Add":
        """The same, where a layer is."""
        return replace(self, vector=self.vector.to(device), dose=_on(self.dose, device))

    def edit(
        self, resid: Float[Tensor, "batch pos d_model"], frame: Frame, layer: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream with the vector added everywhere."""
        length = self.vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        dose = self.dose[:, None] if isinstance(self.dose, Tensor) else self.dose
        scaled = (self.vector / length * self.unit * dose).to(resid)
        return resid + _rowwise(scaled, frame)


@dataclass(frozen=True)
class Ablate:
    """Directional ablation, x - (x . v) v for unit v (Arditi et al. 2406.11717, eq. 4).

    `vector` is [d_model], or [row, d_model] to give each generated row its own.
    """

    vector: Float[Tensor, "*row d_model"]
    layers: tuple[int, ...]
    at: At = "all"
    site: str = "resid_post"

    def to(self, device: torch.device) -> "Ablate":
        """The same, where a layer is."""
        return replace(self, vector=self.vector.to(device))

    def edit(
        self, resid: Float[Tensor, "batch pos d_model"], frame: Frame, layer: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream without its component along the direction."""
        unit = _unit(self.vector, resid, frame)
        return resid - (resid * unit).sum(-1, keepdim=True) * unit


@dataclass(frozen=True)
class MeanAblate:
    """Like `Ablate`, but the component is reset to that of `means[layer]` [d_model], not to zero.

    `strength` (a number or a tensor [row]) scales the change: 1 resets, less goes part of the way,
    2 mirrors. It acts at the first of the layers; at those above, the component's distance from
    the mean is held at what it was made there, so that nothing writes it anew.
    """

    vector: Float[Tensor, "*row d_model"]
    means: dict[int, Float[Tensor, " d_model"]]
    at: At = "all"
    site: str = "resid_post"
    strength: float | Float[Tensor, " row"] = 1.0
    _held: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers for which a mean is given."""
        return tuple(self.means)

    def to(self, device: torch.device) -> "MeanAblate":
        """The same, where a layer is; what is held is held for all layers."""
        means = {layer: mean.to(device) for layer, mean in self.means.items()}
        strength = _on(self.strength, device)
        return replace(self, vector=self.vector.to(device), means=means, strength=strength)

    def edit(
        self, resid: Float[Tensor, "batch pos d_model"], frame: Frame, layer: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream with the component along the direction set to the mean's."""
        unit = _unit(self.vector, resid, frame)
        distance = ((resid - self.means[layer].to(resid)) * unit).sum(-1, keepdim=True)
        if layer == min(self.means):
            strength = self.strength
            if isinstance(strength, Tensor):
                strength = _rowwise(strength[:, None].to(resid), frame)
            self._held[:] = [(1 - strength) * distance]
        return resid + (self._held[0].to(distance) - distance) * unit


Intervention = Add | Ablate | MeanAblate


def _unit(vector: Float[Tensor, "*row d_model"], resid: Tensor, frame: Frame) -> Tensor:
    unit = vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return _rowwise(unit.to(resid), frame)


@dataclass(frozen=True)
class _Pass:
    """One pass at one layer: `counts` [3] are positions, total size of the change, and padding edited."""

    number: int
    layer: int
    step: int
    counts: Float[Tensor, "3"]
    rows: Int[Tensor, " batch"]


@dataclass
class Audit:
    """What an intervened run really did, by layer: forwards, positions and size of the change.

    `rows` and `steps` are the caller's rows and the decode steps (0 is the prompt's pass) at which
    an edit fired; `fired` counts positions by (number of the intervention, layer). Complete when the block is
    left: an accelerator is asked only once in many passes.
    """

    forwards: Counter[int] = field(default_factory=Counter)
    positions: Counter[int] = field(default_factory=Counter)
    change: dict[int, float] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)
    steps: set[int] = field(default_factory=set)
    fired: Counter[tuple[int, int]] = field(default_factory=Counter)
    _passes: list[_Pass] = field(default_factory=list, repr=False, compare=False)

    def mean_change(self, layer: int) -> float:
        """Mean L2 norm of the change at one layer, over edited positions."""
        return self.change.get(layer, 0.0) / max(1, self.positions[layer])

    def record(
        self, number: int, layer: int, where: Bool[Tensor, "batch pos"], frame: Frame, delta: Tensor
    ) -> None:
        """Note one forward at one layer; what is noted is counted by `settle`, on a CPU at once."""
        size = torch.where(where, delta.norm(dim=-1), 0.0).sum()
        padding = (where & ~frame.real).any()
        counts = torch.stack([where.sum().double(), size.double(), padding.double()])
        rows = torch.where(where.any(1), frame.rows, NO_ROW)
        self._passes.append(_Pass(number, layer, frame.step, counts, rows))
        if look_every(where.device) == 1 or len(self._passes) == MOST_NOTED:
            self.settle()

    def settle(self) -> None:
        """Count what was noted; raises `UserError` where padding was edited, or NaN entered the model."""
        passes, self._passes = self._passes, []
        if not passes:
            return
        device = passes[0].counts.device
        counts = torch.stack([one.counts.to(device) for one in passes]).tolist()
        rows = torch.cat([one.rows.to(device) for one in passes]).unique().tolist()
        for one, (n, size, padding) in zip(passes, counts, strict=True):
            if padding:
                raise UserError(
                    f"An intervention at layer {one.layer} would edit padding: run the model through "
                    "`generate` or `forward`, which tell padding from text."
                )
            if not math.isfinite(size):
                raise UserError(
                    f"An intervention at layer {one.layer} wrote NaN or infinite values: check that the "
                    "direction is finite and the dose moderate."
                )
            if n:
                self.fired[one.number, one.layer] += int(n)
                self.forwards[one.layer] += 1
                self.steps.add(one.step)
                self.positions[one.layer] += int(n)
                self.change[one.layer] = self.change.get(one.layer, 0.0) + size
        self.rows |= set(rows) - {NO_ROW}


@contextmanager
def intervene(model: Model, *interventions: Intervention) -> Iterator[Audit]:
    """Apply interventions to every forward inside the block, generation included.

    Yields the audit. On leaving, the hooks are gone, and an intervention that never fired at one of
    its layers raises `UserError`. A bare `model.bridge(tokens)` counts every token as real and as a
    possible start, so pass padded batches through `forward`.
    """
    audit, hooks = Audit(), []
    for number, edit in enumerate(interventions):
        for layer in edit.layers:
            name = hook_name(edit.site, model.check_layer(layer))
            hooks.append((name, _hook(model, edit, number, layer, audit)))
    with model.bridge.hooks(fwd_hooks=hooks):
        yield audit
        audit.settle()
    silent = [
        layer
        for number, edit in enumerate(interventions)
        for layer in edit.layers
        if not audit.fired[number, layer]
    ]
    if silent:
        raise UserError(
            f"The intervention at layer {silent[0]} of {model.name} never fired: run a forward "
            "pass or a generation inside the block, over text that has such positions."
        )


def _hook(model: Model, edit: Intervention, number: int, layer: int, audit: Audit):
    placed: dict[torch.device, Intervention] = {}

    def hook(resid: Tensor, hook=None) -> Tensor:
        here = placed.get(resid.device) or placed.setdefault(resid.device, edit.to(resid.device))
        frame = model.frame
        if frame is None:
            everything = torch.ones(resid.shape[:2], dtype=torch.bool, device=resid.device)
            rows = torch.arange(len(resid), device=resid.device)
            frame = Frame(rows, everything, everything)
        frame = frame.to(resid.device)
        where = frame.starts if edit.at == "starts" else frame.real
        edited = torch.where(where[..., None], here.edit(resid, frame, layer), resid)
        audit.record(number, layer, where, frame, edited - resid)
        return edited

    return hook


@torch.no_grad()
def forward(model: Model, sequences: Sequence[Sequence[int]], starts_from: int = 0) -> Tensor:
    """Logits [batch, pos, d_vocab] of left-padded sequences, framed for interventions.

    `starts_from` is the first position at which a segment may be decided: the last prompt token,
    which counts whatever it is, as in generation.
    """
    ids, real = left_pad(sequences, model.tokenizer.pad_token_id or 0, model.device)
    first = ids.shape[1] - torch.tensor([len(s) for s in sequences]) + starts_from
    with model.framed(frame_of(model, ids, real, first)):
        return model.hf(**inputs_of(ids, real), use_cache=False).logits
