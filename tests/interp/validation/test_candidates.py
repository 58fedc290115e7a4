"""Directions from every format come back as they were written; what is no direction is refused."""

import base64
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.directions import DirectionSet
from interp.validation.candidates import read_candidates
from tests.interp.validation.steering_files import (
    ARRAYS,
    PLAIN,
    ROWS,
    VECTOR,
    WRITTEN_BY_GGUF,
    as_numpy,
    direction,
    own_file,
    pack_gguf,
    refusal,
    refused_bytes,
    text,
    write,
)


def test_our_own_file_gives_every_direction_with_what_it_states(tmp_path):
    other = direction("backtracking", 1, "large", vector=2 * VECTOR)
    DirectionSet.of([direction(), other]).save(tmp_path / "own.safetensors")
    found = {c.name: c for c in read_candidates(tmp_path / "own.safetensors")}
    assert set(found) == {"verification@tiny", "backtracking@large"}
    candidate = found["backtracking@large"]
    assert candidate.behavior == "backtracking" and candidate.hook == "resid_post"
    np.testing.assert_array_equal(as_numpy(candidate)[1], 2 * VECTOR)
    assert list(candidate.vectors) == [1]
    assert candidate.provenance == {
        "read": "before", "contrast": "rest", "unit": "3.5", "model": "large", "fit_split": "fit",
        "model_fingerprint": "f" * 12, "tokenizer_hash": "t" * 12, "dtype": "float32",
        "format": "whenlens",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ARRAYS)
def test_arrays_give_a_candidate_each_with_the_rows_that_are_not_zero(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", {"first": ROWS, "second": 2 * ROWS})
    found = {c.name: c for c in read_candidates(path, behavior="deduction", hook="mlp_out")}
    assert set(found) == {"first", "second"}
    for name, scale in (("first", 1), ("second", 2)):
        assert found[name].behavior == "deduction" and found[name].hook == "mlp_out"
        assert list(found[name].vectors) == [0, 1, 3]
        for layer, vector in as_numpy(found[name]).items():
            np.testing.assert_array_equal(vector, scale * ROWS[layer])
    one = read_candidates(path, layer=3)[0]
    assert list(one.vectors) == [3] and one.behavior is None and one.hook == "resid_post"
    assert "zeros" in refusal(path, layer=2) and "no layer 4" in refusal(path, layer=4)


@pytest.mark.parametrize("suffix", (*ARRAYS, ".npy", ".pth", ".bin"))
def test_plain_vectors_need_a_layer_and_a_behavior(tmp_path, suffix):
    alone = suffix not in (".safetensors", ".npz")
    path = write(tmp_path / f"wait{suffix}", {"" if alone else "wait": VECTOR})
    (candidate,) = read_candidates(path, **PLAIN)
    assert candidate.name == "wait" and candidate.behavior == "verification"
    np.testing.assert_array_equal(as_numpy(candidate)[5], VECTOR)
    assert list(candidate.vectors) == [5] and candidate.provenance["dtype"] == "float32"
    assert "its layer" in refusal(path, behavior="verification")
    assert "its behavior" in refusal(path, layer=5)


def test_npy_of_several_layers_and_both_orders_of_memory_and_bytes(tmp_path):
    for array in (ROWS, np.asfortranarray(ROWS), ROWS.astype(">f4"), ROWS.astype(np.float64)):
        (candidate,) = read_candidates(write(tmp_path / "rows.npy", {"": array}))
        assert candidate.name == "rows" and list(candidate.vectors) == [0, 1, 3]
        np.testing.assert_array_equal(as_numpy(candidate)[1], ROWS[1])


@pytest.mark.parametrize("suffix", ARRAYS)
def test_half_precision_becomes_float32(tmp_path, suffix):
    half = VECTOR.astype(np.float16)
    (found,) = read_candidates(write(tmp_path / f"h{suffix}", {"v": half}), **PLAIN)
    np.testing.assert_array_equal(as_numpy(found)[5], half.astype(np.float32))
    assert found.provenance["dtype"] == "float16"
    if suffix != ".npz":
        brain = torch.tensor(VECTOR).bfloat16()
        (found,) = read_candidates(write(tmp_path / f"b{suffix}", {"v": brain}), **PLAIN)
        assert torch.equal(found.vectors[5], brain.float())


def test_a_parameter_or_a_view_of_a_tensor_reads_as_its_numbers(tmp_path):
    parameter = torch.nn.Parameter(torch.tensor(ROWS).T)
    torch.save({"v": parameter}, tmp_path / "p.pt")
    (candidate,) = read_candidates(tmp_path / "p.pt", layer=6)
    np.testing.assert_array_equal(as_numpy(candidate)[6], ROWS[:, 6])
    assert not candidate.vectors[6].requires_grad


def test_what_is_read_no_longer_depends_on_the_file(tmp_path):
    path = write(tmp_path / "v.pt", {"": VECTOR})
    (candidate,) = read_candidates(path, **PLAIN)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(as_numpy(candidate)[5], VECTOR)


@pytest.mark.parametrize("version", (2, 3))
def test_direction_n_of_a_control_vector_is_layer_n(tmp_path, version):
    values = [
        (text("controlvector.model_hint"), struct.pack("<I", 8) + text("qwen2")),
        (text("controlvector.layer_count"), struct.pack("<Ii", 5, 3)),
        (text("tags"), struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")),
        (text("numbers"), struct.pack("<IIQ", 9, 4, 2) + bytes(8)),
        (text("made.by.hand"), struct.pack("<I?", 7, True)),
    ]
    vectors = [("direction.3", ROWS[3]), ("direction.1", ROWS[1]), ("direction.2", ROWS[2])]
    path = tmp_path / "happy.gguf"
    path.write_bytes(pack_gguf(vectors, version, values))
    (candidate,) = read_candidates(path)
    assert candidate.name == "happy" and candidate.behavior is None
    assert candidate.hook == "resid_post" and list(candidate.vectors) == [1, 3]
    for layer, vector in as_numpy(candidate).items():
        np.testing.assert_array_equal(vector, ROWS[layer])
    assert candidate.provenance == {
        "general.architecture": "controlvector", "model_hint": "qwen2", "layer_count": "3",
        "made.by.hand": "True", "format": "gguf",
    }  # fmt: skip
    one = read_candidates(path, layer=3, behavior="backtracking", hook="resid_mid")[0]
    assert (list(one.vectors), one.behavior, one.hook) == ([3], "backtracking", "resid_mid")


def test_a_control_vector_of_the_gguf_package_reads_as_it_was_written(tmp_path):
    (tmp_path / "v.gguf").write_bytes(base64.b64decode(WRITTEN_BY_GGUF))
    (candidate,) = read_candidates(tmp_path / "v.gguf")
    assert {n: v.tolist() for n, v in candidate.vectors.items()} == {
        1: [0.25, 0, -1],
        2: [1, -2, 3.5],
    }
    assert candidate.provenance["model_hint"] == "llama"


def test_half_precision_of_a_control_vector_and_its_alignment_are_followed(tmp_path):
    values = [(text("general.alignment"), struct.pack("<II", 4, 32))]
    numbers = [0.5, -2.0, 1.5]
    path = tmp_path / "h.gguf"
    path.write_bytes(pack_gguf([("direction.1", numbers)], values=values, kind=1, form="<f2"))
    assert read_candidates(path)[0].vectors[1].tolist() == numbers


@pytest.mark.parametrize("name", ("v.npy", "v.gguf", "v.txt", "v"))
def test_a_path_that_is_no_file_of_directions_is_refused(tmp_path, name):
    assert "does not exist" in refusal(tmp_path / name) and name in refusal(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "folder" in refusal(tmp_path / name)
    assert "cannot be opened" in refusal(tmp_path / ("v" * 5000 + ".npy"))
    assert "cannot be opened" in refusal(Path("a\0b.npy"))
    assert "device" in refusal(Path("/dev/zero"))


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    message = refused_bytes(tmp_path, "v.txt", b"1 2 3")
    assert "'.txt'" in message and ".gguf" in message and ".safetensors" in message


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "v.npy").open("wb") as file:
        file.truncate(2**40)
    assert str(2**40) in refusal(tmp_path / "v.npy")


def test_what_the_caller_gives_must_make_sense(tmp_path):
    path = write(tmp_path / "v.npy", {"": VECTOR})
    assert "'resid_pots'" in refusal(path, hook="resid_pots", **PLAIN)
    assert "resid_post" in refusal(path, hook="resid_pots", **PLAIN)
    assert "Layer -1" in refusal(path, layer=-1, behavior="verification")


@pytest.mark.parametrize(
    "asks, values",
    (
        ({"layer": 3}, ("layer 2", "3 was given")),
        ({"behavior": "deduction"}, ("behavior 'verification'", "'deduction' was given")),
        ({"hook": "mlp_out"}, ("hook 'resid_post'", "'mlp_out' was given")),
    ),
)
def test_a_contradiction_to_our_own_file_is_refused_with_both_values(tmp_path, asks, values):
    path = own_file(tmp_path / "own.safetensors")
    assert read_candidates(path, layer=2, behavior="verification", hook="resid_post")
    assert all(value in refusal(path, **asks) for value in values)


@pytest.mark.parametrize(
    "changes",
    (
        {"layer": "2"}, {"layer": -2}, {"layer": True}, {"layer": 3}, {"unit": float("nan")},
        {"unit": 0.0}, {"unit": None}, {"model": "other"}, {"hook": "blocks.2.hook_q"},
        {"behavior": ["verification"]}, {"tokenizer_hash": 3},
    ),
)  # fmt: skip
def test_a_false_provenance_of_our_own_file_is_refused_by_field(tmp_path, changes):
    path = own_file(tmp_path / "own.safetensors", **changes)
    (field,) = changes
    assert ("hook" if changes == {"layer": 3} or field == "hook" else field) in refusal(path)


def test_our_own_file_holds_a_vector_and_a_provenance_for_each_direction(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file({"a@b": torch.tensor(VECTOR), "c@d": torch.tensor(VECTOR)}, path, {"a@b": "{}"})
    assert "'c@d'" in refusal(path)
    save_file({"a@b": torch.tensor(VECTOR)}, path, {"a@b": "[" * 9000})
    assert "whenlens" in refusal(path)
    assert "UTF-8" in refusal(own_file(path, contrast="\ud800"))
    fields = {"verification@tiny": json.dumps({"behavior": "verification"})}
    save_file({"verification@tiny": torch.tensor(VECTOR)}, path, fields)
    assert "no layer" in refusal(path)


@pytest.mark.parametrize("suffix", ARRAYS)
@pytest.mark.parametrize(
    "arrays, words",
    (
        ({"v": np.where(np.arange(8) == 3, np.nan, VECTOR)}, ("NaN or infinite", "'v'")),
        ({"v": np.where(np.arange(8) == 3, np.inf, VECTOR)}, ("NaN or infinite", "'v'")),
        ({"v": VECTOR.astype(np.float64) * 1e300}, ("NaN or infinite", "float32")),
        ({"v": np.zeros(8, np.float32)}, ("only zeros", "'v'")),
        ({"v": np.zeros((4, 8), np.float32)}, ("only zeros", "'v'")),
        ({"v": np.full(8, 1e-300)}, ("only zeros", "float32")),
        ({"v": np.ones((2, 2, 8), np.float32)}, ("(2, 2, 8)", "d_model")),
        ({"v": np.float32(1).reshape(())}, ("()", "d_model")),
        ({"v": np.ones((2, 0), np.float32)}, ("(2, 0)", "d_model")),
        ({"v": np.arange(8)}, ("int64", "float32")),
        ({"v": np.ones(8, bool)}, ("bool", "float32")),
        ({"v": np.ones(8, np.uint8)}, ("uint8", "float32")),
        ({"v": np.ones(8, np.complex64)}, ("complex64", "float32")),
        ({"v": VECTOR, "w": np.ones(9, np.float32)}, ("8", "9", "'v'", "'w'", "d_model")),
        ({"v": ROWS, "w": np.ones(9, np.float32)}, ("8", "9", "'v'", "'w'", "d_model")),
        ({"v": np.ones((2**16 + 1, 1), np.float32)}, ("65537 vectors", "65536")),
        ({}, ("no directions", "at least one")),
    ),
)
def test_numbers_that_are_no_direction_are_refused(tmp_path, suffix, arrays, words):
    message = refusal(write(tmp_path / f"bad{suffix}", arrays), layer=1, behavior="deduction")
    assert all(word in message for word in (*words, "expected", f"bad{suffix}")), message


@pytest.mark.parametrize("name", ("", "a\nb", "\x1b[2J", "\u202eabc"))
def test_a_name_that_cannot_be_printed_is_refused(tmp_path, name):
    path = tmp_path / "v.safetensors"
    save_file({name: torch.tensor(VECTOR)}, path)
    assert "printed" in refusal(path, **PLAIN)
