"""The file of gates: what is given wins, the rest stays, and what is wrong is named."""

import pytest

from interp.errors import UserError
from interp.validation.gates import read_gates


def test_gates_not_named_keep_their_thresholds_and_false_leaves_one_out(tmp_path):
    (tmp_path / "g.yaml").write_text("stability: {min_cosine: 0.9}\nprompt: false\n")
    found, known = read_gates(tmp_path / "g.yaml"), read_gates()
    assert found["stability"] == {"min_cosine": 0.9}
    assert set(known) - set(found) == {"prompt"}
    assert found["necessity"] == known["necessity"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stabilty: {min_cosine: 0.9}", "did you mean stability"),
        ("stability: {min_cosin: 0.9}", "did you mean min_cosine"),
        ("stability: {min_cosine: high}", "expected a finite number"),
        ("stability: {min_cosine: true}", "expected a finite number"),
        ("side_effects: {max_kl: .inf}", "finite number"),
        ("side_effects: {max_kl: .nan}", "finite number"),
        ("sufficiency: {min_effect: 0}", "above 0"),
        ("stability: 0.9", "expected false, or thresholds"),
        ("- stability", "holds list"),
        ("", "holds NoneType"),
        ("a: [", "no YAML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_gates(tmp_path / "g.yaml")


def test_a_file_without_a_gate_is_refused(tmp_path):
    (tmp_path / "g.yaml").write_text("".join(f"{name}: false\n" for name in read_gates()))
    with pytest.raises(UserError, match="at least one"):
        read_gates(tmp_path / "g.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="gates.yaml' does not exist"):
        read_gates(tmp_path / "gates.yaml")
