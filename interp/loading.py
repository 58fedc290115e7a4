"""Where weights come from: a checkpoint folder, an adapter on one, a GGUF file, or the hub."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from interp.errors import UserError, first_line
from interp.gguf_files import parsed_once
from interp.runs import read_json

DeviceMap = str | dict[str, str | int]
"""Where a model's parts go: `auto`, `balanced`, or a device for each part by name (that of Accelerate)."""
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
REVISION = re.compile(rf"{HUB_ID.pattern}@[\w./-]+")
SPARE_ROWS = 1024
"""Rows without a token that any model may have; a large one may have a tenth of its own."""
BUFFERS = re.compile(r"(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)$")
"""Tensors of older checkpoints that are no weights: they follow from config.json, and models compute them."""
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""What is fetched of a repository: weights as safetensors alone, and no code."""
LOCAL: dict = {"local_files_only": True, "trust_remote_code": False}
"""How transformers reads files: from the disk alone, and without asking whether to run a checkpoint's code."""
EXPECTED = (
    "expected a folder with config.json, *.safetensors and tokenizer files, a folder with a PEFT adapter, a "
    ".gguf file, or the id of a model on the hub (ORGANIZATION/NAME or ORGANIZATION/NAME@REVISION); check the "
    "path"
)


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model of Hugging Face's, its tokenizer, and a name for exactly these weights."""

    weights: Any
    tokenizer: Any
    fingerprint: str


def open_checkpoint(
    spec: str | Path,
    dtype: torch.dtype | str,
    revision: str | None,
    device_map: DeviceMap | None = None,
) -> Checkpoint:
    """Read a model; raises `UserError` where there is none, or none that transformers can read.

    No code from a checkpoint is run, and nothing is downloaded unless `spec` is no path and looks like
    the id of a model on the hub whose files are not in the hub's cache.
    """
    spec, revision = split_revision(spec, revision)
    path = Path(spec)
    if path.suffix == ".gguf" and path.is_file():
        return _read(path, dtype, _digest([path]), device_map, gguf_file=path.name)
    if not path.exists() and HUB_ID.fullmatch(str(spec)):
        path = _fetched(str(spec), revision)
    elif revision is not None:
        raise UserError(
            f"Revision {revision!r} was given with the path {str(spec)!r}: only models on the hub have one."
        )
    if (path / "adapter_config.json").is_file():
        return _adapted(path, dtype, device_map)
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise UserError(f"{str(spec)!r} holds no checkpoint: {EXPECTED}.")
    _check_index(path)
    return _read(path, dtype, fingerprint(path), device_map)


def _check_index(folder: Path) -> None:
    """Raise `UserError` where the index of a checkpoint in parts names anything but safetensors files here.

    Other indexes, as that of pickled parts which many repositories keep beside, are not read by anyone.
    """
    here = [file.name for file in folder.glob("*.safetensors")]
    for index in folder.glob("*.safetensors.index.json"):
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict) or (strange := [n for n in named.values() if n not in here]):
            what = f"names {strange[0]!r:.60}" if isinstance(named, dict) else "has no weight_map"
            raise UserError(
                f"{str(index)!r} {what}: expected the names of .safetensors files in the same folder; save the "
                "checkpoint again as safetensors."
            )


def looks_remote(spec: str) -> bool:
    """Whether this is the id of a model on the hub, perhaps with `@REVISION`, and no path."""
    known = HUB_ID.fullmatch(spec) or REVISION.fullmatch(spec)
    return known is not None and not Path(spec).exists()


def split_revision(spec: str | Path, revision: str | None) -> tuple[str, str | None]:
    """`ORGANIZATION/NAME` and the revision of `ORGANIZATION/NAME@REVISION`; anything else as it was given."""
    if revision is None and REVISION.fullmatch(str(spec)) and not Path(spec).exists():
        name, revision = str(spec).split("@")
        return name, revision
    return str(spec), revision


def _read(
    path: Path,
    dtype: torch.dtype | str,
    digest: str,
    device_map: DeviceMap | None,
    **options: str,
) -> Checkpoint:
    """The checkpoint in a folder, or the GGUF file that `options` name, with its numbers made whole."""
    folder = path.parent if options else path
    if options and find_spec("gguf") is None:
        raise UserError(
            f"{str(path)!r} is a GGUF file, and the package that reads these is not installed: pip install gguf."
        )
    try:
        with parsed_once() if options else nullcontext():
            config = AutoConfig.from_pretrained(folder, **LOCAL, **options)
            _check_config(path, config)
            tokenizer = AutoTokenizer.from_pretrained(folder, config=config, **LOCAL, **options)
            with no_progress_bar():
                found: Any = AutoModelForCausalLM.from_pretrained(
                    folder, config=config, dtype=dtype, use_safetensors=True, device_map=device_map,
                    output_loading_info=True, ignore_mismatched_sizes=True, **LOCAL, **options,
                )  # fmt: skip
        weights, info = found
    except UserError:
        raise
    except Exception as error:  # transformers raises almost anything for a damaged checkpoint
        where = "" if device_map is None else f" under the device map {device_map!r}"
        advice = (
            "the file is cut short or damaged: fetch or write it again" if options else EXPECTED
        )
        raise UserError(
            f"{str(path)!r} holds no checkpoint that transformers can read{where} ({first_line(error)}): "
            f"{advice}."
        ) from error
    _check_weights(path, weights, info)
    _check_tokens(path, weights, tokenizer)
    if not weights.config.architectures:  # a GGUF file does not say
        weights.config.architectures = [type(weights).__name__]
    if options:  # dequantized: saved, it is a checkpoint like others
        weights.config.__dict__.pop("quantization_config", None)
        weights.hf_quantizer = None
        weights.name_or_path = str(path)
    return Checkpoint(weights, tokenizer, digest)


def _check_weights(path: Path, weights: Any, info: dict[str, Any]) -> None:
    """Raise `UserError` unless the file has the weights that config.json asks for, all of them and no others.

    `info` is what transformers tells of loading them; it fills what is missing or has another shape with random
    numbers, and leaves out what it has no place for.
    """
    advice = "save or fetch the checkpoint again, with the config.json that belongs to it"
    if wrong := sorted(info["mismatched_keys"]):
        name, found, expected = wrong[0]
        raise UserError(
            f"{str(path)!r} has {len(wrong)} weights of another shape than its config.json asks for, as {name}, "
            f"which is {list(found)} in the file and {list(expected)} by config.json: {advice}."
        )
    if lacking := sorted(info["missing_keys"]):
        raise UserError(
            f"{str(path)!r} lacks {len(lacking)} of the weights that its config.json asks for, as {lacking[0]}: "
            f"{advice}."
        )
    own = weights.state_dict().keys()  # those that are tied to others have their names here too
    strange = [n for n in info["unexpected_keys"] if n not in own and not BUFFERS.search(n)]
    if strange:
        raise UserError(
            f"{str(path)!r} has {len(strange)} weights that a model of its config.json has no place for, as "
            f"{min(strange)}: {advice}."
        )


def _check_config(path: Path, config: Any) -> None:
    """Raise `UserError` for a model that reads more than text, and for weights that are not where they should be.

    For the first, TransformerLens would install what it needs; the second could be anything.
    """
    senses = [name for name in ("vision_config", "audio_config") if getattr(config, name, None)]
    if senses:
        raise UserError(
            f"{str(path)!r} reads images or sound too (its config.json has {senses[0]}): expected a language "
            "model; save its text model alone."
        )
    if getattr(config, "transformers_weights", None) is not None:
        raise UserError(
            f"The config.json of {str(path)!r} sends elsewhere for weights (transformers_weights): expected "
            "model.safetensors, or an index of its parts; save the checkpoint again as safetensors."
        )


def _check_tokens(path: Path, weights: Any, tokenizer: Any) -> None:
    """Raise `UserError` for a tokenizer with tokens that the weights do not embed, or too few for its weights.

    Added tokens without a row do no harm unless a text has them, which `prompt_tokens` sees. Rows without a
    token round a vocabulary's size up, which takes few.
    """
    rows = weights.get_input_embeddings().weight.shape[0]
    spare = rows - len(tokenizer)
    if tokenizer.vocab_size > rows or spare > max(SPARE_ROWS, rows // 10):
        raise UserError(
            f"The tokenizer of {str(path)!r} has {len(tokenizer)} tokens, but its weights embed {rows}: put the "
            "tokenizer there that belongs to these weights."
        )


def _adapted(folder: Path, dtype: torch.dtype | str, device_map: DeviceMap | None) -> Checkpoint:
    """A PEFT adapter, merged into its base."""
    named = _base_of(folder)
    under, above = Path(named), {folder.resolve()}
    while (under / "adapter_config.json").is_file():
        if under.resolve() in above:
            raise UserError(
                f"The adapter in {str(folder)!r} stands on itself: name a whole model as "
                "base_model_name_or_path in adapter_config.json."
            )
        above.add(under.resolve())
        under = Path(_base_of(under))
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise UserError(
            f"{str(folder)!r} holds an adapter, and peft is not installed: pip install peft."
        ) from error
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"The adapter in {str(folder)!r} has no adapter_model.safetensors, and no other format is read: save "
            "it again with safe_serialization=True."
        )
    revision = read_json(folder / "adapter_config.json").get("revision")  # of the base
    at = str(revision) if revision and looks_remote(named) and "@" not in named else None
    base = open_checkpoint(named, dtype, at, device_map)
    try:
        adapted: Any = PeftModel.from_pretrained(base.weights, folder)  # pyright: ignore[reportCallIssue]
        # peft would ask the hub about it.
        adapted.peft_config["default"].base_model_name_or_path = None
        with safe_open(weights, "pt") as file:
            strange = set(file.keys()) ^ set(get_peft_model_state_dict(adapted))
        if strange:
            raise ValueError(f"{min(strange)} is in one of them alone")
        merged = adapted.merge_and_unload()
    except Exception as error:
        raise UserError(
            f"The adapter in {str(folder)!r} does not fit its base {named!r} ({first_line(error)}): check that "
            "base_model_name_or_path names the model that it was trained on."
        ) from error
    own = (folder / "tokenizer_config.json").is_file()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL) if own else base.tokenizer
    except Exception as error:
        raise UserError(
            f"The tokenizer in {str(folder)!r} cannot be read ({first_line(error)}): save it again, or take its "
            "files away to use that of the base."
        ) from error
    _check_tokens(folder, merged, tokenizer)
    merged.name_or_path = str(folder)  # it is its base no more
    files = [*folder.glob("*.safetensors"), folder / "adapter_config.json"]
    return Checkpoint(merged, tokenizer, _digest(files, base.fingerprint))


def _base_of(folder: Path) -> str:
    """What an adapter's configuration calls its base."""
    named = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise UserError(
            f"The adapter in {str(folder)!r} does not name its base: set base_model_name_or_path in "
            "adapter_config.json."
        )
    return named


def _fetched(name: str, revision: str | None) -> Path:
    """The folder of a model of the hub, from the cache; the hub is asked for what is not there, and only then.

    So a model stays at the version that was fetched first; a newer one has another revision, which is asked for.
    """
    from huggingface_hub import snapshot_download

    wanted: dict = {"revision": revision, "allow_patterns": list(HUB_FILES)}
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **wanted))
    except Exception:  # nothing, or not all that this revision is known to have
        folder = None
    if folder is not None and _is_whole(folder):
        return folder
    try:
        return Path(snapshot_download(name, **wanted))
    except Exception as error:  # not found, no network, no permission
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name!r}{at} is neither a path nor a model that the hub gives ({first_line(error)}): "
            f"{EXPECTED}, and the network."
        ) from error


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the hub's cache has weights and a tokenizer; others fetch some of the files alone."""
    here = {file.name for file in folder.iterdir()}
    if "tokenizer_config.json" not in here or not here & {
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
    }:
        return False
    if "adapter_config.json" in here:
        return "adapter_model.safetensors" in here
    parts = {"model.safetensors"}
    if "model.safetensors.index.json" in here and "model.safetensors" not in here:
        named = read_json(folder / "model.safetensors.index.json").get("weight_map")
        parts = {str(part) for part in named.values()} if isinstance(named, dict) else set()
    return bool(parts) and {"config.json", *parts} <= here


def fingerprint(folder: Path) -> str:
    """A short SHA-256 of a checkpoint folder's weights, their index if there is one, and configuration."""
    index = folder.glob("*.safetensors.index.json")
    return _digest([*folder.glob("*.safetensors"), *index, folder / "config.json"])


def _digest(files: Iterable[Path], start: str = "") -> str:
    """A short SHA-256 of some files' names and contents."""
    digest = hashlib.sha256(start.encode())
    for file in sorted(files, key=lambda f: (f.suffix == ".json", f.name)):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            while block := content.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:16]


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing bars of its own; some of them ask for nobody's leave."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
