"""whenlens: find, test and show the directions behind a thinking model's behaviors.

Names load when they are first used, so `import interp` costs nothing and `interp.organisms` runs
without transformer_lens.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.activation_writer import ActivationWriter
    from interp.activations import collect
    from interp.atlas import Atlas
    from interp.behaviors import annotate, segment_all
    from interp.config import Config, DivergenceConfig, HybridConfig
    from interp.directions import Direction, DirectionSet, mean_difference
    from interp.divergence.experiment import run_divergence
    from interp.engine import open_engine
    from interp.errors import UserError
    from interp.export import Export, export_direction, prove
    from interp.hybrid.experiment import run_hybrid
    from interp.interventions import Ablate, Add, MeanAblate, forward, intervene
    from interp.models import Model, load_model
    from interp.pairs import Pair, load_pair
    from interp.pipeline import run_main_job
    from interp.shards import Shards
    from interp.tasks import Countdown, Task, load_task
    from interp.traces import generate
    from interp.traces_io import import_traces
    from interp.types import BEHAVIORS, Problem, Segment, Trace
    from interp.vllm_traces import sample_with_vllm
else:
    # Hidden from type checkers: they would accept any attribute of a module with a `__getattr__`.
    _MODULES = {
        "activation_writer": ("ActivationWriter",),
        "activations": ("collect",),
        "atlas": ("Atlas",),
        "behaviors": ("annotate", "segment_all"),
        "config": ("Config", "DivergenceConfig", "HybridConfig"),
        "directions": ("Direction", "DirectionSet", "mean_difference"),
        "divergence.experiment": ("run_divergence",),
        "engine": ("open_engine",),
        "errors": ("UserError",),
        "export": ("Export", "export_direction", "prove"),
        "hybrid.experiment": ("run_hybrid",),
        "interventions": ("Ablate", "Add", "MeanAblate", "forward", "intervene"),
        "models": ("Model", "load_model"),
        "pairs": ("Pair", "load_pair"),
        "pipeline": ("run_main_job",),
        "shards": ("Shards",),
        "tasks": ("Countdown", "Task", "load_task"),
        "traces": ("generate",),
        "traces_io": ("import_traces",),
        "types": ("BEHAVIORS", "Problem", "Segment", "Trace"),
        "vllm_traces": ("sample_with_vllm",),
    }
    _HOME = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # the next use does not come here
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "BEHAVIORS",
    "Ablate",
    "ActivationWriter",
    "Add",
    "Atlas",
    "Config",
    "Countdown",
    "Direction",
    "DirectionSet",
    "DivergenceConfig",
    "Export",
    "HybridConfig",
    "MeanAblate",
    "Model",
    "Pair",
    "Problem",
    "Segment",
    "Shards",
    "Task",
    "Trace",
    "UserError",
    "annotate",
    "collect",
    "export_direction",
    "forward",
    "generate",
    "import_traces",
    "intervene",
    "load_model",
    "load_pair",
    "load_task",
    "mean_difference",
    "open_engine",
    "prove",
    "run_divergence",
    "run_hybrid",
    "run_main_job",
    "sample_with_vllm",
    "segment_all",
]
