"""What the readers of other people's files share: the limits, the refusal and what a file held."""

import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from interp.errors import UserError

MAX_BYTES = 64 * 2**20
"""The largest file, and the most that all its members may unpack to."""
MAX_ELEMENTS = MAX_BYTES // 4
"""The most numbers in one file: 64 MiB in float32."""
MAX_HEADER = 2**20
"""The most bytes that describe the numbers: names, shapes, provenance."""


@dataclass(frozen=True)
class Content:
    """What one file held: its tensors by name, as stored, and what it says about them."""

    format: str
    tensors: dict[str, Tensor]
    stated: dict[str, str]


def shown(value: object, length: int = 80) -> str:
    """A value as an error shows it: on one line, escaped, and never long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 10]}...{text[-7:]}"


def unusable(path: Path, given: str, wanted: str) -> UserError:
    """Build the error for a file: its name, what it gives, and what it should give instead."""
    return UserError(f"{shown(str(path), 300)} {given}: {wanted}.")


@contextmanager
def parsing(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on hostile bytes into one `UserError`, and hush its warnings."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UserError:
        raise
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error))[:120].rstrip(" .:") or "no reason given"
        raise unusable(
            path,
            f"is not a readable {kind} file ({type(error).__name__}: {shown(reason, 140)})",
            "expected a whole file in that format; copy or save it again",
        ) from None


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file of at most `MAX_BYTES`; raises `UserError` for anything else."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise unusable(
                path, "is a folder or a device", "expected a file of directions; name one inside it"
            )
        if status.st_size > MAX_BYTES:
            raise unusable(
                path,
                f"holds {status.st_size} bytes",
                f"expected at most {MAX_BYTES}; save the directions alone, without the model",
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        raise unusable(
            path, "does not exist", "expected a file of directions; check the path"
        ) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise unusable(
            path,
            f"cannot be opened ({reason})",
            "expected a file that may be read; check the path and its permissions",
        ) from None


def wrong_dtype(path: Path, name: str, dtype: str) -> UserError:
    """Build the error for numbers that are no plain floats."""
    return unusable(
        path,
        f"holds {dtype} in {shown(name)}",
        "expected float32, float64, float16 or bfloat16; convert it to float32",
    )
