"""No damaged or hostile file does more than be refused, in one sentence that says why."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from interp.validation.candidates import read_candidates
from tests.interp.validation.steering_files import (
    PLAIN,
    VECTOR,
    Command,
    npy,
    npy_header,
    one_tensor,
    pack_gguf,
    refusal,
    refused_bytes,
    text,
    torch_file,
    torch_pickle,
    zipped,
)


@pytest.mark.parametrize(
    "header, words",
    (
        (one_tensor(b"\xff\xfe") + b"}", ("UnicodeDecodeError",)),
        (one_tensor(b"\\ud800") + b"}", ("readable safetensors",)),
        (one_tensor(b"v") + b"," + one_tensor(b"v")[1:] + b"}", ("duplicate name v",)),
        (one_tensor(b"v") + b',"__metadata__":{"a":"1","a":"2"}}', ("duplicate name a",)),
        (one_tensor(b"v").replace(b"[1]", b"[1000000000000]") + b"}", ("readable safetensors",)),
        (one_tensor(b"v").replace(b"4]", b"8]").replace(b"[1]", b"[2]") + b"}", ("readable",)),
        (b"[" * 100000, ("RecursionError",)),
        (b"[]", ("readable safetensors",)),
        (b"7", ("readable safetensors",)),
        (one_tensor(b"v")[:-5], ("readable safetensors",)),
    ),
)
def test_a_false_header_of_safetensors_is_refused(tmp_path, header, words):
    data = struct.pack("<Q", len(header)) + header + struct.pack("<f", 1)
    message = refused_bytes(tmp_path, "v.safetensors", data, **PLAIN)
    assert all(word in message for word in words), message


def test_false_lengths_of_safetensors_are_refused(tmp_path):
    huge = struct.pack("<Q", 2**50) + b"{}"
    assert str(2**50) in refused_bytes(tmp_path, "v.safetensors", huge)
    short = struct.pack("<Q", 5000) + b"{}"
    assert "truncated" in refused_bytes(tmp_path, "v.safetensors", short)
    assert "truncated" in refused_bytes(tmp_path, "v.safetensors", b"")


GOOD = [("direction.1", VECTOR)]


@pytest.mark.parametrize(
    "data, words",
    (
        (b"", ("GGUF", "b''")),
        (b"GGML" + bytes(60), ("GGUF", "GGML")),
        (pack_gguf(GOOD, version=1), ("version 1", "2 or 3")),
        (pack_gguf(GOOD, version=3 << 24), ("version 50331648", "little-endian")),
        (pack_gguf(GOOD, architecture="llama"), ("'llama'", "controlvector")),
        (pack_gguf([]), ("no directions",)),
        (pack_gguf([("direction.0", VECTOR)]), ("'direction.0'", "from 1")),
        (pack_gguf([("direction.x", VECTOR)]), ("'direction.x'", "from 1")),
        (pack_gguf([("direction.01", VECTOR)]), ("'direction.01'", "from 1")),
        (pack_gguf([("output.weight", VECTOR)]), ("'output.weight'",)),
        (pack_gguf([*GOOD, *GOOD]), ("two of tensor 'direction.1'",)),
        (pack_gguf(GOOD, values=[(text("a"), struct.pack("<IB", 0, 1))] * 2), ("two of key 'a'",)),
        (pack_gguf([*GOOD, ("direction.2", VECTOR[:7])]), ("8 numbers", "7 in 'direction.2'")),
        (pack_gguf([("direction.1", [1, np.nan])]), ("NaN",)),
        (pack_gguf([("direction.1", [0, 0])]), ("only zeros",)),
        (pack_gguf(GOOD, kind=2), ("ggml type 2", "F32")),
        (pack_gguf(GOOD, dims=[4, 2]), ("2 dimensions", "d_model")),
        (pack_gguf(GOOD, dims=[2**20]), ("1048576 numbers", "truncated")),
        (pack_gguf(GOOD, dims=[2**60]), (str(2**60), "at most")),
        (pack_gguf([(b"\xff\xfe", VECTOR)]), ("not UTF-8",)),
        (pack_gguf(GOOD, values=[(text("a"), struct.pack("<I", 99))]), ("type 99",)),
        (pack_gguf(GOOD, values=[(text("a"), struct.pack("<IIQ", 9, 9, 1))]), ("type 9",)),
        (pack_gguf(GOOD, values=[(text("a"), struct.pack("<IIQ", 9, 10, 2**62))]), ("truncated",)),
        (pack_gguf(GOOD, values=[(struct.pack("<Q", 2**63), b"")]), (str(2**63), "truncated")),
        (
            pack_gguf(GOOD, values=[(text("general.alignment"), struct.pack("<II", 4, 0))]),
            ("alignment of 0",),
        ),
        (
            pack_gguf(GOOD, values=[(text("a"), struct.pack("<I", 8) + text("x" * 2**21))]),
            ("header of at most",),
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1), ("truncated",)),
        (pack_gguf(GOOD)[:-8], ("truncated",)),
        (pack_gguf(GOOD)[:40], ("truncated",)),
    ),
)
def test_a_false_control_vector_is_refused(tmp_path, data, words):
    message = refused_bytes(tmp_path, "v.gguf", data)
    assert all(word in message for word in (*words, "v.gguf")), message


def test_tensors_of_a_control_vector_that_share_their_bytes_count_each(tmp_path):
    vector = np.ones(2**20, np.float32)
    names = [f"direction.{n}" for n in range(1, 41)]
    data = pack_gguf([(names[0], vector)])
    infos = b"".join(text(n) + struct.pack("<IQIQ", 1, 2**20, 0, 0) for n in names)
    head = data[:8] + struct.pack("<QQ", 40, 1) + data[24 : 24 + 8 + 20 + 4 + 8 + 13] + infos
    data = head + bytes(-len(head) % 32) + vector.tobytes()
    message = refused_bytes(tmp_path, "v.gguf", data)
    assert str(40 * 2**20) in message and "at most" in message


@pytest.mark.parametrize(
    "data, words",
    (
        (b"", ("readable NumPy",)),
        (npy(VECTOR)[:-3], ("(8,)", "holds 29 bytes")),
        (npy(VECTOR) + b"abc", ("(8,)", "holds 35 bytes")),
        (npy_header((10**12,)), (str(10**12), "holds 0 bytes")),
        (npy_header((0, 10**12)), ("d_model",)),
        (npy_header((-8,)), ("(-8,)",)),
        (npy_header((2**31, 2**33)), ("holds 0 bytes",)),
        (npy(np.array([{}, None], object)), ("object",)),
        (npy(np.array(["a"])), ("<U1",)),
        (npy(np.zeros(2, [("a", "f4")])), ("'a'",)),
        (npy(VECTOR).replace(b"NUMPY\x01", b"NUMPY\x09"), ("readable NumPy", "(9, 0)")),
        (npy_header("x" * 5000), ("readable NumPy",)),
        (npy_header((8,), descr="-" * 900), ("readable NumPy",)),
        (pickle.dumps({"v": [1.0]}), ("readable NumPy",)),
    ),
)
def test_a_false_numpy_file_is_refused(tmp_path, data, words):
    message = refused_bytes(tmp_path, "v.npy", data, **PLAIN)
    assert all(word in message for word in (*words, "v.npy")), message


@pytest.mark.parametrize(
    "data, words",
    (
        (b"", ("readable npz",)),
        (zipped({"v.npy": npy(VECTOR)})[:-30], ("readable npz",)),
        (zipped({"v.npy": npy(VECTOR), "v": npy(VECTOR)}), ("two of member 'v'",)),
        (zipped({"notes.txt": b"hello"}), ("readable NumPy",)),
        (zipped({"v.npy": npy(VECTOR)}, zipfile.ZIP_LZMA), ("method 14", "stored or deflated")),
        (zipped({"v.npy": npy(VECTOR)}, zipfile.ZIP_BZIP2), ("method 12", "stored or deflated")),
        (zipped({"v-.npy": npy(VECTOR)}).replace(b"v-.npy", b"v\xe9.npy"), ("not in UTF-8",)),
        (zipped({"v.npy": npy(VECTOR)}).replace(b"\x00v.npy", b"\x00\n.npy"), ("printed",)),
        (zipped({f"{n}.npy": b"" for n in range(5000)}), ("4096 members",)),
    ),
)
def test_a_false_numpy_archive_is_refused(tmp_path, data, words):
    message = refused_bytes(tmp_path, "v.npz", data, **PLAIN)
    assert all(word in message for word in (*words, "v.npz")), message


def test_no_pickle_runs(tmp_path):
    made = tmp_path / "made"
    torch.save({"v": torch.ones(3), "w": Command(made)}, tmp_path / "v.pt")
    assert "mkdir" in refusal(tmp_path / "v.pt", **PLAIN)
    (tmp_path / "legacy.bin").write_bytes(pickle.dumps(Command(made)))
    assert "torch.save" in refusal(tmp_path / "legacy.bin", **PLAIN)
    np.save(tmp_path / "v.npy", np.array([Command(made)]), allow_pickle=True)
    assert "object" in refusal(tmp_path / "v.npy", **PLAIN)
    assert not made.exists()


@pytest.mark.parametrize(
    "held, words",
    (
        ([torch.ones(3)], ("list", "dict of tensors")),
        ({"v": 3.0}, ("float under 'v'",)),
        ({3: torch.ones(3)}, ("under 3", "names")),
        ({"v": {"w": torch.ones(3)}}, ("dict under 'v'",)),
        (torch.nn.Linear(2, 2), ("torch.nn.modules.linear", "no other code")),
        (torch.ones(3).to_sparse(), ("sparse",)),
        (np.ones(3), ("numpy",)),
        ({"v": torch.ones(3, device="meta")}, ("meta",)),
        (torch.ones(1).expand(2**40), (str(2**40), "at most")),
    ),
)
def test_a_pytorch_file_of_anything_but_tensors_is_refused(tmp_path, held, words):
    torch.save(held, tmp_path / "v.pt")
    message = refusal(tmp_path / "v.pt", **PLAIN)
    assert all(word in message for word in (*words, "v.pt")), message


def test_false_archives_of_pytorch_are_refused(tmp_path):
    good = torch_pickle(torch.ones(4))
    (tmp_path / "v.pt").write_bytes(torch_file(good, struct.pack("<4f", 1, 2, 3, 4)))
    assert read_candidates(tmp_path / "v.pt", **PLAIN)[0].vectors[5].tolist() == [1, 2, 3, 4]
    inflated = good.replace(b"K\x04", b"J\x00\x00\x00\x01")
    assert "readable PyTorch" in refused_bytes(tmp_path, "v.pt", torch_file(inflated), **PLAIN)
    packed = zipped({"x/data.pkl": good, "x/data/0": bytes(16)}, zipfile.ZIP_DEFLATED)
    assert "without compression" in refused_bytes(tmp_path, "v.pt", packed, **PLAIN)
    assert "data.pkl" in refused_bytes(tmp_path, "v.pt", zipped({"a": b"b"}), **PLAIN)
    legacy = io.BytesIO()
    torch.save(torch.ones(3), legacy, _use_new_zipfile_serialization=False)
    assert "1.6 or later" in refused_bytes(tmp_path, "v.pt", legacy.getvalue(), **PLAIN)
