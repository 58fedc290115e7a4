"""Where a task has no kinds of problems, questions are cut in halves by length."""

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.tasks.families import MIN_SHARE, by_length
from interp.types import Problem


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
@settings(deadline=None)
def test_long_questions_are_longer_and_as_near_to_half_as_can_be(lengths):
    found = by_length([Problem(str(i), "x" * n, {"kept": i}) for i, n in enumerate(lengths)])
    kinds = [p.data["family"] for p in found]
    assert [(p.id, len(p.prompt), p.data["kept"]) for p in found] == [
        (str(i), n, i) for i, n in enumerate(lengths)
    ]
    best = min(abs(sum(x < cut for x in lengths) / len(lengths) - 0.5) for cut in set(lengths))
    if best > 0.5 - MIN_SHARE + 1e-9:
        assert set(kinds) == {"the question has any length"}
    elif best < 0.5 - MIN_SHARE - 1e-9:
        short = [
            n for n, kind in zip(lengths, kinds, strict=True) if kind == "the question is short"
        ]
        long = [n for n, kind in zip(lengths, kinds, strict=True) if kind == "the question is long"]
        assert len(short) + len(long) == len(lengths) and max(short) < min(long)
        assert abs(len(short) / len(lengths) - 0.5) == best
