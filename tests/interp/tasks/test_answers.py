"""What a trace states: one answer is found wherever it stands, and no list of candidates is one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.tasks.answers import MAX_ANSWER, MAX_STATED, stated_answers
from interp.tasks.equality import states

WORDS = st.text("abc ABC.,:*_$\n", max_size=40)
NUMBERS = st.integers(-(10**6), 10**6)


@given(WORDS, st.text("xy+-0123456789/^ ", min_size=1).filter(str.strip), WORDS)
@settings(deadline=None)
def test_a_box_is_found_wherever_it_stands(before, answer, after):
    expected = (answer.strip(),)
    assert stated_answers(f"{before}\\boxed{{{answer}}}{after}") == expected
    assert stated_answers(f"{before}\\boxed {{\\frac{{{answer}}}{{2}}}}{after}") == (
        f"\\frac{{{answer}}}{{2}}",
    )
    assert stated_answers(f"{before}<answer>{answer}</answer>{after}") == expected
    assert stated_answers(f"{before}<answer>\\boxed{{{answer}}}</answer>{after}") == expected


@given(st.text(max_size=300))
@settings(deadline=None)
def test_no_text_is_an_error_and_every_answer_is_part_of_the_text(text):
    for numeric in (True, False):
        for answer in stated_answers(text, numeric):
            assert answer in text or answer == "\\boxed{"


@given(st.lists(NUMBERS, min_size=2, max_size=12, unique=True), st.data())
@settings(deadline=None)
def test_boxes_or_tags_that_differ_are_right_for_none_of_their_answers(numbers, data):
    marks = data.draw(
        st.lists(
            st.sampled_from(["\\boxed{%d}", "\\fbox{%d}", "<answer>%d</answer>"]),
            min_size=len(numbers),
            max_size=len(numbers),
        )
    )
    text = " or ".join(mark % number for mark, number in zip(marks, numbers, strict=True))
    assert not any(states(text, str(number)) for number in numbers)


@given(NUMBERS, st.integers(1, MAX_STATED))
@settings(deadline=None)
def test_one_answer_in_several_boxes_is_one_answer(number, times):
    assert states(f"so \\boxed{{{number}}} " * times, str(number))


@given(
    st.lists(NUMBERS, min_size=2, max_size=30, unique=True),
    st.sampled_from([" ", ", ", " or ", "\n", "; "]),
)
@settings(deadline=None)
def test_a_list_of_numbers_is_right_for_none_of_them(numbers, between):
    listed = between.join(map(str, numbers))
    for text in (
        listed,
        f"It is {listed}",
        f"\\boxed{{{listed}}}",
        f"The answer is {listed}",
        f"#### {listed}",
    ):
        assert not any(states(text, str(number)) for number in numbers), text


RIGHT = [
    "The answer is 42.",
    "the answer is: 42",
    "**Answer:** 42",
    "Answer: **42**",
    "The final answer is $42$.",
    "The answer is \\(42\\).",
    "The answer is 42 dollars.",
    "I say 41. The answer is 41. Wait, the answer is 42.",
    "6 * 7 = 42\n#### 42",
    "#### 42\n",
    "### Step 1\n6 * 7 = 42\n#### Step 2\nThe answer is 42",
    "So she makes 42 dollars.",
    "She sells 6 at $7. So she makes 6 * 7 = $42.",
    "42",
    "<think>\\boxed{41}</think> It is \\boxed{42}.",
    "<think>The answer is 41.</think> So 42 it is.",
    "\\boxed{} is what I shall fill: \\boxed{42}",
    "\\boxed{42} or, to say it again, \\boxed{42.0}",
]
WRONG = [
    "",
    "\\boxed{}",
    "\\boxed{42",
    "\\boxed{41}\\boxed{42",
    "The answer is 42. Or it is 43.",
    "The answer is 42 or 43.",
    "The answer is not 42.",
    "The answer is 42 41.",
    "The answer is 42. The answer is 41.",
    "It is not 42.",
    "Is it 42?",
    "Maybe it is 42.",
    "It is 42 if I am right.",
    "It is 42 million.",
    "It is 42.5",
    "It is 42/5",
    "It is 42 * 5",
    "It has 6 apples in 42 bags.",
    "forty-two",
    "41\n42",
    "\\boxed{42} <answer>41</answer>",
    "<think>\\boxed{42}</think>",
    "<answer>41 or \\boxed{42}</answer>",
    "\\boxed{42}</think> It is 41.",
    "<answer>42",
    " ".join(f"\\boxed{{{i}}}" for i in range(100)),
    "\\boxed{42} " * (MAX_STATED + 1),
    "#### 42 41",
    "#### 41",
]  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_a_stated_42_is_right(text):
    assert states(text, "42")


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_no_42(text):
    assert not states(text, "42")


@pytest.mark.parametrize(
    "part",
    ["\\boxed{", "\\boxed{{", "<answer>", "</answer>", "answer is ", "answer ", "#### ", "\n####", "1 ", "= 1\n",
     "{", "\\", "</think>", "*", "_", "the answer: **", "$", "\u2028", "a. "],
)  # fmt: skip
@pytest.mark.parametrize("numeric", [True, False])
def test_a_text_of_two_million_characters_is_read_to_its_end(part, numeric):
    found = stated_answers(
        part * (2_000_000 // len(part)), numeric
    )  # quadratic work would take hours
    assert all(len(answer) <= MAX_ANSWER + 1 for answer in found)
