"""A base model and the thinking model trained from it, checked to be comparable."""

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from interp.errors import UserError, unknown_name
from interp.loading import DeviceMap, looks_remote
from interp.models import PROBLEM, Model, chat_template, load_model
from interp.presets import BUILT_IN, MODELS, PRESETS, split_name
from interp.runs import read_json
from interp.traces import prompt_tokens
from interp.vocabulary import Vocabulary, shared_vocabulary

SHARED_PAD = 0
"""Padding where both models read one batch: never seen, but each has to have a row for it, and a pad token
added to one tokenizer may lie beyond the other's embedding."""


BASE_TEMPLATE = (
    "Task: Answer the question below. Explain your reasoning step by step.\n\n\n\n"
    "Question:\n{problem}\n\nStep by step answer:\n"
)
"""How a base is asked that does not know the tokens of its thinking model's chats (Venhoff et al. 2510.07364)."""


@dataclass(frozen=True)
class Pair:
    """Two models with one architecture and one vocabulary, or one model that stands alone.

    `prompt` asks the base to take care, in words that it knows: what `pair.json` in the pair's folder says.
    """

    name: str
    base: Model
    thinking: Model
    prompt: str = "Think step by step."

    @property
    def alone(self) -> bool:
        """Whether both are one model."""
        return self.base is self.thinking

    @property
    def names(self) -> tuple[str, ...]:
        """Which models there are: `base` and `thinking`, or `base` alone."""
        return MODELS[:1] if self.alone else MODELS

    @property
    def alike(self) -> bool:
        """Whether both models are asked in the same tokens of one vocabulary."""
        how = [
            (m.template, m.tokenizer_hash, m.bridge.cfg.d_vocab) for m in (self.base, self.thinking)
        ]
        return how[0] == how[1]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens that mean the same to both models."""
        return shared_vocabulary(self.base, self.thinking)

    @property
    def fingerprints(self) -> list[str]:
        """What results depend on of the models: weights, tokenizer, and how they are asked."""
        return [
            f"{m.numbers}/{m.tokenizer_hash}/{m.ends}/{m.template}/{m.temperature}"
            for m in (self.base, self.thinking)
        ]

    def described(self) -> dict:
        """How each model was loaded and asked, as JSON."""
        return {name: describe(getattr(self, name)) for name in self.names}


def check_pair(base: Model, thinking: Model) -> None:
    """Raise `UserError` unless both models have the same width and depth, and mean the same by a token.

    Tokens that one of them has in addition do no harm (`shared_vocabulary`).
    """
    for what, left, right in (
        ("d_model", base.d_model, thinking.d_model),
        ("n_layers", base.n_layers, thinking.n_layers),
    ):
        if left != right:
            raise UserError(
                f"Base {base.name} has {what} {left} but thinking model {thinking.name} has {right}: "
                "a pair needs equal shapes; choose a thinking model trained from this base."
            )
    shared_vocabulary(base, thinking)


def weights_folder(name: str) -> Path:
    """Where a built-in pair's checkpoints are; raises `UserError` for an unknown pair."""
    if name not in BUILT_IN:
        raise unknown_name("pair", name, BUILT_IN)
    return Path(str(files("interp.organisms"))) / "weights" / name


def direction_file(given: Path) -> Path:
    """The file itself, or the directions that are shipped with the built-in pair of that name.

    Raises `UserError` where the pair has none, or no pair has that name.
    """
    if given.exists() or given.suffix or len(given.parts) > 1:
        return given
    shipped = weights_folder(str(given)) / "directions.safetensors"
    if not shipped.is_file():
        raise UserError(
            f"No directions are shipped with {given}: find them with whenlens run --pair {given}, and "
            "give the directions.safetensors of that run."
        )
    return shipped


def model_place(spec: str, which: str | None = None) -> tuple[str, str]:
    """Where one model is, as `load_model` takes it, and its name.

    `spec` is anything that `load_model` takes, a preset, or `PAIR/base` or `PAIR/thinking` of a built-in pair. Of
    a pair it is the model `which`; raises `UserError` where that is not said, and where nothing is called so.
    """
    return _one_of(_places(spec), spec, which)


def _one_of(places: tuple[str, str | None, str], spec: str, which: str | None) -> tuple[str, str]:
    base, thinking, _ = places
    if thinking is None:
        return base, _model_name(spec)
    if which is None:
        raise UserError(
            f"{spec!r} is a pair, expected one model: give {spec}/base or {spec}/thinking."
        )
    return (base if which == "base" else thinking), f"{_model_name(spec)}/{which}"


def load_pair(
    base: str,
    thinking: str | None = None,
    device: str | None = None,
    template: str | None = None,
    temperature: float = 1.0,
    device_map: DeviceMap | None = None,
) -> Pair:
    """Load a base model and the thinking model trained from it.

    Both are anything that `load_model` takes, on `device` or spread by `device_map` as there; `base` is also the
    name of one of `PRESETS` or of a built-in pair, or a folder that holds `base` and `thinking` checkpoints, and
    beside another `thinking` the base of these. (A folder with the name of a built-in pair or a preset is
    reached as `./NAME`.) Both models are asked in `template`, in which `{problem}` stands for the problem: by
    default the thinking model's chat template, if it has one, and the base in `BASE_TEMPLATE` where it does not
    know all tokens of that. Sampled traces have `temperature`.
    Raises `UserError` for models that are no pair, and for a template or a temperature that cannot be.
    """
    if template is not None and PROBLEM not in template:
        raise UserError(
            f"Template {template!r} has no place for the problem: write {PROBLEM} where it stands."
        )
    if not 0 < temperature < math.inf:
        raise UserError(
            f"Temperature {temperature} was given, expected a finite number above 0: try 0.7 or 1."
        )
    own = _places(base)
    places = [_one_of(own, base, "base")]
    if thinking is not None:
        places.append(model_place(thinking, "thinking"))
    elif own[1] is not None:
        places.append(_one_of(own, base, "thinking"))
    if len({called for _, called in places}) < len(places):
        places = [
            (at, f"{called}/{part}") for (at, called), part in zip(places, MODELS, strict=True)
        ]
    loaded = [load_model(at, called, device, device_map=device_map) for at, called in places]
    first, second = loaded[0], loaded[-1]
    if second is not first:
        check_pair(first, second)
    for model in (first, second):
        model.template = chat_template(second) if template is None else template
        model.temperature = temperature
    name = base if split_name(base)[1] else Path(base).name
    pair = Pair(name, first, second, own[2])
    if template is None and not pair.alone:
        asked = prompt_tokens(second, PROBLEM)
        if pair.vocabulary.n_known(asked) < len(asked):
            first.template = BASE_TEMPLATE
    return pair


def _places(name: str) -> tuple[str, str | None, str]:
    """Where the models of a pair are, and the pair's prompt; one place for a model that stands alone."""
    pair, which = split_name(name)
    if which is not None:
        own = _places(pair)
        one = own[MODELS.index(which)]
        if one is None:
            raise UserError(f"{pair} stands alone and has no {which} model: give {pair}.")
        return one, None, own[2]
    folder = Path(name)
    if name in BUILT_IN:
        folder = weights_folder(name)
    elif name in PRESETS:
        return PRESETS[name].where(), PRESETS[name].thinking, Pair.prompt
    elif not (folder / "base").is_dir() or _is_one(folder):
        if folder.exists() or looks_remote(name):
            return name, None, Pair.prompt
        if len(folder.parts) > 1:
            raise UserError(
                f"There is nothing at {name!r}: expected a checkpoint folder, a folder that holds base/ and "
                "thinking/, or a GGUF file; correct the path."
            )
        raise unknown_name("model or pair", name, (*BUILT_IN, *PRESETS))
    if not (folder / "thinking").is_dir():
        raise UserError(
            f"The pair in {name!r} has base/ and lacks thinking/: put the thinking model there, or give "
            f"{str(folder / 'base')!r} for the base alone."
        )
    words = folder / "pair.json"
    prompt = read_json(words).get("prompt") if words.is_file() else None
    return str(folder / "base"), str(folder / "thinking"), str(prompt or Pair.prompt)


def _is_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _model_name(spec: str) -> str:
    """What a model or a pair is called: an id of the hub whole, of a path its last part."""
    return spec if looks_remote(spec) else Path(spec).name.removesuffix(".gguf")


def describe(model: Model) -> dict:
    """Weights, numbers, place and way of asking of a model, as JSON."""
    after = model.template.rsplit(PROBLEM, 1)[-1]
    opened, closed = after.rfind("<think>"), after.rfind("</think>")
    mode = "not opened" if opened < 0 else "opened by the template"
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "tokenizer_hash": model.tokenizer_hash,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "template": model.template,
        "thinking_mode": "closed by the template" if closed > opened else mode,
    }
