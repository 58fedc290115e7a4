"""Answers as text: without what only typesets them, and as exact numbers."""

import re
from fractions import Fraction

_WRAPS = (
    re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}"),
    re.compile(r"\$\$?([^$]*)\$\$?"),
    re.compile(r"\\\(((?:(?!\\\)).)*)\\\)", re.DOTALL),
    re.compile(r"\\\[((?:(?!\\\]).)*)\\\]", re.DOTALL),
    re.compile(r"\*\*((?:(?!\*\*).)*)\*\*", re.DOTALL),
    re.compile(r"__((?:(?!__).)*)__", re.DOTALL),
    re.compile(r"`([^`]*)`"),
)
_REPLACED = (
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\\!|\{,\}(?=[0-9])"), lambda m: "," if m[0] == "{,}" else ""),
    (re.compile(r"(?<!\\)\\[,;: ]|\\quad(?![A-Za-z])|[~\u00a0\u202f]"), " "),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"\\%"), "%"),
)
_TEXT = re.compile(
    r"(?<!\\)\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}"
)

_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
_UNIT = r"(?:[A-Za-z]{2,20}\.?(?:\^?\{?[23]\}?|[\u00b2\u00b3])?(?:/[A-Za-z]{1,20})?)"
_CLOSED = re.compile(
    rf"(?P<sign>[-+]?) ?[$\u20ac\u00a3]? ?(?P<inner>-?)"
    rf"(?:(?P<top>{_DECIMAL})(?: ?/ ?(?P<bottom>[0-9]+))?"
    r"|\\frac\{?(?P<up>-?[0-9]+)\}?\{(?P<low>[0-9]+)\}|\\frac(?P<a>[0-9])(?P<b>[0-9]))"
    rf"(?: ?%| ?\u00b0| ?\^\{{?\\circ\}}?)?(?P<unit>(?: {_UNIT}){{0,4}})"
)
_UNIT_AT_END = re.compile(
    rf"\s?\\(?:text|textrm|mathrm|mbox)\s?\{{( ?{_UNIT}(?: {_UNIT}){{0,3}} ?)\}}(?:\^\{{?[23]\}}?)?$"
)
# Words after a number that make it another number, or none at all.
_NO_UNIT = re.compile(
    r"\b(?:and|or|to|not|no|plus|minus|times|over|hundred|thousand|million|billion|trillion|dozens?|score"
    r"|half|halves|thirds?|quarters?|fourths?|fifths?|tenths?|hundredths?|pi|mod|more|less|than|at|least"
    r"|most|nor|but|is|isn|wrong|maybe|if|log|sin|cos|tan|ln|exp|sqrt|factorial|squared|cubed)\b",
    re.IGNORECASE,
)


def tidy(answer: str) -> str:
    """The answer without dollar signs, bold, spacing commands or a full stop around it."""
    before, answer = None, answer.replace("\\$", "")
    while before != answer:
        before, answer = answer, answer.strip().removesuffix(".").strip()
        for wrap in _WRAPS:
            if match := wrap.fullmatch(answer):
                answer = match[1]
    for pattern, new in _REPLACED:
        answer = pattern.sub(new, answer)
    return answer.strip()


def plain(answer: str) -> str:
    """The tidy answer, with `\\text{...}` and its like opened."""
    return re.sub(r"\s+", " ", _TEXT.sub(r" \1", tidy(answer))).strip()


def without_unit(answer: str) -> str:
    """The tidy answer without a `\\text{unit}` at its end."""
    answer = tidy(answer)
    match = _UNIT_AT_END.search(answer)
    return answer if match is None or _NO_UNIT.search(match[1]) else answer[: match.start()]


def number(answer: str) -> Fraction | None:
    """The exact value of a numeral, and None for anything that would have to be worked out first.

    A numeral is a whole number (1,000), a decimal or a fraction of whole numbers (3/4, `\\frac{3}{4}`), with a
    sign, a currency sign, % or a unit (10% is 10: what a percentage is of, the question says).
    """
    match = _CLOSED.fullmatch(plain(answer))
    if match is None or _NO_UNIT.search(match["unit"]) or (match["sign"] and match["inner"]):
        return None
    top = match["top"] or match["up"] or match["a"]
    bottom = match["bottom"] or match["low"] or match["b"] or "1"
    if max(len(top), len(bottom)) > 1000 or int(bottom) == 0:
        return None
    value = Fraction(top.replace(",", "")) / int(bottom)
    return -value if "-" in (match["sign"], match["inner"]) else value
