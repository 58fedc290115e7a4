"""Checkpoints that would run code, fill in random weights, or read what is not theirs are refused."""

import io
import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from interp.errors import UserError
from interp.models import load_model
from interp.organisms.checkpoints import build_model, save_checkpoint
from interp.pairs import Pair, load_pair
from interp.runs import read_json
from interp.traces import generate
from tests.interp.conftest import PROBLEMS

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of a checkpoint, to be spoiled."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_code_of_a_checkpoint_is_not_run_even_if_someone_says_yes(folder, monkeypatch, what):
    ran = folder / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    auto = {name: "own.Own" for name in ("AutoConfig", "AutoModelForCausalLM")}
    if what == "model":
        change(folder / "config.json", model_type="own", auto_map=auto)
    else:
        change(
            folder / "tokenizer_config.json",
            tokenizer_class="Own",
            auto_map={"AutoTokenizer": ["own.Own", "own.Own"]},
        )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    try:
        load_model(folder, device="cpu")
    except UserError:
        pass
    else:
        assert what == "tokenizer"  # tokenizer.json is enough for one without its code
    assert not ran.exists()


def test_weights_that_are_missing_are_not_made_up(folder):
    tensors = load_file(folder / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if ".1." not in name}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, folder / WEIGHTS, {"format": "pt"})
    n = len(tensors) - len(kept)
    with pytest.raises(UserError, match=rf"lacks {n} of the weights .* as model\.layers\.1\."):
        load_model(folder, device="cpu")


def test_weights_that_the_configuration_has_no_place_for_are_not_left_out(folder):
    tensors = load_file(folder / WEIGHTS)
    strange = sorted(name for name in tensors if name.startswith("model.layers.2."))
    change(folder / "config.json", num_hidden_layers=2)
    said = rf"has {len(strange)} weights .* no place for, as {strange[0]}: save or fetch"
    with pytest.raises(UserError, match=said):
        load_model(folder, device="cpu")


def test_buffers_of_older_checkpoints_and_tied_weights_are_no_strange_weights(tiny, folder):
    tensors = load_file(folder / WEIGHTS)
    attention = "model.layers.1.self_attn"
    more = {"rotary_emb.inv_freq": 4, "attn.masked_bias": 1, "attn.bias": 9, "attention.bias": 9}
    tensors |= {f"{attention}.{name}": torch.ones(size) for name, size in more.items()}
    assert ("lm_head.weight" in tensors) != read_json(folder / "config.json")["tie_word_embeddings"]
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    change(folder / "config.json", tie_word_embeddings=True)
    model = load_model(folder, device="cpu")
    assert torch.equal(model.hf.lm_head.weight, tensors["lm_head.weight"])
    save_file(tensors | {f"{attention}.q_proj.bias": torch.ones(32)}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"has 1 weights .* as .*q_proj\.bias"):
        load_model(folder, device="cpu")


def test_weights_of_another_shape_are_told_with_both_shapes(folder, capfd):
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.0.mlp.down_proj.weight"
    width, inner = tensors[name].shape
    change(folder / "config.json", intermediate_size=inner + 8)
    said = rf"as {name}, which is \[{width}, {inner}\] in the file and \[{width}, {inner + 8}\] by config.json"
    with pytest.raises(UserError, match=said):
        load_model(folder, device="cpu")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("where", ["x.safetensors.index.json", "adapter_model.bin"])
def test_a_configuration_may_not_send_elsewhere_for_weights(folder, where):
    change(folder / "config.json", transformers_weights=where)
    with pytest.raises(UserError, match="sends elsewhere for weights"):
        load_model(folder, device="cpu")


def test_the_index_of_pickled_parts_beside_safetensors_is_not_read(tiny, folder):
    """As in Llama 2 and Mistral 7B."""
    parts = '{"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}}'
    (folder / "pytorch_model.bin.index.json").write_text(parts)
    assert load_model(folder, device="cpu").fingerprint == tiny.fingerprint


def test_an_index_of_lists_is_one_sentence(folder):
    (folder / "other.safetensors.index.json").write_text('{"weight_map": {"a": ["x"]}}')
    with pytest.raises(UserError, match=r"names \['x'\]: expected the names"):
        load_model(folder, device="cpu")


def test_an_adapter_of_itself_is_one_sentence(folder):
    named = {"base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match="stands on itself"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("template", "fault"),
    [("{% if %}", "fails"), ("{{ 1 / 0 }}", "fails"), ("What?", "leaves out what is asked")],
)
def test_a_chat_template_that_asks_nothing_is_one_sentence(folder, template, fault):
    change(folder / "tokenizer_config.json", chat_template=template)
    with pytest.raises(UserError, match=f"{fault}.*give another by --template"):
        load_pair(str(folder), device="cpu")
    assert load_pair(str(folder), device="cpu", template="{problem}").alone


def test_a_gpu_that_is_not_there_is_not_the_checkpoints_fault(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for asked in ({"device": "cuda"}, {"device_map": "cuda:0"}, {"device_map": {"": "cuda:1"}}):
        with pytest.raises(UserError, match="asks for a GPU, and PyTorch sees none"):
            load_model(folder, **asked)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for asked in ({"device": "cuda:2"}, {"device_map": {"model": "cuda:1", "lm_head": 2}}):
        with pytest.raises(UserError, match="'cuda:2' asks for a GPU, and PyTorch sees 2 here"):
            load_model(folder, **asked)


def test_adapters_that_name_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / other)}))
    with pytest.raises(UserError, match="stands on itself"):
        load_model(tmp_path / "a")


@pytest.mark.parametrize("device", ["banana", "mps", "xla"])
def test_a_device_that_is_not_here_is_one_sentence(folder, device):
    if device == "mps" and torch.backends.mps.is_available():
        device = "xpu"
    with pytest.raises(
        UserError, match=f"no device '{device}' here .*: give cpu, cuda or cuda:NUM"
    ):
        load_model(folder, device=device)


def test_a_text_ends_at_the_one_end_token_that_a_checkpoint_names(folder):
    assert load_model(folder, device="cpu").more_ends == ()
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    model = load_model(folder, device="cpu")
    assert model.ends == (model.tokenizer.eos_token_id, 7)


@pytest.mark.parametrize("name", ["weights.bin", "../outside.safetensors"])
def test_an_index_may_name_only_safetensors_files_beside_it(folder, tiny_folder, name):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "decoy.safetensors")
    shutil.copy(tiny_folder / WEIGHTS, folder.parent / "outside.safetensors")
    torch.save(tensors, folder / "weights.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"names '{name}': expected the names of .safetensors"):
        load_model(folder, device="cpu")


def test_a_checkpoint_in_parts_loads_and_its_index_is_in_the_fingerprint(tiny, tiny_folder, folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    index = folder / f"{WEIGHTS}.index.json"
    found = load_model(folder, device="cpu")
    for name, tensor in tiny.bridge.original_model.state_dict().items():
        assert torch.equal(found.bridge.original_model.state_dict()[name], tensor)
    change(index, metadata={"total_size": 1})
    assert load_model(folder, device="cpu").fingerprint != found.fingerprint


@pytest.mark.parametrize("spoiled", ["format", "names"])
def test_an_adapter_that_is_a_pickle_or_has_other_names_is_refused(tiny_folder, tmp_path, spoiled):
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    change(tmp_path / "adapter_config.json", base_model_name_or_path=str(tiny_folder))
    weights = tmp_path / "adapter_model.safetensors"
    tensors, said = load_file(weights), "has no adapter_model.safetensors"
    if spoiled == "format":
        weights.unlink()
        torch.save(tensors, tmp_path / "adapter_model.bin")
    else:
        save_file({name.replace("q_proj", "x_proj"): t for name, t in tensors.items()}, weights)
        said = "does not fit its base"
    with pytest.raises(UserError, match=said):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("where", ["checkpoint", "adapter"])
def test_a_tokenizer_with_more_tokens_than_the_weights_embed_is_refused(folder, tmp_path, where):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if where == "adapter":
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tuned, base_folder, folder = (
            get_peft_model(base, LoraConfig(r=2)),
            folder,
            tmp_path / "lora",
        )
        tuned.save_pretrained(folder)
        change(folder / "adapter_config.json", base_model_name_or_path=str(base_folder))
    tokenizer.save_pretrained(folder)
    parts = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = parts["model"]["vocab"]
    vocabulary |= {f"extra-{i}": len(vocabulary) + i for i in range(300)}
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    with pytest.raises(UserError, match="put the tokenizer there that belongs to these weights"):
        load_model(folder, device="cpu")


def test_an_added_token_without_an_embedding_does_no_harm_until_a_prompt_has_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(f"<extra {i}>") for i in range(300)])
    tokenizer.save_pretrained(folder)
    model = load_model(folder, device="cpu")
    assert generate(model, PROBLEMS[:1], max_new_tokens=2)
    spoiled = replace(PROBLEMS[0], prompt=PROBLEMS[0].prompt + " <extra 299>")
    with pytest.raises(UserError, match="'<extra 299>', which copy has no embedding for"):
        generate(model, [spoiled], max_new_tokens=2)


def test_a_model_that_reads_images_is_refused_before_anything_is_installed(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"ran {args}")

    monkeypatch.setattr("subprocess.check_call", refuse)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = Gemma3Config(
        text_config=small
        | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 200},
        vision_config=small | {"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
    )
    (folder / WEIGHTS).unlink()
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    (folder / WEIGHTS).write_bytes(b"")  # nor are weights read for that
    with pytest.raises(UserError, match="reads images or sound too"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(("rows", "fits"), [(1024, True), (1200, False)])
def test_a_tokenizer_with_far_fewer_tokens_than_the_weights_embed_is_refused(tmp_path, rows, fits):
    model = build_model(0, 32, 2, 2, 64)
    save_checkpoint(model, tmp_path / "large", "")
    model.resize_token_embeddings(rows)
    model.save_pretrained(tmp_path / "large")
    if fits:  # rounded up
        assert load_model(tmp_path / "large", device="cpu").n_layers == 2
    else:
        with pytest.raises(UserError, match=f" tokens, but its weights embed {rows}"):
            load_model(tmp_path / "large", device="cpu")


def test_results_depend_on_the_tokenizer_too(tiny, folder):
    change(folder / "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}!")
    other = load_model(folder, device="cpu")
    assert other.fingerprint == tiny.fingerprint
    assert Pair("x", other, other).fingerprints != Pair("x", tiny, tiny).fingerprints
