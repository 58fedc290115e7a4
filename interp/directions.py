"""Directions with their provenance, and the safetensors file that carries them."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from interp.errors import UserError, first_line, unknown_name
from interp.models import Model
from probes import MeanDifference


@dataclass(frozen=True)
class Direction:
    """A vector in the residual stream of one model, raw (never silently unit norm).

    `unit` is the mean norm of the residual stream at `before` positions of its layer: the unit of a dose.
    """

    vector: Float[Tensor, " d_model"]
    behavior: str
    layer: int
    read: str
    contrast: str
    unit: float
    model: str
    model_fingerprint: str
    tokenizer_hash: str
    hook: str
    fit_split: str
    dtype: str = "float32"

    def check_model(self, model: Model) -> None:
        """Raise `UserError` unless the model has the width and the tokenizer of the one it was fitted in."""
        what = f"The direction for {self.behavior}"
        model.check_direction(
            what, self.model, len(self.vector), tokenizer_hash=self.tokenizer_hash
        )


@dataclass(frozen=True)
class DirectionSet:
    """Directions by `(behavior, model name)`."""

    directions: dict[tuple[str, str], Direction] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str] | str) -> Direction:
        """The direction of one behavior in one model; raises `UserError` for one name alone, and for unknown ones
        with the nearest.
        """
        if isinstance(key, str):
            raise UserError(
                f"Direction {key!r} was asked for, expected a behavior and a model: give two names, one of "
                f"{', '.join(map(str, self.directions)) or 'none: there are no directions'}."
            )
        if key not in self.directions:
            raise unknown_name("direction", "/".join(key), ["/".join(k) for k in self.directions])
        return self.directions[key]

    def __iter__(self) -> Iterator[Direction]:
        return iter(self.directions.values())

    def __len__(self) -> int:
        return len(self.directions)

    def save(self, path: Path) -> None:
        """Write one safetensors file; the header holds each direction's provenance as JSON."""
        tensors, header = {}, {}
        for (behavior, model), direction in self.directions.items():
            key = f"{behavior}@{model}"
            tensors[key] = direction.vector.contiguous()
            header[key] = json.dumps({k: v for k, v in asdict(direction).items() if k != "vector"})
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(save(tensors, metadata=header or None))
        os.replace(partial, path)  # whole or absent, and readable for whom other files are

    @classmethod
    def load(cls, path: Path) -> "DirectionSet":
        """Read what `save` wrote; raises `UserError` for a file that is no safetensors file, and for a
        behavior that is not of letters and hyphens: behaviors name folders.
        """
        try:
            with safe_open(path, "pt") as file:
                stated = sorted((file.metadata() or {}).items())
                found = [Direction(file.get_tensor(k), **json.loads(v)) for k, v in stated]
        except (SafetensorError, TypeError, ValueError) as error:  # no such file, or another header
            raise UserError(
                f"{str(path)!r} is no safetensors file of directions ({first_line(error)}): give the "
                "directions.safetensors of a run."
            ) from error
        for direction in found:
            if not re.fullmatch(r"[A-Za-z]+(-[A-Za-z]+)*", str(direction.behavior)):
                raise UserError(
                    f"{str(path)!r} holds a direction of {direction.behavior!r:.60}: expected a behavior of "
                    "letters and hyphens; correct the file."
                )
        return cls.of(found)

    @classmethod
    def of(cls, directions: Iterable[Direction]) -> "DirectionSet":
        """Index directions by behavior and model; raises `UserError` for two with the same names."""
        found: dict[tuple[str, str], Direction] = {}
        for d in directions:
            if found.setdefault((d.behavior, d.model), d) is not d:
                raise UserError(
                    f"There are two directions for {d.behavior} in {d.model}: give their models different names."
                )
        return cls(found)


def mean_difference(
    x: Float[np.ndarray, "segment d_model"],
    y: np.ndarray,
    contrast: str = "rest",
    previous: np.ndarray | None = None,
) -> Float[np.ndarray, " d_model"]:
    """Difference of means of one behavior against `rest`, `overall`, or `matched`.

    `matched` compares only segments that follow the same kind of segment (`previous`), which takes
    out of the direction what merely says where in the trace one is.
    """
    if contrast == "matched":
        return MeanDifference().fit(x, y, strata=previous).direction_
    return MeanDifference(contrast).fit(x, y).direction_


def as_tensor(vector: np.ndarray) -> Tensor:
    """A float32 tensor of a numpy vector."""
    return torch.from_numpy(np.ascontiguousarray(vector)).float()
