"""The one error a user's mistake may raise: one clear sentence, exit code 2 on the command line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the caller gave cannot be used; the message says what, why and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not one of `known`, with the nearest names."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.4)
    some = ", ".join(known) if len(known) <= 20 else f"{len(known)}, such as {', '.join(known[:5])}"
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {some}."
    return UserError(f"Unknown {kind} {given!r}: {hint}")
