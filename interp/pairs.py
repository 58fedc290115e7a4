"""A base model and the thinking model trained from it, checked to be comparable."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from interp.errors import UserError, unknown_name
from interp.loading import DeviceMap, looks_remote
from interp.models import PROBLEM, Model, chat_template, load_model
from interp.presets import BUILT_IN, PRESETS
from interp.runs import read_json
from interp.vocabulary import shared_vocabulary

SHARED_PAD = 0
"""Padding where both models read one batch: never seen, but each has to have a row for it, and a pad token
added to one tokenizer may lie beyond the other's embedding."""


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
        return ("base",) if self.alone else ("base", "thinking")

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
    name of one of `PRESETS`, and alone that of a built-in pair, a folder that holds `base` and `thinking`
    checkpoints, or a model that stands alone. (A folder with the name of a built-in pair or a preset is reached
    as `./NAME`.) Both models are asked in `template`, in which `{problem}` stands for the problem: by default the
    thinking model's chat template, if it has one.
    Raises `UserError` for models that are no pair.
    """
    if template is not None and PROBLEM not in template:
        raise UserError(
            f"Template {template!r} has no place for the problem: write {PROBLEM} where it stands."
        )
    name, prompt, called = base, Pair.prompt, [_model_name(base)]
    if thinking is None:
        base, thinking, prompt = _places(base)
    else:
        called.append(_model_name(thinking))
        base = PRESETS[base].where() if base in PRESETS else base
    if thinking is not None and len(set(called)) == 1:
        called = [f"{called[0]}/base", f"{called[0]}/thinking"]
    first = load_model(base, called[0], device, device_map=device_map)
    second = first
    if thinking is not None:
        second = load_model(thinking, called[1], device, device_map=device_map)
        check_pair(first, second)
    for model in (first, second):
        model.template = chat_template(second) if template is None else template
        model.temperature = temperature
    return Pair(Path(name).name, first, second, prompt)


def _places(name: str) -> tuple[str, str | None, str]:
    """Where the models of a pair are, and the pair's prompt; one place for a model that stands alone."""
    folder = Path(name)
    if name in BUILT_IN:
        folder = weights_folder(name)
    elif name in PRESETS:
        return PRESETS[name].where(), PRESETS[name].thinking, Pair.prompt
    elif not (folder / "base").is_dir():
        if folder.exists() or looks_remote(name):
            return name, None, Pair.prompt
        if len(folder.parts) > 1:
            raise UserError(
                f"There is nothing at {name!r}: expected a checkpoint folder, a folder that holds base/ and "
                "thinking/, or a GGUF file; correct the path."
            )
        raise unknown_name("model or pair", name, (*BUILT_IN, *PRESETS))
    words = folder / "pair.json"
    prompt = read_json(words).get("prompt") if words.is_file() else None
    return str(folder / "base"), str(folder / "thinking"), str(prompt or Pair.prompt)


def _model_name(spec: str) -> str:
    """What a model or a pair is called: an id of the hub whole, of a path its last part."""
    return spec if looks_remote(spec) else Path(spec).name.removesuffix(".gguf")


def describe(model: Model) -> dict:
    """Weights, numbers, place and way of asking of a model, as JSON."""
    opens = model.template.rsplit(PROBLEM, 1)[-1]
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "tokenizer_hash": model.tokenizer_hash,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "template": model.template,
        "thinking_mode": "opened by the template" if "<think>" in opens else "not opened",
    }
