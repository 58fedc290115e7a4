"""Traces from elsewhere (vLLM, an API): JSON lines of text, made traces of a model here."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from interp.behaviors import segment
from interp.errors import UserError
from interp.jsonl import Row, read_rows
from interp.models import Model
from interp.tasks import Task
from interp.traces import graded, prompt_tokens
from interp.types import Problem, Trace

_ROW = "expected an object with 'text' and 'problem_id' or 'prompt'"


def import_traces(model: Model, path: Path, task: Task) -> list[Trace]:
    """Traces of held-out problems, in the file's order, with `model`'s tokens and the task's grade.

    A line has `text`, the completion alone, and says its problem by `problem_id` or by `prompt`, the problem's
    own words. With both, `prompt` is what the model was asked instead, the problem's words and more: an
    instruction, say, but no chat template (`prompt_tokens` knows the model's). Optional: `model` (default:
    `model.name`), `sample` (default: counted from 0 for each problem and model) and `stopped` (default true;
    false for a text that was cut off, which is never correct).

    Text is tokenized as generation would have it: the prompt by `prompt_tokens`, the completion without special
    tokens, an end-of-sequence token after it where it stopped. Raises `UserError`, with file and line, for a row
    that is anything else, an unknown problem, a sample that comes twice, and a text that the tokenizer does not
    give back exactly or cannot cut into sentences.
    """
    problems = {p.id: p for p in task.problems()}
    by_prompt = {p.prompt: p for p in problems.values()}
    traces, counts, seen = [], Counter[tuple[str, str]](), set()
    for row in read_rows(path, _ROW):
        problem, prompt = _problem(row, task.name, problems, by_prompt)
        name = row.name("model", model.name)
        sample = row.count("sample", counts[problem.id, name])
        counts[problem.id, name] += 1
        if (problem.id, name, sample) in seen:
            raise row.fault(
                f"repeats sample {sample} of {problem.id!r} by {name!r}",
                "expected another number for each sample of a problem",
            )
        seen.add((problem.id, name, sample))
        traces.append(_trace(model, row, task, problem, prompt, name, sample))
    if not traces:
        raise UserError(f"{str(path)!r} holds no traces: expected at least one JSON line.")
    return traces


def _problem(
    row: Row, task: str, problems: dict[str, Problem], by_prompt: dict[str, Problem]
) -> tuple[Problem, str]:
    """The problem that a line is about, and the prompt that was read."""
    wanted = f"expected one of the {len(problems)} held-out problems of {task}"
    if "problem_id" not in row.fields:
        prompt = row.text("prompt")
        if prompt not in by_prompt:
            raise row.fault(f"has the unknown prompt {prompt!r:.60}", wanted)
        return by_prompt[prompt], prompt
    name = row.text("problem_id")
    if name not in problems:
        raise row.fault(f"has the unknown problem_id {name!r:.60}", wanted)
    problem = problems[name]
    prompt = row.text("prompt", problem.prompt)
    if problem.prompt not in prompt:
        raise row.fault(
            f"has a prompt without the words of {name!r}", f"expected {problem.prompt!r:.60} in it"
        )
    return problem, prompt


def _trace(
    model: Model, row: Row, task: Task, problem: Problem, prompt: str, name: str, sample: int
) -> Trace:
    text, stopped = row.text("text"), row.flag("stopped", True)
    if stopped and not model.ends:
        raise UserError(f"The tokenizer of {model.name} has no end-of-sequence token: give it one.")
    tokens = list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    back = model.tokenizer.decode(tokens) if tokens else ""
    if back != text:
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), None)
        at = min(len(text), len(back)) if at is None else at
        raise row.fault(
            f"has a text that the tokenizer of {model.name} gives back otherwise, from character {at} on "
            f"({text[at : at + 20]!r} becomes {back[at : at + 20]!r})",
            "expected text that the model itself could have written, or its own model",
        )
    if set(model.ends) & set(tokens) or not (tokens or stopped):
        given = (
            "has an end-of-sequence token inside 'text'"
            if tokens
            else "has no text and never stopped"
        )
        raise row.fault(given, "expected the completion alone, without special tokens")
    if stopped:
        tokens.append(model.ends[0])
    found = graded(model, problem, prompt_tokens(model, prompt), tokens, task.grade, True, sample)
    trace = replace(found, model=name, prompt=prompt)
    _check_segments(model, row, trace)
    return trace


def _check_segments(model: Model, row: Row, trace: Trace) -> None:
    """Sentences must tile the completion's tokens, and their texts its text (but for spaces between them)."""
    segments = segment(model, trace)
    edges = [trace.n_prompt, *(s.end for s in segments)]
    tiled = [s.start for s in segments] == edges[:-1] and edges[-1] == len(
        trace.tokens
    ) - trace.stopped
    if not tiled or "".join("".join(s.text for s in segments).split()) != "".join(
        trace.text.split()
    ):
        raise row.fault(
            f"has a text that cannot be cut into sentences of whole tokens of {model.name}",
            "expected sentences that begin and end with a token",
        )
