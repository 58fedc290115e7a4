"""Answers are equal exactly where their values are, and nothing that hedges, copies or hangs is right."""

import os
import threading
from fractions import Fraction

import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.errors import UserError
from interp.tasks import equality, grading
from interp.tasks.equality import check_math_verify, is_right, needs_math_verify
from interp.tasks.numbers import number, plain, tidy

FRACTIONS = st.fractions(min_value=-(10**7), max_value=10**7, max_denominator=10**4)
WRAPS = [
    "{}",
    " {} ",
    "${}$",
    "$${}$$",
    "\\({}\\)",
    "\\[ {} \\]",
    "**{}**",
    "{}.",
    "`{}`",
    "\\boxed{{{}}}",
]
UNITS = [
    "",
    " dollars",
    "\\text{ cm}",
    "\\text{cm}^2",
    "%",
    "\\%",
    "^\\circ",
    "^{\\circ}",
    " km/h",
    " square feet",
]


@given(FRACTIONS, st.sampled_from(WRAPS), st.sampled_from(UNITS), st.integers(1, 50))
@settings(deadline=None)
def test_a_fraction_has_its_value_however_it_is_written(value, wrap, unit, times):
    top, bottom = value.numerator * times, value.denominator * times
    sign = "-" if top < 0 else ""
    for form in (
        f"{top}/{bottom}",
        f"{sign}\\frac{{{abs(top)}}}{{{bottom}}}",
        f"\\dfrac{{{top}}}{{{bottom}}}",
    ):
        assert number(wrap.format(form + unit)) == value, (form, unit)


@given(st.decimals(-(10**9), 10**9, places=3), st.sampled_from(WRAPS), st.sampled_from(UNITS))
@settings(deadline=None)
def test_a_decimal_has_its_value_with_and_without_separators(value, wrap, unit):
    for form in (
        f"{value}",
        f"{value:,}",
        f"{value:,}".replace(",", "{,}"),
        f"{value}".replace("-", "\u2212"),
    ):
        assert number(wrap.format(form + unit)) == Fraction(value), (form, unit)


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(list("+-*^!x=<>|,;: ") + ["\\cdot ", " or "]),
)
@settings(deadline=None)
def test_two_numbers_with_anything_but_a_fraction_bar_between_them_are_no_numeral(a, b, between):
    if between == "," and len(str(b)) == 3 and len(str(a)) <= 3:  # thousands
        assert number(f"{a},{b}") == int(f"{a}{b}")
    else:
        assert number(f"{a}{between}{b}") is None


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", "1/0", "1,00", "1,0000", "0x10", "1e5", "5 thousand", "5 and a half", "5 or", "5x", "5i", "5 i",
     "\u0665", "\uff15", "\u00bd", "5\u00b2", "--5", "-$-5", "+-5", "5//2", "1/2/3", "5!", "\\frac{1}{x}", "inf",
     "nan", "five", "9" * 5000, "1/" + "9" * 5000],
)  # fmt: skip
def test_anything_else_is_no_numeral(text):
    assert number(text) is None


@given(st.text(max_size=80), st.text(max_size=80))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_makes_the_cheap_comparisons_fail(answer, gold):
    assert tidy(tidy(answer)) == tidy(answer) or "\\" in answer or "*" in answer or "." in answer
    plain(answer)
    if not needs_math_verify(gold):
        assert is_right(gold, gold)
        assert isinstance(is_right(answer, gold, answer), bool)


X = sympy.Symbol("x", positive=True)


@st.composite
def expressions(draw):
    """An expression as SymPy has it, and in LaTeX in two ways: as it is, and expanded."""
    a, c = draw(st.integers(-9, 9).filter(bool)), draw(st.integers(-9, 9))
    root, power = draw(st.sampled_from([2, 3, 5, sympy.pi, X])), draw(st.integers(1, 2))
    found = (a * sympy.sqrt(root) + c) ** power
    return found, draw(st.sampled_from([sympy.latex(found), sympy.latex(sympy.expand(found))]))


@given(expressions(), expressions())
@settings(max_examples=40, deadline=None)
def test_expressions_are_equal_exactly_where_their_values_are(one, other):
    (first, gold), (second, answer) = one, other
    points = [sympy.Rational(7, 3), sympy.Rational(19, 7)]
    same = all(abs((first - second).subs(X, p).evalf(40)) < 1e-30 for p in points)
    assert is_right(answer, gold) == same
    assert is_right(gold, gold) and is_right(f"$ {gold} $", gold)


EQUAL = [
    ("\\sqrt{2}", "\\frac{2}{\\sqrt{2}}"),
    ("p - q", "-q + p"),
    ("\\text{Evelyn}", "evelyn."),
    ("June 20", "june  20"),
    ("\\text{(C)}", "C"),
    ("C", "(C)"),
    ("No", "\\text{no}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)"),
    ("3,4", "4, 3"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\\\frac{4}{2}\\end{pmatrix}"),
    ("6 - 5i", "6-5i"),
    ("y = 2x + 3", "y = 3 + 2x"),
    ("2\\sqrt{3}", "2\\sqrt{3}\\text{ cm}"),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)"),
    ("2516_8", "2516_{8}"),
    ("5\\frac{1}{4}", "\\frac{21}{4}"),
    ("1 \\pm \\sqrt{2}", "1\\pm\\sqrt{2}"),
    ("10\\%", "10"),
    ("\\$36", "36"),
    ("42", "6 \\cdot 7 = 42"),
]
NOT_EQUAL = [
    ("42", "4 2"),
    ("42", "40 2"),
    ("42", "6 \\cdot 7"),
    ("42", "42 - 0x"),
    ("42", "\\approx 42"),
    ("0", "0.0000001"),
    ("1/3", "0.333333"),
    ("\\sqrt{2}", "1.4142"),
    ("Evelyn", "nylevE"),
    ("No", "oN"),
    ("yes", "sey"),
    ("\\text{Evelyn}", "\\text{Evelyn or Bob}"),
    ("a+\\frac{b}{c}", "\\frac{a+b}{c}"),
    ("12\\sqrt{3}", "1 2\\sqrt{3}"),
    ("(3,4)", "(4,3)"),
    ("(0,1)", "[0,1]"),
    ("3,4", "3,4,5"),
    ("\\sqrt{2}", "\\sqrt{2}} + {1"),
    ("\\sqrt{2}", ""),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_other_forms_of_the_answer_are_right(gold, answer):
    assert is_right(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), NOT_EQUAL)
def test_what_a_parser_would_let_pass_is_wrong(gold, answer):
    assert not is_right(answer, gold)


SIGNS = [
    " ", ",", ";", " or ", " and ", r"\text{ or }", r"\mathrm{or}", r"\lor", r"\vee", r"\quad", r"\,", r"\approx",
    r"\neq", r"\ne", "\\\\", r"\to", r"\rightarrow", "|", r"\mid", ":", "/", "<", r"\le", r"\in", r"\cup", r"\pm",
    "&", "$ or $", r"\)\(", "}{", "!", "'", "#", "%", r"\dots", "...", ". ", r"\iff", "->", "\u2192", "\u2248",
    "\n", "_", r"\cancel{x}", r"\phantom{x}", r"\hspace{1em}", r"\newline", " dollars ", r"\therefore",
    r"\setminus", "?",
]  # fmt: skip


@pytest.mark.parametrize("sign", SIGNS)
def test_two_candidates_with_any_sign_between_them_are_wrong(sign):
    for answer in (f"\\sqrt{{3}}{sign}\\sqrt{{2}}", f"\\sqrt{{2}}{sign}\\sqrt{{3}}"):
        assert not is_right(answer, "\\sqrt{2}"), answer


@pytest.mark.parametrize(
    ("prompt", "gold", "copied", "done"),
    [
        ("Compute $\\sin 60^\\circ$.", "\\frac{\\sqrt{3}}{2}", "\\sin 60^\\circ", "\\sqrt{3}/2"),
        ("Expand $(x+1) (x+2)$.", "x^2+3x+2", "(x+1)(x+2)", "2+3x+x^2"),
        ("What is 84/2?", "42", "84/2", "42"),
        ("What is 84 \u00f7 2?", "42", "84/2", "42.0"),
        ("Simplify $\\frac{6}{8}$.", "3/4", "6/8", "\\frac{3}{4}"),
    ],
)
def test_the_questions_own_expression_is_no_answer(prompt, gold, copied, done):
    assert is_right(done, gold, prompt)
    assert not is_right(copied, gold, prompt)


def test_an_answer_that_the_question_names_is_right():
    assert is_right("3/4", "3/4", "Which is larger, 3/4 or 2/3?")
    assert is_right("42 km/h", "42", "Is it 42 km/h or 43 km/h?")


HOSTILE = [
    "9^{9^{9^{9}}}", "(10^{9})!", "x^{100000}(1+x)^{100000}", "(" * 140 + "1" + ")" * 140,
    "{" * 140 + "1" + "}" * 140,
    "\\int_0^{10} \\sin(x^x) dx", "\\sum_{n=1}^{10^9} n^n", "\\sqrt{" * 60 + "2" + "}" * 60,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("answer", HOSTILE)
def test_an_answer_that_never_ends_is_wrong_and_the_next_one_is_graded(answer, monkeypatch):
    monkeypatch.setattr(equality, "SECONDS", 2)
    assert not is_right(answer, "\\sqrt{3}")
    equality._same_expression.cache_clear()
    assert is_right("\\frac{3}{\\sqrt{3}}", "\\sqrt{3}")


@given(st.text("\\{}^_()[]+-*/=,.!|&$ 019xyz\\frac\\sqrt\\left\\pi\\sum", max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_text_makes_grading_fail(answer):
    assert isinstance(is_right(answer, "\\sqrt{7} + 1"), bool)


def test_answers_are_graded_off_the_main_thread():
    found = []
    forms = [f"\\frac{{{2 * n}}}{{\\sqrt{{2}}}}" for n in (1, 2, 3)]
    threads = [
        threading.Thread(target=lambda f=form: found.append((f, is_right(f, "\\sqrt{2}"))))
        for form in forms
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(found) == {forms[0]: True, forms[1]: False, forms[2]: False}


def test_a_forked_process_grades_with_a_worker_of_its_own():
    assert grading.ask("hello", 5) is True
    child = os.fork()
    if child == 0:
        os._exit(0 if grading.ask("same", 5, gold="\\sqrt{4}", answer="2") is True else 1)
    assert grading.ask("same", 5, gold="\\sqrt{4}", answer="3") is False
    assert os.waitpid(child, 0)[1] == 0


def test_an_answer_nobody_waited_for_is_not_taken_for_the_next_ones(monkeypatch):
    grading.ask("hello", 5)

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grading._process.stdout, "readline", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            grading.ask("same", 5, gold="2", answer="2")
    assert grading.ask("same", 5, gold="2", answer="3") is False


def test_without_math_verify_only_expressions_are_refused(monkeypatch):
    monkeypatch.setattr(equality, "find_spec", lambda name: None)
    check_math_verify(["42", "3/4", "Paris", "(C)", "\\$1,000", "50\\text{ cents}"])
    with pytest.raises(UserError, match=r"pip install 'whenlens\[tasks\]'"):
        check_math_verify(["42", "\\sqrt{2}"])
