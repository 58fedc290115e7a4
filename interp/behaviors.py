"""Cut a trace into sentences with exact token spans, and name the behavior of each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from interp.config import Config
from interp.errors import UserError, unknown_name
from interp.models import Model
from interp.types import BEHAVIORS, Segment, Trace

_SAYS_NOTHING = re.compile(r"\W*(\d{0,2}|[a-z]\W*)\W*", re.IGNORECASE)


def segment(model: Model, trace: Trace) -> list[Segment]:
    """Tile the completion with sentences; each span ends with a sentence-ending token.

    What says nothing by itself, as an empty line or the number of a list's item, belongs to the sentence
    before it. Spans index `trace.tokens`; the end-of-sequence token belongs to none, and a last sentence that
    was cut off is a segment too. `text` is the tokenizer's decoding of the span.
    """
    end = len(trace.tokens) - int(trace.stopped)
    segments, start = [], trace.n_prompt
    for pos in range(trace.n_prompt, end):
        if model.boundary[trace.tokens[pos]] or pos == end - 1:
            text = model.tokenizer.decode(trace.tokens[start : pos + 1])
            if segments and _SAYS_NOTHING.fullmatch(text):
                start = segments.pop().start
                text = model.tokenizer.decode(trace.tokens[start : pos + 1])
            segments.append(Segment(start, pos + 1, text))
            start = pos + 1
    return segments


@runtime_checkable
class Annotator(Protocol):
    """Names the behavior of each sentence of one trace; None where no behavior fits."""

    def __call__(self, sentences: Sequence[str]) -> Sequence[str | None]: ...


_N = r"\d+"
_GRAMMAR = {
    "initializing": rf"we need {_N} \.",
    "deduction": rf"{_N} [-+*] {_N} = {_N} , {_N} [-+*] {_N} = {_N} \.",
    "subgoal-setting": rf"aim for {_N} \.",
    "verification": rf"check {_N} is (not )?{_N} \.",
    "backtracking": r"no , go back \.",
    "uncertainty-estimation": r"hmm , not sure \.",
    "adding-knowledge": rf"note {_N} is (even|odd) \.",
    "final-answer": rf"answer {_N} [-+*] {_N} [-+*] {_N} \.",
}


def annotate_grammar(sentences: Sequence[str]) -> list[str | None]:
    """Label sentences of the built-in corpora exactly, by their full form."""
    return [_first_match(sentence.strip(), _GRAMMAR_PATTERNS) for sentence in sentences]


_KEYWORDS = {
    "backtracking": r"wait|hold on|let me (try|start|go back)|go back|try (again|another|a different)"
    r"|on second thought|scratch that|that'?s (not right|wrong)|that doesn'?t work|alternatively",
    "verification": r"check|verif(y|ies|ied|ication)|double-?check|confirm|make sure|plug(ging)? .* back"
    r"|does that (work|match)|let me see if",
    "uncertainty-estimation": r"hmm+|maybe|perhaps|not (entirely )?(sure|certain)|i'?m unsure|might be"
    r"|i think|possibly|it'?s possible|unclear",
    "subgoal-setting": r"first,? (i|we|let)|(the )?next step|step \d+|aim (for|to)|goal|to (do|get|find) this"
    r"|(i|we)('ll| will| need to| should) (first|then)|let'?s (first|start|break)",
    "example-testing": r"for example|for instance|suppose|let'?s (try|test|take|consider)|test(ing)? (with|this)"
    r"|consider (a|the) case|e\.g\.",
    "adding-knowledge": r"recall|remember|by definition|known (that|fact)|formula|theorem|is called"
    r"|as we know|in general",
    "final-answer": r"answer( is)?\b|in conclusion|\\boxed",
    "initializing": r"^(okay|ok|alright|so),? (let|the|i|we)|the (problem|question) (is|asks|says|gives)"
    r"|(i|we) (need|have|are given|want) to|we need",
    "deduction": r"so|therefore|thus|hence|then|because|since|which (means|gives)|this means|=",
}


def annotate_keywords(sentences: Sequence[str]) -> list[str | None]:
    """Label English sentences by keyword, in a fixed order of precedence.

    The keywords gather what the field counts as reflection markers: "wait"/"hmm"/"alternatively"
    (Ward et al. 2507.12638; SEAL, Chen et al. 2504.07986) and the sentence types of Venhoff et al.
    2506.18167. A rough instrument: measure its agreement with a better annotator by
    `agreement` before you trust it.
    """
    return [_first_match(sentence.strip(), _KEYWORD_PATTERNS) for sentence in sentences]


_GRAMMAR_PATTERNS = {k: re.compile(rf"^{v}$", re.ASCII) for k, v in _GRAMMAR.items()}
_KEYWORD_PATTERNS = {
    k: re.compile(rf"(?:(?<!\w)|(?=\W))(?:{v})(?:(?!\w)|(?<==))", re.IGNORECASE)
    for k, v in _KEYWORDS.items()
}


def _first_match(sentence: str, patterns: dict[str, re.Pattern[str]]) -> str | None:
    return next((name for name, p in patterns.items() if p.search(sentence)), None)


_FORM = re.compile(r"[^\W\d][^.?!]*([.?!])\W*\d{0,2}\W*$")
QUESTION, STATEMENT = "question", "statement"


def annotate_form(sentences: Sequence[str]) -> list[str | None]:
    """Label sentences by their form: a question ends in a question mark, a statement in another one."""
    found: list[str | None] = []
    for sentence in sentences:
        end = _FORM.search(sentence)
        found.append(None if end is None else QUESTION if end[1] == "?" else STATEMENT)
    return found


ANNOTATORS: dict[str, Annotator] = {
    "grammar": annotate_grammar,
    "keywords": annotate_keywords,
    "form": annotate_form,
}
LABELS = {"form": (QUESTION, STATEMENT)}
"""What an annotator tells apart, where that is not the taxonomy of behaviors."""


def labels_of(annotator: str | Annotator) -> tuple[str, ...]:
    """The labels that an annotator may give; raises `UserError` with the nearest names for an unknown one."""
    if isinstance(annotator, str) and annotator not in ANNOTATORS:
        raise unknown_name("annotator", annotator, ANNOTATORS)
    return LABELS.get(annotator, BEHAVIORS) if isinstance(annotator, str) else BEHAVIORS


def asked_behaviors(config: Config) -> tuple[str, ...]:
    """The behaviors that a configuration names, or all of its annotator's labels where it names none.

    Raises `UserError` with the nearest names for one that the annotator does not give.
    """
    known = labels_of(config.annotator)
    for name in config.behaviors or ():
        if name not in known:
            raise unknown_name("behavior", name, known)
    return config.behaviors or known


def annotate(segments: Sequence[Segment], annotator: str | Annotator) -> list[Segment]:
    """Label the segments of one trace by a named annotator or by any callable.

    A callable gets all sentences of the trace and returns one behavior (or None) for each, so an
    LLM judge sees the context. Raises `UserError` where it returns anything else.
    """
    known = labels_of(annotator)
    if isinstance(annotator, str):
        annotator = ANNOTATORS[annotator]
    labels = list(annotator([segment.text for segment in segments]))
    if len(labels) != len(segments):
        raise UserError(
            f"The annotator returned {len(labels)} labels for {len(segments)} sentences: "
            "return exactly one behavior or None for each sentence."
        )
    for label in labels:
        if label is not None and label not in known:
            raise unknown_name("behavior", str(label), known)
    return [replace(s, behavior=label) for s, label in zip(segments, labels, strict=True)]


def segment_all(
    model: Model, traces: Sequence[Trace], annotator: str | Callable[..., Sequence[str | None]]
) -> list[list[Segment]]:
    """Segment and label every trace; raises `UserError` as `annotate` does."""
    labels_of(annotator)
    return [annotate(segment(model, trace), annotator) for trace in traces]


def agreement(first: Sequence[str | None], second: Sequence[str | None]) -> float:
    """Cohen's kappa between two annotators' labels of the same sentences (1 is perfect, 0 chance).

    Raises `UserError` where the two did not label equally many sentences.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(first) != len(second) or not first:
        raise UserError(
            f"Agreement needs two labels for each of at least one sentence, got {len(first)} and "
            f"{len(second)}: label the same sentences with both annotators."
        )
    if len({*first, *second}) == 1:
        return 1.0
    return float(cohen_kappa_score([str(x) for x in first], [str(x) for x in second]))
