"""One model, ready to read and to edit: a raw-mode `TransformerBridge` with its tokenizer."""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from interp.errors import UserError, first_line
from interp.loading import DeviceMap, open_checkpoint, split_revision
from interp.plain import Plain, twin_of

PROBLEM = "{problem}"
"""Where a problem stands in the text that asks it."""
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s*$|\n")


@dataclass(eq=False)
class Frame:
    """What the forward pass now running is about; interventions read it inside their hooks.

    `rows` are the batch rows' indices in the caller's list, `real` marks tokens that are not
    padding, `starts` the tokens whose next token may start a segment (`before` positions), `step`
    is the decode step (0 is the prompt's pass).
    """

    rows: Int[Tensor, " batch"]
    real: Bool[Tensor, "batch pos"]
    starts: Bool[Tensor, "batch pos"]
    step: int = 0

    def to(self, device: torch.device) -> "Frame":
        """The same, where a layer is."""
        rows, real, starts = (x.to(device) for x in (self.rows, self.real, self.starts))
        return Frame(rows, real, starts, self.step)


LOOK_EVERY = 16
"""Tokens between two looks of the host at an accelerator, each of which waits for it."""


def look_every(device: torch.device) -> int:
    """Tokens between two looks of the host at what a device has computed."""
    return 1 if device.type == "cpu" else LOOK_EVERY


@dataclass(frozen=True)
class Source:
    """Where a model came from, as `load_model` takes it, and the format that its numbers have."""

    spec: str
    device: str | None
    revision: str | None
    device_map: str | tuple[tuple[str, str | int], ...] | None
    dtype: torch.dtype


@dataclass(eq=False)
class Model:
    """A loaded model: `bridge` is the TransformerLens object, `fingerprint` names its weights.

    `plain` has the same weights without hook points inside blocks. `template` is the text that a problem
    stands in where it is asked, `{problem}` its place; `temperature` is that of sampled traces, `more_ends` are
    tokens that end a text besides the tokenizer's.
    Pickled, a model is its `source` and how it is asked: whoever unpickles it loads the same weights again,
    once a process. What was changed in it since it was loaded does not travel.
    """

    name: str
    bridge: TransformerBridge = field(repr=False)
    # A PreTrainedTokenizerBase, whose stubs are unions of everything.
    tokenizer: Any = field(repr=False)
    fingerprint: str
    plain: Plain = field(repr=False)
    template: str = PROBLEM
    temperature: float = 1.0
    source: Source | None = None
    more_ends: tuple[int, ...] = ()
    frame: Frame | None = field(default=None, repr=False)

    def __reduce__(self):
        """The source in place of the weights; raises `UserError` where there is none, and where hooks edit."""
        if self.bridge.list_hooks():
            raise UserError(
                f"Model {self.name} cannot be sent to another process while it is hooked or edited: leave the "
                "block that does so first, or run in one process with --workers 1."
            )
        if self.source is None:
            raise UserError(
                f"Model {self.name} cannot be sent to another process, since it does not say where its weights "
                "come from: load it with load_model, or run in one process with --workers 1."
            )
        asked = self.template, self.temperature
        files = self.fingerprint, self.tokenizer_hash
        return _again, (self.source, self.name, files, *asked)

    @property
    def hf(self) -> Any:
        """Hugging Face's model for the next forward pass, as fast as the hooks that are active now allow.

        With fused attention while hooks see the residual stream between blocks (`resid_pre`, `resid_post`)
        or nothing; with all of the bridge's hook points once any other is hooked.
        """
        return self.plain.twin if self.plain.suffices() else self.bridge.original_model

    @property
    def numbers(self) -> str:
        """What is computed with: the weights' fingerprint, and their format if that is not float32."""
        whole = self.dtype == torch.float32
        return self.fingerprint if whole else f"{self.fingerprint} in {self.dtype}"

    @property
    def dtype(self) -> torch.dtype:
        """The format of the weights' numbers."""
        return next(self.bridge.original_model.parameters()).dtype

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return self.bridge.cfg.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.bridge.cfg.d_model

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the first of them where these lie on several devices."""
        return next(self.bridge.original_model.parameters()).device

    @cached_property
    def boundary(self) -> Bool[Tensor, " d_vocab"]:
        """Tokens that end a sentence, so that the next token may start a segment."""
        ends = [
            bool(_SENTENCE_END.search(self.tokenizer.decode([token])))
            for token in range(len(self.tokenizer))
        ]
        mask = torch.zeros(self.bridge.cfg.d_vocab, dtype=torch.bool)
        mask[: len(ends)] = torch.tensor(ends)[: len(mask)]
        return mask

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a text: the tokenizer's own first, then the others that chat models have."""
        found = (self.tokenizer.eos_token_id, *self.more_ends)
        return tuple(dict.fromkeys(token for token in found if token is not None))

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 over vocabulary and chat template: directions travel only between equal ones."""
        parts = [sorted(self.tokenizer.get_vocab().items()), self.tokenizer.chat_template]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def check_layer(self, layer: int) -> int:
        """Return `layer`; raises `UserError` where the model has no such layer."""
        if not 0 <= layer < self.n_layers:
            raise UserError(
                f"Layer {layer} is out of range: {self.name} has layers 0 to {self.n_layers - 1}."
            )
        return layer

    def check_direction(self, what: str, source: str, width: int, **stated: str | None) -> None:
        """Raise `UserError` unless a direction belongs here, by its width and by what is `stated` of its model.

        `stated` are attributes of the model (`tokenizer_hash`, `fingerprint`); None is not compared.
        """
        own = {"d_model": self.d_model} | {name: getattr(self, name) for name in stated}
        for name, given in ({"d_model": width} | stated).items():
            if given is not None and given != own[name]:
                theirs, mine = (str(value)[:16] for value in (given, own[name]))
                raise UserError(
                    f"{what} was made for {source} with {name} {theirs}, but {self.name} has {name} {mine}: use "
                    "it in its own model, or one with the same width, vocabulary and chat template."
                )

    @contextmanager
    def framed(self, frame: Frame):
        """Tell interventions which rows and positions the forward pass inside is about."""
        previous, self.frame = self.frame, frame
        try:
            yield
        finally:
            self.frame = previous


def load_model(
    spec: str | Path,
    name: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    device_map: DeviceMap | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Load a causal language model as a raw-mode `TransformerBridge`.

    `spec` is a Hugging Face checkpoint folder, a folder with a PEFT adapter (merged into its base), a GGUF
    file (dequantized), or the id of a model on the hub, at `revision`. Nothing is downloaded for a path,
    and no remote code is run. A GPU is used where there is one. Numbers have the format `dtype`: by default
    float32 on a CPU, and the checkpoint's own on a GPU. With a `device_map` (`"auto"`, or a device for each
    part) a model lies on several GPUs. Raises `UserError` where there is no such model, or where it cannot lie so.
    """
    if device is not None and device_map is not None:
        raise UserError(
            f"Device {device!r} and device map {device_map!r} were given: leave one of the two out."
        )
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    parts = list(device_map.values()) if isinstance(device_map, dict) else [device_map or place]
    if lacking := _lacking(parts):
        seen = torch.cuda.device_count() or "none"
        raise UserError(
            f"{lacking[0]!r} asks for a GPU, and PyTorch sees {seen} here: leave it out, or give cpu."
        )
    try:
        torch.empty(1, device="cpu" if device_map is not None else place)
    except Exception as error:  # it does not know this device, was not built for it, or finds none
        raise UserError(
            f"PyTorch has no device {place!r} here ({first_line(error).split('. ')[0]}): give cpu, cuda or "
            "cuda:NUMBER."
        ) from error
    if dtype is None and (not torch.cuda.is_available() or {*map(str, parts)} == {"cpu"}):
        dtype = torch.float32
    source, revision = split_revision(spec, revision)
    found = open_checkpoint(source, dtype or "auto", revision, device_map)
    weights = found.weights if device_map is not None else found.weights.to(place)
    weights.requires_grad_(False).eval()
    twin = twin_of(weights)
    try:
        bridge = TransformerBridge.boot_transformers(
            source, hf_model=weights, tokenizer=found.tokenizer
        )
    except Exception as error:  # there are no rules for what it raises
        raise UserError(
            f"TransformerLens cannot read {source!r}, a {type(weights).__name__} ({first_line(error)}): choose a "
            "model of an architecture that it knows."
        ) from error
    return Model(
        name or Path(spec).name.removesuffix(".gguf"),
        bridge,
        found.tokenizer,
        found.fingerprint,
        Plain(twin, bridge),
        source=Source(
            str(Path(source).resolve()) if Path(source).exists() else source,
            device,
            revision,
            tuple(device_map.items()) if isinstance(device_map, dict) else device_map,
            weights.dtype,
        ),
        more_ends=_stated_ends(weights.generation_config),
    )


def _lacking(parts: Sequence[object]) -> list[str]:
    """GPUs among the places of a model's parts that PyTorch does not see here."""
    named = [f"cuda:{part}" if isinstance(part, int) else str(part) for part in parts]
    gpus = [re.fullmatch(r"cuda(?::(\d+))?", name) for name in named]
    return [gpu[0] for gpu in gpus if gpu and int(gpu[1] or 0) >= torch.cuda.device_count()]


def _stated_ends(generation: Any) -> tuple[int, ...]:
    """End tokens that a checkpoint names; not the one that transformers fills in where none is named."""
    stated = getattr(generation, "eos_token_id", None)
    if isinstance(stated, list):
        return tuple(stated)
    if isinstance(stated, int) and not generation._from_model_config:
        return (stated,)
    return ()


@lru_cache(maxsize=2)  # a pair's; each is a copy of the weights, and another template makes another
def _again(
    source: Source, name: str, files: tuple[str, str], template: str, temperature: float
) -> Model:
    """The model of another process, loaded here."""
    where = dict(source.device_map) if isinstance(source.device_map, tuple) else source.device_map
    model = load_model(source.spec, name, source.device, source.revision, where, source.dtype)
    for what, own, asked in zip(
        ("weights", "tokens"), (model.fingerprint, model.tokenizer_hash), files, strict=True
    ):
        if own != asked:
            raise UserError(
                f"{source.spec!r} holds other {what} here ({own[:16]}) than where the run was started "
                f"({asked[:16]}): put the same files there on every machine."
            )
    model.template, model.temperature = template, temperature
    return model


def chat_template(model: Model) -> str:
    """What a problem stands in where a user asks it in a chat, or the problem alone for a model without chats."""
    if not model.tokenizer.chat_template:
        return PROBLEM
    asked = [{"role": "user", "content": PROBLEM}]
    try:
        found = model.tokenizer.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program
        raise UserError(
            f"The chat template of {model.name} fails ({first_line(error)}): give another by --template."
        ) from error
    if PROBLEM not in found:
        raise UserError(
            f"The chat template of {model.name} leaves out what is asked: give another by --template."
        )
    return found


def left_pad(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Stack token sequences with padding on the left; returns ids and the mask of real tokens."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (width - len(s)) + list(s) for s in sequences])
    lengths = torch.tensor([len(s) for s in sequences])
    real = torch.arange(width) >= (width - lengths)[:, None]
    return ids.to(device), real.to(device)


def positions_of(real: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Position ids that count real tokens only."""
    return (real.long().cumsum(1) - 1).clamp_min(0)


def inputs_of(ids: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]) -> dict[str, Tensor]:
    """Arguments of one forward pass over left-padded texts (`left_pad`)."""
    return {"input_ids": ids, "attention_mask": real.long(), "position_ids": positions_of(real)}


def frame_of(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    real: Bool[Tensor, "batch pos"],
    first: Int[Tensor, " batch"],
) -> Frame:
    """What interventions see of whole texts, in rows as they are given.

    `first` is the position at which the first segment is decided: the last prompt token, which counts whatever
    it is, as in generation.
    """
    beyond = torch.arange(ids.shape[1], device=ids.device) - first.to(ids.device)[:, None]
    ends = model.boundary.to(ids.device)[ids]
    starts = real & ((beyond == 0) | (ends & (beyond > 0)))
    return Frame(torch.arange(len(ids), device=ids.device), real, starts)


def widened(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32, or in float64 where they are: half precision is for what a model computes, not for its use."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mean_norm(resid: Float[Tensor, "*n d_model"]) -> float:
    """Mean L2 norm of residual vectors: the unit in which doses are given."""
    return float(resid.norm(dim=-1).mean())
