"""Whether a stated answer is the right one: the same text, the same number, or the same expression."""

import re
from functools import lru_cache
from importlib.util import find_spec

from interp.errors import UserError
from interp.tasks.answers import stated_answers
from interp.tasks.grading import ask
from interp.tasks.numbers import number, plain, tidy, without_unit

MAX_EXPRESSION = 300
"""The most characters of an expression that is parsed."""
SECONDS = 5

_WORDS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{4,}|\\text\w*\s?\{[^{}]*[^\W\d_]{2}[^{}]*\}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\*?\}")
_LETTERS = re.compile(r"\(?[^\W\d_]([^\W\d_]|[ .,'])*\)?")
_LETTER = re.compile(r"\(([A-Za-z])\)")
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_ONE_SIDE = re.compile(
    r"\\(?:approx|simeq|sim|cong|doteq|neq?|not|lor|vee|land|wedge|qquad|to|mid|equiv|propto"
    r"|(?:long|Long)?(?:left|right|Left|Right)+arrow|implies|iff|dots|ldots|cdots|because|therefore"
    r"|pm|mp|text\w*|mbox|mathrm|\\)(?![A-Za-z])|[\u2248\u2260\u2192\u21d2|?;&#@\"\n]"
)


def needs_math_verify(gold: str) -> bool:
    """Whether answers to be compared with `gold` are expressions: neither numerals nor words."""
    return number(gold) is None and not _is_words(gold)


def _is_words(gold: str) -> bool:
    """Whether an answer is compared as text: it is made of letters, or has a word in it."""
    return bool(_WORDS.search(_ENVIRONMENT.sub("", tidy(gold))) or _LETTERS.fullmatch(plain(gold)))


def check_math_verify(golds: list[str]) -> None:
    """Raise `UserError` where some answer is an expression and math-verify is not installed."""
    if find_spec("math_verify") is None and (found := next(filter(needs_math_verify, golds), None)):
        raise UserError(
            f"Answers such as {found!r:.60} are compared by math-verify, which is not installed: "
            "pip install 'whenlens[tasks]'."
        )


def states(text: str, gold: str, prompt: str = "") -> bool:
    """Whether a trace's text states the answer `gold`, and no other."""
    found = stated_answers(text, number(gold) is not None)
    return bool(found) and all(is_right(answer, gold, prompt) for answer in found)


def is_right(answer: str, gold: str, prompt: str = "") -> bool:
    """Whether a stated answer is the right one. An expression copied from the `prompt` is not.

    Numerals are compared exactly, as fractions, and an answer that is yet to be worked out (6 * 7) is none.
    Words are compared as text, without regard to case and spaces. Other expressions are compared by math-verify
    (Kydlíček, https://github.com/huggingface/Math-Verify), in a process that is given `SECONDS`; what is too
    long, too slow or ambiguous is wrong.
    """
    value, words = number(gold), _is_words(gold)
    if _compact(answer, words) == _compact(gold, words):
        return True
    if len(answer) > MAX_EXPRESSION or (words and value is None):
        return False
    if not _EQUALS.search(gold):
        answer = _EQUALS.split(answer)[-1]
        if _compact(answer) == _compact(gold):
            return True
    if _copied(answer, prompt):
        return False
    if value is not None:
        return number(answer) == value
    answer = without_unit(answer)
    return _is_whole(answer, gold) and _same_expression(without_unit(gold), answer)


def _compact(answer: str, words: bool = False) -> str:
    """An answer's text as it is compared with other text."""
    if words:
        return _LETTER.sub(r"\1", plain(answer)).casefold()
    found = re.sub(r"\\(?:cdot|times)(?![A-Za-z])|[\u00d7\u00b7]", "*", plain(answer))
    found = re.sub(r"\\div(?![A-Za-z])|\u00f7", "/", found).replace("**", "^").replace("$", "")
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", found)  # 4 2 is not 42


def _copied(answer: str, prompt: str) -> bool:
    """Whether an expression with something left to do stands in the question as it is."""
    found, asked = (
        re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", _compact(x)) for x in (answer, prompt)
    )
    left = number(answer) is None or re.search(r"[0-9]/[0-9]", found)
    return len(found) > 1 and bool(left) and found in asked


def _is_whole(answer: str, gold: str) -> bool:
    """Whether math-verify reads all of an answer: of some signs it takes one side, of braces what they close."""
    level = 0
    for brace in re.findall(r"(?<!\\)[{}]", answer):
        level += 1 if brace == "{" else -1
        if level < 0:
            return False
    return level == 0 and not set(_ONE_SIDE.findall(answer)) - set(_ONE_SIDE.findall(gold))


@lru_cache(maxsize=4096)
def _same_expression(gold: str, answer: str) -> bool:
    return ask("same", SECONDS, gold=gold, answer=answer) is True
