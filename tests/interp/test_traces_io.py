"""Traces from elsewhere: what comes in as text is what generation would have given, or is named and refused."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interp.behaviors import segment
from interp.errors import UserError
from interp.jsonl import MAX_LINE
from interp.tasks import Countdown
from interp.traces import generate, prompt_tokens, read_traces, write_traces
from interp.traces_io import import_traces

TASK = Countdown()
PROBLEMS = list(TASK.problems()[::400])
RIGHT = "we need 36 . answer 3 * 8 + 12 ."


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def generated(sharp):
    traces = generate(sharp, PROBLEMS, TASK.grade, n_samples=8, max_new_tokens=60)
    end = sharp.tokenizer.eos_token
    kept = [t for t in traces if t.text and end not in t.text]
    assert {t.stopped for t in kept} == {True, False}
    return kept


@pytest.mark.parametrize("by", ["problem_id", "prompt"])
def test_generated_traces_come_back_from_their_text_alone(sharp, generated, tmp_path, by):
    rows = [
        {by: getattr(t, by), "text": t.text, "sample": t.sample, "stopped": t.stopped}
        for t in generated
    ]
    assert import_traces(sharp, write(tmp_path / "t.jsonl", *rows), TASK) == generated


def test_imported_traces_survive_our_own_file(sharp, generated, tmp_path):
    rows = [{"problem_id": t.problem_id, "text": t.text, "stopped": t.stopped} for t in generated]
    found = import_traces(sharp, write(tmp_path / "t.jsonl", *rows), TASK)
    write_traces(found, tmp_path / "own.jsonl")
    assert read_traces(tmp_path / "own.jsonl") == found


def test_samples_count_up_for_each_problem_and_model(sharp, tmp_path):
    a, b = (p.id for p in PROBLEMS[:2])
    text = "hmm , not sure ."
    order = [(a, "x"), (b, "x"), (a, "x"), (a, "y"), (b, None), (a, None), (a, "x")]
    rows = [
        {"problem_id": p, "text": text} | ({"model": model} if model else {}) for p, model in order
    ]
    found = import_traces(sharp, write(tmp_path / "t.jsonl", *rows), TASK)
    assert [(t.problem_id, t.model, t.sample) for t in found] == [
        (a, "x", 0), (b, "x", 0), (a, "x", 1), (a, "y", 0), (b, "sharp", 0), (a, "sharp", 0), (a, "x", 2),
    ]  # fmt: skip


def test_only_a_whole_right_text_is_correct(sharp, tmp_path):
    by_target = {(tuple(sorted(p.data["numbers"])), p.data["target"]): p for p in TASK.problems()}
    problem = by_target.get(((3, 8, 12), 36)) or next(iter(by_target.values()))
    a, b, c = problem.data["numbers"]
    answers = [f"answer {x} {o} {y} {p} {z} ." for o in "+-*" for p in "+-*"
               for x, y, z in ((a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a))]  # fmt: skip
    rows = [{"problem_id": problem.id, "text": text} for text in answers]
    found = import_traces(sharp, write(tmp_path / "t.jsonl", *rows), TASK)
    values = [
        eval(f"({x} {o} {y}) {p} {z}") for _, x, o, y, p, z, _ in (t.split() for t in answers)
    ]
    assert [t.correct for t in found] == [value == problem.data["target"] for value in values]
    assert any(t.correct for t in found)
    cut = [{**row, "stopped": False} for row in rows]
    assert not any(t.correct for t in import_traces(sharp, write(tmp_path / "c.jsonl", *cut), TASK))


def test_with_both_the_prompt_is_what_the_model_read(sharp, tmp_path):
    problem = PROBLEMS[0]
    longer = f"we need 3 . {problem.prompt}"
    row = {"problem_id": problem.id, "prompt": longer, "text": "hmm , not sure ."}
    (trace,) = import_traces(sharp, write(tmp_path / "t.jsonl", row), TASK)
    assert trace.prompt == longer
    assert list(trace.tokens[: trace.n_prompt]) == prompt_tokens(sharp, longer)
    with pytest.raises(UserError, match="prompt without the words"):
        import_traces(
            sharp, write(tmp_path / "t.jsonl", {**row, "prompt": PROBLEMS[1].prompt}), TASK
        )


GOOD = {"problem_id": PROBLEMS[0].id, "text": "hmm , not sure ."}
BROKEN = {
    "no text": ({"problem_id": GOOD["problem_id"]}, "has no 'text'"),
    "no problem": ({"text": "hmm ."}, "has no 'prompt'"),
    "an unknown id": ({**GOOD, "problem_id": "countdown:1-1-1:99"}, "unknown problem_id 'countdown:1-1-1:99'"),
    "a training problem": (
        {**GOOD, "problem_id": TASK.problems(held_out=False)[0].id},
        "unknown problem_id .* one of the 2050 held-out problems of countdown",
    ),
    "an unknown prompt": ({"prompt": "reach 1 with 1 1 1 .", "text": "hmm ."}, "unknown prompt 'reach 1 with"),
    "a number as text": ({**GOOD, "text": 7}, "'text': expected a text"),
    "an unknown word": ({**GOOD, "text": "hmm , not certain ."},
                        "from character 10 on .*'certain .' becomes '<unk> .'"),
    "other spaces": ({**GOOD, "text": "hmm ,  not sure ."}, "from character 6 on"),
    "a line break": ({**GOOD, "text": "hmm .\nnot sure ."}, "from character 5 on"),
    "more at the end": ({**GOOD, "text": "hmm . "}, "from character 5 on"),
    "its end inside": ({**GOOD, "text": "hmm . </s>"}, "end-of-sequence token inside"),
    "half a character": ({**GOOD, "text": "hmm \ud800"}, "surrogate"),
    "nothing that never stopped": ({**GOOD, "text": "", "stopped": False}, "no text and never stopped"),
    "a sample twice": ({**GOOD, "sample": 0}, "repeats sample 0"),
    "a sample below 0": ({**GOOD, "sample": -1}, "-1 for 'sample'"),
    "a half sample": ({**GOOD, "sample": 0.5}, "0.5 for 'sample'"),
    "a word for stopped": ({**GOOD, "stopped": "yes"}, "'stopped': expected true or false"),
    "a model that is a path": ({**GOOD, "model": "../../x"}, "'../../x' for 'model'"),
    "a model without a name": ({**GOOD, "model": ""}, "'' for 'model'"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_row_that_cannot_be_used_is_one_error_that_names_it(sharp, tmp_path, row, fault):
    path = write(tmp_path / "t.jsonl", GOOD, row)
    with pytest.raises(UserError, match=f"^Line 2 of .*t.jsonl' .*{fault}") as caught:
        import_traces(sharp, path, TASK)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_traces_are_refused(sharp, tmp_path):
    with pytest.raises(UserError, match="holds no traces"):
        import_traces(sharp, write(tmp_path / "t.jsonl"), TASK)
    with pytest.raises(UserError, match="There is no file"):
        import_traces(sharp, tmp_path / "absent.jsonl", TASK)
    (tmp_path / "t.jsonl").write_text("x" * (MAX_LINE + 1))
    with pytest.raises(UserError, match="Line 1 .* longer than 10 MiB"):
        import_traces(sharp, tmp_path / "t.jsonl", TASK)


def test_a_text_that_ended_at_once_is_a_trace_without_sentences(sharp, tmp_path):
    (trace,) = import_traces(sharp, write(tmp_path / "t.jsonl", {**GOOD, "text": ""}), TASK)
    assert trace.tokens[trace.n_prompt :] == (sharp.tokenizer.eos_token_id,)
    assert segment(sharp, trace) == [] and not trace.correct


def test_a_tokenizer_without_an_end_is_refused(sharp, tmp_path):
    endless = replace(sharp)
    endless.tokenizer = copy.deepcopy(sharp.tokenizer)
    endless.tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        import_traces(endless, write(tmp_path / "t.jsonl", GOOD), TASK)


@pytest.fixture(scope="module")
def byte_model(sharp):
    """A model whose tokenizer is a byte-level BPE, as those of the hub are."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "Wait, let me check. 3 * 8 = 24.\nThat is right!\n\nSo the answer is 36. " * 20
    backend.train_from_iterator([text], trainer)
    model = replace(sharp)
    model.__dict__.pop("boundary", None)
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    model.bridge = SimpleNamespace(cfg=SimpleNamespace(d_vocab=len(model.tokenizer)))
    return model


@given(
    st.text(
        st.characters(exclude_categories=["Cs"])
        | st.sampled_from(list(".!?\n \u00e9\u4e2d\U0001f600'\")")),
        max_size=80,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_of_a_byte_level_tokenizer_is_tiled_by_sentences(byte_model, tmp_path, text):
    row = {"problem_id": PROBLEMS[0].id, "text": text}
    (trace,) = import_traces(byte_model, write(tmp_path / "t.jsonl", row), TASK)
    segments = segment(byte_model, trace)
    spans = [i for s in segments for i in range(s.start, s.end)]
    assert spans == list(range(trace.n_prompt, len(trace.tokens) - 1))
    assert "".join(s.text for s in segments) == trace.text == text


def test_a_text_whose_sentences_cut_a_character_is_refused(byte_model, tmp_path, monkeypatch):
    text = "check \U0001f600 once more"
    first = byte_model.tokenizer("\U0001f600")["input_ids"][0]
    monkeypatch.setattr(byte_model, "boundary", torch.arange(len(byte_model.tokenizer)) == first)
    row = {"problem_id": PROBLEMS[0].id, "text": text}
    with pytest.raises(UserError, match="^Line 2 .* cannot be cut into sentences"):
        import_traces(
            byte_model, write(tmp_path / "t.jsonl", {**row, "text": "check me"}, row), TASK
        )


def test_fields_of_other_tools_are_ignored(sharp, tmp_path):
    plain, more = (
        import_traces(sharp, write(tmp_path / "t.jsonl", {**GOOD, **extra}), TASK)
        for extra in ({}, {"logprobs": [1, 2], "tokens": "hmm", "correct": True})
    )
    assert plain == more
