"""JSON lines from anywhere: read one by one, never a line too long, every fault told by its line."""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError

MAX_LINE = 10 * 2**20
"""The most bytes of one line."""
MAX_NAME = 200
"""The most characters of a name or an id."""

Scalar = str | int | bool


@dataclass(frozen=True)
class Row:
    """One line's JSON object, and where it stands."""

    path: Path
    number: int
    fields: dict[str, Any]

    def fault(self, given: str, wanted: str) -> UserError:
        """Build the error for this line: what it gives, and what it should give instead."""
        return UserError(
            f"Line {self.number} of {str(self.path)!r} {given}: {wanted}; correct this line or "
            "leave it out."
        )

    def _get(self, name: str, kind: type[Scalar], words: str, default: Scalar | None) -> Scalar:
        value = self.fields.get(name, default)
        if type(value) is not kind:  # a bool is an int, too
            given = (
                f"gives {value!r:.60} for {name!r}" if name in self.fields else f"has no {name!r}"
            )
            raise self.fault(given, f"expected {words}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text field; raises `UserError` where it is missing, no text, or holds half a character."""
        value = str(self._get(name, str, "a text", default))
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise self.fault(
                f"has half of a surrogate pair in {name!r}", "expected text that UTF-8 can hold"
            )
        return value

    def name(self, name: str, default: str | None = None) -> str:
        """A short text that can name something: printable, and no path that leads upward."""
        value = self.text(name, default)
        upward = value.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", value)
        if upward or not value.strip() or len(value) > MAX_NAME or not value.isprintable():
            raise self.fault(
                f"gives {value!r:.60} for {name!r}",
                f"expected 1 to {MAX_NAME} printable characters that begin with no slash and have no '..' "
                "between slashes",
            )
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        value = int(self._get(name, int, "a whole number from 0 on", default))
        if value < 0:
            raise self.fault(f"gives {value} for {name!r}", "expected a whole number from 0 on")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return bool(self._get(name, bool, "true or false", default))


def read_rows(path: Path, expected: str) -> Iterator[Row]:
    """The lines of a file as JSON objects; blank lines are skipped, and no more than one is in memory.

    `expected` ends the error's sentence: what each line should be. Raises `UserError` for a file that cannot
    be read and for a line that is no object, no UTF-8, or longer than `MAX_LINE` bytes.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}: give a file of JSON lines.")
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                row = Row(path, number, {})
                if len(line) > MAX_LINE:
                    raise row.fault(
                        f"is longer than {MAX_LINE // 2**20} MiB",
                        "expected shorter ones",
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield Row(path, number, _object(row, line, expected))
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({error.strerror or error}): check its permissions."
        ) from None


def _object(row: Row, line: bytes, expected: str) -> dict[str, Any]:
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise row.fault(f"is no JSON ({reason:.90})", expected) from None
    if not isinstance(found, dict):
        raise row.fault(f"is {type(found).__name__} {found!r:.40}", expected)
    return found
