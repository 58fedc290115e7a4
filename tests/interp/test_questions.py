"""Texts of questions and statements: each keeps to its share, and the annotator tells them apart."""

from collections import defaultdict

import numpy as np

from interp.behaviors import annotate_form
from interp.tasks import Questions

ASKING = ("Does", "Why", "When", "Where", "How")


def test_texts_are_distinct_and_keep_to_their_share_of_questions():
    problems, shares = Questions().problems(), defaultdict(list)
    assert len({p.id for p in problems}) == len({p.prompt for p in problems}) == len(problems)
    for problem in problems:
        *marks, last = [c for c in problem.prompt if c in ".?"]
        assert last == "."
        shares[problem.data["share"]].append(marks.count("?") / len(marks))
    for share, found in shares.items():
        assert abs(np.mean(found) - share) < 4 * np.sqrt(share * (1 - share) / len(found) / 5)


def test_questions_are_told_by_their_form_as_by_their_first_word():
    for problem in Questions().problems()[:60]:
        sentences = problem.prompt.replace("?", "?|").replace(".", ".|").split("|")[:-1]
        expected = ["question" if s.split()[0] in ASKING else "statement" for s in sentences]
        assert annotate_form(sentences) == expected


def test_a_lists_number_and_an_unfinished_sentence_have_no_form():
    found = annotate_form(
        [" Who?\n", "It is 3.5 m long.\n2.", "Not yet", "\n", "Really?!", "So: 4."]
    )
    assert found == ["question", "statement", None, None, "question", "statement"]
