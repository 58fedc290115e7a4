"""What the parts of a benchmark share: costs measured in turn, and rows of the table that they end in."""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from interp.models import Model


@dataclass(frozen=True)
class Row:
    """One cost as a ratio to another, or an exponent, with the bar that it must keep."""

    cost: str
    against: str
    values: Sequence[float]
    bar: str
    note: str = ""

    @property
    def middle(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median keeps the bar ("<= x" or ">= x")."""
        sign, limit = self.bar.split()
        return self.middle <= float(limit) if sign == "<=" else self.middle >= float(limit)


@dataclass(frozen=True)
class Setting:
    """What all parts share: the model, Hugging Face's own copy of it, and the options."""

    model: Model
    plain: Any
    options: argparse.Namespace
    console: Console

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall time of `work`, finished on the device too."""
        wait = torch.cuda.synchronize if self.model.device.type == "cuda" else lambda: None
        wait()
        begin = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - begin

    def in_turn(
        self, works: Mapping[str, Callable[[], object]], repeats: int | None = None
    ) -> dict:
        """Seconds of each work, by turns: name to one value a turn.

        Every second turn runs backwards, so that a machine that slows down or speeds up favors none.
        """
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(repeats or self.options.repeats):
            for name in list(works)[:: -1 if turn % 2 else 1]:
                found[name].append(self.seconds(works[name]))
        for name, values in found.items():
            self.console.print(f"  {name}: {statistics.median(values):.2f} s", highlight=False)
        return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Ratio of each turn."""
    return [a / b for a, b in zip(over, under, strict=True)]


def machine(device: str) -> str:
    """Chip, threads and versions."""
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
        chip = names[0] if names else platform.machine()
        chip += f", {torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{chip}; torch {torch.__version__}, transformers {transformers.__version__}"
