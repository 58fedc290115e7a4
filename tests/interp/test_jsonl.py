"""Files of JSON lines: every line is read or named, and none is read before it is asked for."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import UserError
from interp.jsonl import MAX_LINE, MAX_NAME, Row, read_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5), st.data())
@settings(deadline=None)
def test_objects_come_back_as_json_has_them(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    ends, text, numbers = [], data.draw(st.sampled_from(["", "\ufeff"])), []
    for row in rows:
        blank = data.draw(st.sampled_from(["", "\n", " \r\n\n"]))
        text += blank + json.dumps(row, ensure_ascii=data.draw(st.booleans())).replace(
            "\u2028", "\\u2028"
        )
        numbers.append(text.count("\n") + 1)
        ends.append(data.draw(st.sampled_from(["\n", "\r\n"])))
        text += ends[-1]
    path.write_bytes(text.encode())
    found = list(read_rows(path, "expected an object"))
    assert [row.fields for row in found] == [json.loads(json.dumps(row)) for row in rows]
    assert [row.number for row in found] == numbers


BROKEN = {
    "cut off": (b'{"a": 1}\n{"a"', "Line 2", "is no JSON"),
    "a list": (b"[1]\n", "Line 1", "is list"),
    "a number": (b"\n\n7\n", "Line 3", "is int 7"),
    "no UTF-8": (b'{"a": "\xff"}\n', "Line 1", "is no JSON"),
    "too deep": (b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "Line 1", "is no JSON"),
    "a number too long": (b'{"a": ' + b"9" * 5000 + b"}", "Line 1", "is no JSON"),
    "a line too long": (
        b'{"a": 1}\n{"a": "' + b"x" * MAX_LINE + b'"}',
        "Line 2",
        "longer than 10 MiB",
    ),
}


@pytest.mark.parametrize(("content", "line", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_one_error_that_names_it(tmp_path, content, line, fault):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{line} of .*rows.jsonl.*{fault}.*: expected") as caught:
        list(read_rows(path, "expected an object"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_line_is_read_when_it_is_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 3 + "broken")
    rows = read_rows(path, "expected an object")
    assert [next(rows).number for _ in range(3)] == [1, 2, 3]
    with pytest.raises(UserError, match="Line 4"):
        next(rows)


def test_a_device_is_no_file():
    with pytest.raises(UserError, match="no file"):
        next(read_rows(Path("/dev/zero"), "expected an object"))


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="There is no file"):
        list(read_rows(tmp_path / name, "expected an object"))


def row(**fields):
    return Row(Path("rows.jsonl"), 7, fields)


def test_fields_have_their_type_and_nothing_else_passes_for_it():
    assert row(a="x").text("a") == row().text("a", "x") == "x"
    assert row(a=3).count("a") == row().count("a", 3) == 3
    assert row(a=False).flag("a") is row().flag("a", False) is False
    for value in (None, 1, 1.5, True, [], {}):
        with pytest.raises(UserError, match="Line 7 .*'a': expected a text"):
            row(a=value).text("a")
    for value in (None, "1", 1.0, True, -1):
        with pytest.raises(UserError, match="Line 7 .*'a': expected a whole number"):
            row(a=value).count("a")
    for value in (None, "true", 1):
        with pytest.raises(UserError, match="Line 7 .*'a': expected true or false"):
            row(a=value).flag("a")
    with pytest.raises(UserError, match="has no 'a'"):
        row().text("a")
    with pytest.raises(UserError, match="surrogate"):
        row(a="x\ud800").text("a")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "..",
        "..\\x",
        "/etc/passwd",
        "\\x",
        "a\nb",
        "a\x00b",
        "",
        " ",
        "x" * (MAX_NAME + 1),
    ],
)
def test_a_name_is_never_a_way_out_of_a_folder(name):
    with pytest.raises(UserError, match="Line 7"):
        row(id=name).name("id")


@pytest.mark.parametrize(
    "name", ["gsm8k:17", "Qwen/Qwen3-8B", "a..b", "aime 2024 #3", "\u00e9", "...", "x" * MAX_NAME]
)
def test_a_usual_name_is_a_name(name):
    assert row(id=name).name("id") == name
