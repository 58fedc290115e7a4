"""What is written does, loaded as a user would, what a hand-written hook does in plain transformers."""

import ctypes
import json
import platform
import runpy
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model
from transformer_lens.model_bridge.sources.vllm.intervention_specs import validate_spec
from transformer_lens.model_bridge.sources.vllm.worker_extension import _apply_op
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.cli import main
from interp.directions import DirectionSet
from interp.errors import UserError
from interp.export import Export, export_direction
from interp.interventions import forward
from interp.loading import open_checkpoint
from interp.models import load_model
from interp.runs import read_json
from tests.interp.export.conftest import direction_for

TOKENS = [1, 61, 10, 70, 5, 87, 9, 33, 12, 40]
LENGTH = 0.5 * 8.0


@pytest.fixture
def unit(direction):
    return direction.vector / direction.vector.norm()


def cached_logits(model, tokens, n_prompt):
    """Logits of one pass over the prompt, then of one pass a token over the cache."""
    with torch.no_grad():
        found = model(torch.tensor([tokens[:n_prompt]]), use_cache=True)
        logits = [found.logits[0]]
        for token in tokens[n_prompt:]:
            found = model(
                torch.tensor([[token]]), past_key_values=found.past_key_values, use_cache=True
            )
            logits.append(found.logits[0])
    return torch.cat(logits)


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_baked_addition_is_the_hook_on_prompt_and_decode_steps(
    sharp, direction, unit, slow, tmp_path
):
    folder = export_direction(sharp, Export(direction, 0.5), "hf-bias", tmp_path)
    expected = slow.logits(TOKENS, {1: lambda x: x + LENGTH * unit})
    found = cached_logits(loaded(folder), TOKENS, 6)
    assert (found - expected).abs().max() < 1e-4
    assert (expected - slow.logits(TOKENS)).abs().max() > 0.1
    again = AutoTokenizer.from_pretrained(folder)
    assert again.get_vocab() == sharp.tokenizer.get_vocab()


def test_a_baked_ablation_leaves_nothing_of_the_direction_to_read(
    sharp, direction, unit, sharp_folder, tmp_path
):
    folder = export_direction(sharp, Export(direction, operation="ablate"), "hf-bias", tmp_path)

    def without(module, args, output):
        main = output[0] if isinstance(output, tuple) else output
        main = main - (main @ unit)[..., None] * unit
        return (main, *output[1:]) if isinstance(output, tuple) else main

    oracle = loaded(sharp_folder)
    writers = [oracle.model.embed_tokens]
    for block in oracle.model.layers:
        writers += [block.self_attn, block.mlp]
    for writer in writers:
        writer.register_forward_hook(without)
    expected, found = (cached_logits(m, TOKENS, 6) for m in (oracle, loaded(folder)))
    assert (found - expected).abs().max() < 1e-4
    assert (expected - cached_logits(loaded(sharp_folder), TOKENS, 6)).abs().max() > 0.1


@pytest.mark.parametrize("operation", ["add", "ablate"])
def test_the_hook_file_steers_a_plain_model_until_its_handles_are_removed(
    sharp, direction, unit, slow, sharp_folder, tmp_path, operation
):
    path = export_direction(sharp, Export(direction, 0.5, operation), "hook", tmp_path)
    edits = {1: lambda x: x + LENGTH * unit}
    if operation == "ablate":
        edits = {layer: lambda x: x - (x @ unit)[..., None] * unit for layer in range(3)}
    model = loaded(sharp_folder)
    handles = runpy.run_path(str(path))["attach"](model)
    assert (cached_logits(model, TOKENS, 6) - slow.logits(TOKENS, edits)).abs().max() < 1e-4
    for handle in handles:
        handle.remove()
    assert (cached_logits(model, TOKENS, 6) - slow.logits(TOKENS)).abs().max() < 1e-4


def test_the_hook_file_at_starts_edits_the_prompts_end_and_then_sentence_ends_alone(
    sharp, direction, unit, slow, sharp_folder, tmp_path
):
    request = Export(direction, 0.5, at="starts")
    model = loaded(sharp_folder)
    runpy.run_path(str(export_direction(sharp, request, "hook", tmp_path)))["attach"](model)
    n = 6
    starts = [i == n - 1 or (i >= n and bool(sharp.boundary[t])) for i, t in enumerate(TOKENS)]
    assert 0 < sum(starts[n:]) < len(starts[n:])
    where = torch.tensor(starts)[:, None]
    expected = slow.logits(TOKENS, {1: lambda x: x + where * LENGTH * unit})
    assert (cached_logits(model, TOKENS, n) - expected).abs().max() < 1e-4


def test_the_hook_file_needs_neither_this_package_nor_much_reading(sharp, direction, tmp_path):
    code = export_direction(sharp, Export(direction), "hook", tmp_path).read_text()
    assert "interp" not in code and "whenlens" not in code
    assert len([line for line in code.split('"""')[2].splitlines() if line.strip()]) <= 20


def test_a_control_vector_is_one_f32_tensor_named_after_its_block(sharp, direction, unit, tmp_path):
    path = export_direction(sharp, Export(direction, 0.5), "gguf", tmp_path)
    reader = GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name) == ("direction.1", "F32")
    np.testing.assert_allclose(tensor.data, LENGTH * unit.numpy(), rtol=1e-6)


X86_LINUX = (platform.system(), platform.machine()) == ("Linux", "x86_64")


@pytest.mark.skipif(not X86_LINUX, reason="calls C++ by the layout of its objects on this platform")
@pytest.mark.parametrize("layer", [1, 2])
def test_llama_cpps_own_reader_finds_in_the_file_what_the_proof_gives_it(sharp, layer, tmp_path):
    from interp.export.control_vector import read
    from interp.export.llama_cpp import library

    request = Export(direction_for(sharp, layer))
    path = export_direction(sharp, request, "gguf", tmp_path)
    found = np.zeros((2, 32), np.float32)
    values = read_with_llama_cpp(library(), str(path).encode())
    found.ravel()[: len(values)] = values
    np.testing.assert_array_equal(found, read(path, 3))
    assert found[layer - 1].any() and not found[2 - layer].any()


class Vector(ctypes.Structure):
    """`std::vector`."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("begin", "end", "room")]


class Info(ctypes.Structure):
    """`common_control_vector_load_info`: strength, and a string as compilers laid it out before 2015."""

    _fields_ = [("strength", ctypes.c_float), ("path", ctypes.c_void_p)]


class Data(ctypes.Structure):
    """`common_control_vector_data`."""

    _fields_ = [("n_embd", ctypes.c_int), ("data", Vector)]


def read_with_llama_cpp(library, path):
    load = (
        library._Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE
    )
    text = ctypes.create_string_buffer(struct.pack("QQi4x", len(path), len(path), 5) + path)
    info = Info(1.0, ctypes.addressof(text) + 24)
    begin, size = ctypes.addressof(info), ctypes.sizeof(info)
    found = Data()
    load(ctypes.byref(found), ctypes.byref(Vector(begin, begin + size, begin + size)))
    raw = ctypes.string_at(found.data.begin, found.data.end - found.data.begin)
    return np.frombuffer(raw, np.float32)


def test_the_lm_eval_file_is_what_its_steered_model_reads(sharp, direction, unit, tmp_path):
    path = export_direction(sharp, Export(direction, 0.5), "lm-eval", tmp_path / "add")
    ((point, steering),) = torch.load(path, weights_only=True).items()
    assert point == "layers.1" and steering["action"] == "add" and steering["bias"] is None
    added = steering["steering_vector"] * steering["steering_coefficient"]
    torch.testing.assert_close(added, LENGTH * unit)
    path = export_direction(
        sharp, Export(direction, operation="ablate"), "lm-eval", tmp_path / "ablate"
    )
    clamped = torch.load(path, weights_only=True)
    assert list(clamped) == ["layers.0", "layers.1", "layers.2"]
    assert {(s["action"], s["steering_coefficient"]) for s in clamped.values()} == {("clamp", 0.0)}


def test_the_vllm_file_is_an_edit_that_transformer_lens_applies(sharp, direction, unit, tmp_path):
    path = export_direction(sharp, Export(direction, 0.5), "vllm", tmp_path)
    ((hook, edit),) = read_json(path).items()
    assert hook == "blocks.1.hook_out"
    resid = torch.randn(4, 32)
    done = _apply_op(resid, validate_spec(hook, edit, width=32))
    torch.testing.assert_close(done, resid + LENGTH * unit)


@pytest.mark.parametrize(
    ("format", "request_of", "message"),
    [
        (
            "gguf",
            {"operation": "ablate"},
            "'gguf' cannot ablate: use 'hook' or 'hf-bias' or 'lm-eval'",
        ),
        ("vllm", {"operation": "ablate"}, "'vllm' cannot ablate: use 'hook'"),
        ("hf-bias", {"at": "starts"}, "only some positions .* use 'hook' for that"),
        ("lm-eval", {"at": "starts"}, "only some positions .* use 'hook' for that"),
        ("gguf", {"at": "starts"}, "only some positions .* use 'hook' for that"),
        ("vllm", {"at": "starts"}, "only some positions .* use 'hook' for that"),
        ("gguf", {"layer": 0}, "cannot edit layer 0 .its first is 1.: use 'hook' or 'hf-bias'"),
        ("guff", {}, "Unknown format 'guff': did you mean gguf"),
        ("hook", {"dose": 0.0}, "length 0.0: expected a finite direction"),
        ("hook", {"dose": float("nan")}, "expected a finite direction"),
        ("hook", {"layer": 3}, "Layer 3 is out of range"),
        ("hook", {"vector": torch.ones(16)}, "d_model 16, but sharp has d_model 32"),
        (
            "hook",
            {"tokenizer_hash": "0123456789abcdef"},
            "tokenizer_hash 0123456789abcdef, but sharp has tokenizer_hash",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_with_what_can(
    sharp, direction, tmp_path, format, request_of, message
):
    of_direction = {"layer", "vector", "tokenizer_hash"}
    changed = replace(direction, **{k: v for k, v in request_of.items() if k in of_direction})
    fields = {k: v for k, v in request_of.items() if k not in of_direction}
    with pytest.raises(UserError, match=message):
        # The types are wrong on purpose in some cases.
        export_direction(sharp, Export(changed, **fields), format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_not_overwritten_and_an_export_is(sharp, direction, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are no export"):
        export_direction(sharp, Export(direction), "hook", tmp_path)
    for dose in (0.5, 1.0):
        export_direction(sharp, Export(direction, dose), "hook", tmp_path / "out")
    assert read_json(tmp_path / "out" / "export.json")["request"]["dose"] == 1.0


def test_without_the_package_gguf_the_refusal_says_how_to_get_it(
    sharp, direction, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="pip install 'whenlens.export.'"):
        export_direction(sharp, Export(direction), "gguf", tmp_path)


def test_a_checkpoint_that_moved_or_changed_is_not_baked(save_random, tmp_path):
    folder = save_random(scale=5.0, seed=4)
    model = load_model(folder, "moving", device="cpu")
    request = Export(direction_for(model))
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match="has changed since moving was loaded"):
        export_direction(model, request, "hf-bias", tmp_path)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(UserError, match="no longer in"):
        export_direction(model, request, "hf-bias", tmp_path)


def test_an_adapter_is_not_exported_and_the_refusal_says_what_to_save(save_random, tmp_path):
    folder, lora, whole = save_random(scale=5.0, seed=6), tmp_path / "lora", tmp_path / "whole"
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(lora)
    change = {"base_model_name_or_path": str(folder)}
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(config | change))
    model = load_model(lora, device="cpu")
    for format in ("hook", "hf-bias"):
        with pytest.raises(UserError, match="lora comes from .*lora.*: save weights and"):
            export_direction(model, Export(direction_for(model)), format, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = open_checkpoint(lora, torch.float32, None)
    for part in (found.weights, found.tokenizer):
        part.save_pretrained(whole)
    saved = load_model(whole, device="cpu")
    torch.testing.assert_close(forward(saved, [[1, 40, 41]]), forward(model, [[1, 40, 41]]))
    export_direction(saved, Export(direction_for(saved)), "hf-bias", tmp_path / "out")


def test_a_gguf_file_is_refused_before_it_is_read(direction, tmp_path, monkeypatch, capsys):
    DirectionSet({("verification", direction.model): direction}).save(
        tmp_path / "directions.safetensors"
    )
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    file = str(tmp_path / "small.gguf")
    asked = ["export", str(tmp_path / "directions.safetensors"), "--format", "hook", "--out", "out"]
    monkeypatch.setattr(sys, "argv", ["whenlens", *asked, "--model", file])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "small comes from" in "".join(capsys.readouterr())
