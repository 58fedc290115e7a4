"""What the stages of a run share: models, problems, budget, and where things are kept."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from interp.config import DivergenceConfig, HybridConfig, config_json, shortage, split_problems
from interp.engine import HERE, Engine
from interp.errors import UserError
from interp.pairs import Pair
from interp.progress import Progress
from interp.runs import Run
from interp.traces import prompt_tokens
from interp.types import Problem

C = TypeVar("C", HybridConfig, DivergenceConfig)


class Setup(Generic[C]):
    """A pair, a configuration, a run's folder and where its work is done.

    `kind` is what the run is: a folder of another kind or configuration is refused. Raises `UserError`
    where there is one model alone, and where prompts exceed the budget.
    """

    def __init__(
        self,
        kind: str,
        pair: Pair,
        config: C,
        out: Path,
        progress: Progress,
        engine: Engine = HERE,
    ) -> None:
        if pair.alone:
            raise UserError(
                f"{pair.base.name} stands alone, and a {kind} needs the thinking model trained from it too: give "
                "--thinking, or use whenlens run."
            )
        self.pair, self.config, self.progress, self.engine = pair, config, progress, engine
        progress.say(shortage(config))
        longest = max(
            len(prompt_tokens(model, p.prompt))
            for s in self.splits.values()
            for p in s
            for model in (pair.base, pair.thinking)
        )
        self.max_new_tokens = config.max_tokens - longest
        if self.max_new_tokens < 1:
            raise UserError(
                f"The budget of {config.max_tokens} tokens leaves nothing after the longest prompt "
                f"({longest} tokens): raise --max-tokens."
            )
        self.run = Run(out, {kind: config_json(config)})

    @cached_property
    def splits(self) -> dict[str, list[Problem]]:
        """Problems to fit, to select and to report."""
        return split_problems(self.config)

    def stage(self, name: str, work: Callable[[Path], None], *inputs: object) -> Path:
        """A stage that depends on the configuration, both models, and what else is named (JSON)."""
        return self.run.stage(name, [self.pair.fingerprints, *inputs], work)
