"""Segments tile the completion, and annotators say what the sentence says."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.behaviors import agreement, annotate, annotate_keywords, segment, segment_all
from interp.errors import UserError
from interp.organisms.corpus import AUTHORS, VOCABULARY, write_trace
from interp.tasks import load_task
from interp.types import Segment, Trace

FIRST_WORD = {
    "we": "initializing",
    "aim": "subgoal-setting",
    "check": "verification",
    "no": "backtracking",
    "hmm": "uncertainty-estimation",
    "note": "adding-knowledge",
    "answer": "final-answer",
}


def trace_of(model, prompt, completion, stopped):
    eos = (model.tokenizer.eos_token_id,) if stopped else ()
    return Trace(
        problem_id="p",
        model=model.name,
        prompt="",
        text=model.tokenizer.decode(list(completion)),
        tokens=(*prompt, *completion, *eos),
        n_prompt=len(prompt),
        stopped=stopped,
        correct=False,
    )


TOKENS = st.lists(
    st.one_of(st.just(VOCABULARY.index(".")), st.integers(3, len(VOCABULARY) - 1)), max_size=40
)


@given(prompt=TOKENS.filter(bool), completion=TOKENS, stopped=st.booleans())
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_segments_tile_the_completion(tiny, prompt, completion, stopped):
    trace = trace_of(tiny, prompt, completion, stopped)
    segments = segment(tiny, trace)
    covered = [pos for s in segments for pos in range(s.start, s.end)]
    assert covered == list(range(len(prompt), len(prompt) + len(completion)))
    for s in segments:
        words = [VOCABULARY[t] for t in trace.tokens[s.start : s.end]]
        assert words
        assert s.text == " ".join(words)
        whole = words[: words.index(".") + 1] if "." in words else words
        # What follows the end of a sentence says nothing: no word, and no number of three digits.
        assert not any(w.isalpha() and len(w) > 1 for w in words[len(whole) :])
        assert "." in words or s is segments[-1]
    for s in segments[:-1]:
        assert VOCABULARY[trace.tokens[s.end - 1]] == "."


def test_every_corpus_sentence_has_the_label_of_its_first_word(tiny):
    rng = random.Random(0)
    problems = load_task("countdown").problems(held_out=False)
    seen = set()
    for _ in range(500):
        text = write_trace(rng.choice(problems), rng.choice(AUTHORS), rng)
        tokens = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
        segments = annotate(segment(tiny, trace_of(tiny, [1, 5], tokens, True)), "grammar")
        assert " ".join(s.text for s in segments) == text
        for s in segments:
            word = s.text.split()[0]
            assert s.behavior == FIRST_WORD.get(word, "deduction" if word.isdigit() else None)
            assert s.behavior is not None
            seen.add(s.behavior)
    assert seen == {*FIRST_WORD.values(), "deduction"}


@pytest.mark.parametrize(
    "sentence",
    [
        "we need 12",
        "we need 12 . .",
        "we we need 12 .",
        "aim for aim .",
        "aim for \u0663 .",
        "check 3 is not not 4 .",
        "no , go back",
        "3 + 4 = 7 .",
        "3 / 4 = 7 , 7 + 1 = 8 .",
        "answer 3 + 4 .",
        "",
        "we need 12 .\nno , go back .",
    ],
)
def test_the_grammar_labels_nothing_but_its_own_sentences(sentence):
    assert annotate([Segment(0, 1, sentence)], "grammar")[0].behavior is None


ENGLISH = [
    ("Wait, that is odd.", "backtracking"),
    ("Let me try a different approach.", "backtracking"),
    ("Alternatively, we could factor it.", "backtracking"),
    ("Let me check this by plugging it in.", "verification"),
    ("Let me double-check the arithmetic.", "verification"),
    ("We should verify the result.", "verification"),
    ("Hmm, this looks strange.", "uncertainty-estimation"),
    ("I'm not sure about the sign.", "uncertainty-estimation"),
    ("First, let's isolate x.", "subgoal-setting"),
    ("The next step is to expand.", "subgoal-setting"),
    ("For example, take n equal to 3.", "example-testing"),
    ("Recall the quadratic formula.", "adding-knowledge"),
    ("The answer is 42.", "final-answer"),
    ("Hence the final result: \\boxed{42}.", "final-answer"),
    ("Okay, so I have to find the sum.", "initializing"),
    ("Therefore x equals 4.", "deduction"),
    ("This means y = 2.", "deduction"),
    ("Flowers bloom.", None),
    ("The awaited soul is a checker of hensons.", None),
    ("", None),
]


@pytest.mark.parametrize(("sentence", "behavior"), ENGLISH)
def test_keywords_on_english_sentences(sentence, behavior):
    assert annotate_keywords([sentence]) == [behavior]


@pytest.mark.parametrize(
    ("sentence", "behavior"),
    [("x=5", "deduction"), ("3*8=24", "deduction"), ("Step 12: expand.", "subgoal-setting")],
)
def test_keywords_hold_without_spaces_and_with_two_digits(sentence, behavior):
    assert annotate_keywords([sentence]) == [behavior]


PARTS = [Segment(i, i + 1, text) for i, text in enumerate(["a .", "b .", "c ."])]


def test_a_callable_sees_all_sentences_of_the_trace():
    seen = []

    def judge(sentences):
        seen.append(list(sentences))
        return ["verification", None, "deduction"]

    found = annotate(PARTS, judge)
    assert seen == [["a .", "b .", "c ."]]
    assert [s.behavior for s in found] == ["verification", None, "deduction"]
    assert [replace(s, behavior=None) for s in found] == PARTS


@pytest.mark.parametrize("n", [0, 2, 4])
def test_a_wrong_number_of_labels_is_refused(n):
    with pytest.raises(UserError, match=f"{n} labels for 3 sentences"):
        annotate(PARTS, lambda sentences: ["deduction"] * n)


@pytest.mark.parametrize(
    ("label", "message"),
    [("verifcation", "did you mean verification"), (3, "'3'"), ("", "behavior")],
)
def test_an_unknown_label_is_refused(label, message):
    with pytest.raises(UserError, match=message):
        annotate(PARTS, lambda sentences: [None, label, None])


def test_an_unknown_annotator_names_the_nearest_even_without_traces(tiny):
    for traces in ([trace_of(tiny, [1], [7, 12], True)], []):
        with pytest.raises(UserError, match="did you mean grammar"):
            segment_all(tiny, traces, "gramar")


@pytest.mark.parametrize("table", [(20, 5, 10, 15), (1, 0, 0, 1), (3, 4, 5, 0), (0, 6, 6, 0)])
def test_agreement_is_cohens_kappa(table):
    both, left, right, neither = table
    n = sum(table)
    pairs = [("deduction", "deduction")] * both + [("deduction", None)] * left
    pairs += [(None, "deduction")] * right + [(None, None)] * neither
    random.Random(0).shuffle(pairs)
    observed = (both + neither) / n
    chance = ((both + left) * (both + right) + (right + neither) * (left + neither)) / n**2
    found = agreement(*zip(*pairs, strict=True))
    assert found == pytest.approx((observed - chance) / (1 - chance))


def test_agreement_on_one_label_alone_is_perfect():
    assert agreement(["deduction"] * 3, ["deduction"] * 3) == 1.0


@pytest.mark.parametrize(
    ("first", "second"), [([], []), (["deduction"], []), ([None], [None, None])]
)
def test_agreement_refuses_unequal_or_empty_labels(first, second):
    with pytest.raises(UserError, match="same sentences"):
        agreement(first, second)


def test_segment_all_labels_each_trace_by_itself(tiny):
    texts = ["we need 12 . no , go back .", "answer 3 + 4 + 5 ."]
    ids = tiny.tokenizer(texts, add_special_tokens=False)["input_ids"]
    traces = [trace_of(tiny, [1], tokens, True) for tokens in ids]
    labels = [[s.behavior for s in parts] for parts in segment_all(tiny, traces, "grammar")]
    assert labels == [["initializing", "backtracking"], ["final-answer"]]
    assert list(itertools.chain(*labels)).count(None) == 0
