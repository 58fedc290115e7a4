"""What a direction has to show, declared before it is measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from interp.errors import UserError, first_line, unknown_name

Thresholds = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Gate:
    """One gate: what was measured, what chance gives, and whether it holds.

    `passed` is None where it could not be measured, as `reason` says; `details` holds everything else.
    """

    name: str
    passed: bool | None
    reason: str
    estimate: float | None = None
    ci: Sequence[float | None] | None = None
    null: float | None = None
    details: dict | None = None

    def as_json(self) -> dict:
        """The gate as JSON; numpy's numbers become Python's."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def default_gates() -> Path:
    """The file with the gates that count unless others are given."""
    return Path(str(files("interp.validation"))) / "gates.yaml"


def read_gates(path: Path | None = None) -> Thresholds:
    """Thresholds by gate; a gate set to false is left out, one not named keeps its defaults.

    Raises `UserError` for a file that is no YAML mapping of known gates and thresholds to numbers.
    """
    known = yaml.safe_load(default_gates().read_text())
    if path is None:
        return known
    if not path.is_file():
        raise UserError(
            f"{str(path)!r} does not exist: expected a YAML file of gates, like {default_gates()}."
        )
    try:
        given = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{str(path)!r} is no YAML file ({first_line(error)}): see {default_gates()}."
        ) from error
    if not isinstance(given, dict):
        raise UserError(
            f"{str(path)!r} holds {type(given).__name__}, expected gates with their thresholds: copy "
            f"{default_gates()} and change it."
        )
    found = {name: dict(thresholds) for name, thresholds in known.items()}
    for gate, thresholds in given.items():
        if gate not in known:
            raise unknown_name("gate", str(gate), known)
        if thresholds is False:
            del found[gate]
            continue
        if not isinstance(thresholds, dict):
            raise UserError(
                f"Gate {gate} is {thresholds!r} in {str(path)!r}: expected false, or thresholds such as "
                f"{next(iter(known[gate]))}: {next(iter(known[gate].values()))}."
            )
        for name, value in thresholds.items():
            if name not in known[gate]:
                raise unknown_name(f"threshold of gate {gate}", str(name), known[gate])
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise UserError(
                    f"{gate}.{name} is {value!r} in {str(path)!r}: expected a finite number."
                )
            if (gate, name) == ("sufficiency", "min_effect") and value <= 0:
                raise UserError(
                    f"{gate}.{name} is {value!r} in {str(path)!r}: expected a number above 0, the least "
                    "effect that counts."
                )
            found[gate][name] = float(value)
    if not found:
        raise UserError(f"{str(path)!r} sets every gate to false: leave at least one.")
    return found
