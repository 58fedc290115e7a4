"""What a trace states as its answer."""

import re
from itertools import islice

MAX_ANSWER = 10_000
"""The most characters of one stated answer."""
MAX_STATED = 8
"""The most boxes or tags: a trace with more states no answer."""

_ENDLESS = "\\boxed{"  # what opens and does not close is an answer, and a wrong one
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,5}\{")
_ANSWER_IS = re.compile(
    r"\banswer[*_ ]{0,4}(?:is\b:?|:)(?:[*_]{1,2}(?=\s))?|^####", re.IGNORECASE | re.MULTILINE
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_SENTENCES = re.compile(r"(?<=[.!?])(?=\s|$)|(?<=\n)")  # with their ends
_DIGITS = re.compile(r"[0-9]")
_NUMBER = re.compile(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?")
_GOES_ON = re.compile(
    r"\s?(?:hundred|thousand|million|billion|trillion|dozen|half|and an? |[-+*/^!x\u00d7])",
    re.IGNORECASE,
)
_HEDGE = re.compile(r"\b(?:not|or|either|neither|nor|if|maybe|perhaps)\b|n't\b|\?", re.IGNORECASE)


def stated_answers(text: str, numeric: bool = False) -> tuple[str, ...]:
    """The answers that a trace states, each one once; it is right only where all of them are.

    What counts is what follows the last `</think>`, and there the first of these that occurs:

    1. every `\\boxed{...}` and every `<answer>...</answer>` (more than `MAX_STATED` of them state nothing);
    2. the sentence after the last "answer is", "answer:" or "####" at the start of a line;
    3. if the answer is `numeric`, the last sentence that holds a number, where that is its only number (or
       the only one after its last "="), and nothing in it hedges.

    In 2 and 3 one place of a trace counts, so a list of candidates gains nothing over one guess; and where the
    answer is numeric, no other number may follow.
    """
    text = text.rpartition("</think>")[2]
    marked = _boxes(text) + _tags(text)
    if marked:
        found = tuple(dict.fromkeys(filter(None, (m.strip() for m in marked))))
        return found if len(marked) <= MAX_STATED else ()
    said = [match.end() for match in _ANSWER_IS.finditer(text)]
    if said:
        return _sentence_after(text[said[-1] :], numeric)
    return _last_number(text) if numeric else ()


def _boxes(text: str) -> list[str]:
    return [_to_brace(text, m.end()) for m in islice(_BOX.finditer(text), MAX_STATED + 1)]


def _to_brace(text: str, start: int) -> str:
    """What is in braces that opened before `start`."""
    depth, at = 1, start
    while at < min(len(text), start + MAX_ANSWER):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
        at += 2 if text[at] == "\\" else 1
    return _ENDLESS


def _tags(text: str) -> list[str]:
    found, at = [], text.find("<answer>")
    while at >= 0 and len(found) <= MAX_STATED:
        start = at + len("<answer>")
        end = text.find("</answer>", start)
        if end < 0:
            return [*found, _ENDLESS]
        inside = text[start:end].strip()
        boxed = _BOX.match(inside) and inside.endswith("}")  # a box counts already
        found.append("" if boxed else inside[: MAX_ANSWER + 1])
        at = text.find("<answer>", end)
    return found


def _sentence_after(text: str, numeric: bool) -> tuple[str, ...]:
    answer, *after = _SENTENCE_END.split(text.lstrip(), maxsplit=1)
    others = set(_NUMBER.findall("".join(after))) - set(_NUMBER.findall(answer)) if numeric else ()
    return () if not answer.strip() or others else (answer.strip()[: MAX_ANSWER + 1],)


def _last_number(text: str) -> tuple[str, ...]:
    text = text.rstrip()[-MAX_ANSWER:]
    sentences = [s for s in _SENTENCES.split(text) if _DIGITS.search(s)]
    if not sentences or _HEDGE.search(sentences[-1]):
        return ()
    last, bare = sentences[-1], len(sentences) > 1 and not re.search(r"[A-Za-z=]", sentences[-1])
    side = last.rpartition("=")[2]
    numbers = list(_NUMBER.finditer(side))
    if bare or len(numbers) != 1 or _GOES_ON.match(side, numbers[0].end()):
        return ()
    return (numbers[0][0],)
