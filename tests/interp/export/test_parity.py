"""The proof holds for what was exported, fails for anything else, and says when it proves nothing."""

import json
import sys

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from interp.cli import main
from interp.directions import DirectionSet
from interp.export import Export, export_direction, prove
from interp.export.parity import STEPS
from interp.interventions import intervene
from interp.tasks import Countdown
from interp.traces import decode, prompt_tokens
from tests.interp.export.conftest import direction_for

DOSE = 0.5
PROVABLE = ["hook", "hf-bias", "gguf", "lm-eval"]


@pytest.mark.parametrize("format", PROVABLE)
def test_an_addition_is_proven_to_rounding(sharp, direction, tmp_path, format):
    request = Export(direction, DOSE)
    export_direction(sharp, request, format, tmp_path)
    proof = prove(sharp, request, format, tmp_path)
    assert proof["status"] == "proven" and proof["reason"] == ""
    assert proof["text_equal"] and proof["decode"]["passes"] > 20
    for part in ("prompt", "decode"):
        assert proof[part]["logits_max_abs"] < 1e-4 and proof[part]["kl_max"] < 1e-6
    assert proof["effect"]["logits_max_abs"] > 0.1
    assert json.loads((tmp_path / "parity.json").read_text()) == proof


@pytest.mark.parametrize(
    ("format", "at"),
    [(f, "all") for f in PROVABLE if f != "gguf"] + [("hook", "starts")],
)
def test_an_ablation_is_proven_to_rounding(sharp, direction, tmp_path, format, at):
    request = Export(direction, operation="ablate", at=at)
    export_direction(sharp, request, format, tmp_path)
    proof = prove(sharp, request, format, tmp_path)
    assert proof["status"] == "proven"
    assert max(proof[part]["logits_max_abs"] for part in ("prompt", "decode")) < 1e-4
    everywhere = "embedding" in proof["reference"]
    assert everywhere == (format == "hf-bias")


@pytest.mark.parametrize("format", ["hook", "hf-bias", "gguf"])
def test_grouped_heads_and_tied_embeddings_are_carried_over(grouped, tmp_path, format):
    operation = "ablate" if format == "hf-bias" else "add"
    request = Export(direction_for(grouped), DOSE, operation)
    export_direction(grouped, request, format, tmp_path)
    assert prove(grouped, request, format, tmp_path)["status"] == "proven"


@pytest.mark.parametrize("format", PROVABLE)
def test_a_text_ends_where_the_models_own_does(sharp, direction, tmp_path, monkeypatch, format):
    request, prompts = Export(direction, DOSE), [p.prompt for p in Countdown().problems()[:40]]
    export_direction(sharp, request, format, tmp_path)
    with intervene(sharp, *request.edits(sharp)):
        texts = decode(sharp, [prompt_tokens(sharp, prompt) for prompt in prompts], None, STEPS)
    lasts = [max(map(said.index, said)) for said in texts]
    last, said, prompt = max(zip(lasts, texts, prompts, strict=True))
    assert 0 < last
    monkeypatch.setattr(sharp, "more_ends", (said[last],))
    proof = prove(sharp, request, format, tmp_path, [prompt])
    assert proof["status"] == "proven" and proof["decode"]["passes"] == last
    monkeypatch.setattr(sharp, "more_ends", (said[0],))
    proof = prove(sharp, request, format, tmp_path, [prompt])
    assert proof["status"] == "unproven" and "ends with its first token" in proof["reason"]


def change_hook(out, factor, layer):
    save_file(
        {k: factor * v for k, v in load_file(out / "vector.safetensors").items()},
        out / "vector.safetensors",
    )
    code = (out / "steer.py").read_text()
    (out / "steer.py").write_text(code.replace("LAYERS = [1]", f"LAYERS = [{layer}]"))


def change_bias(out, factor, layer):
    path = out / "checkpoint" / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    name = "model.layers.{}.mlp.down_proj.bias"
    bias = weights[name.format(1)]
    weights[name.format(1)] = torch.zeros_like(bias)
    weights[name.format(layer)] = factor * bias
    save_file(weights, path, metadata=metadata)


def change_control_vector(out, factor, layer):
    values = GGUFReader(out / "vector.gguf").tensors[0].data.copy()
    (out / "vector.gguf").unlink()
    writer = GGUFWriter(out / "vector.gguf", "controlvector")
    writer.add_tensor(f"direction.{layer}", factor * values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def change_steering(out, factor, layer):
    (steering,) = torch.load(out / "steer.pt", weights_only=True).values()
    steering["steering_coefficient"] *= factor
    torch.save({f"layers.{layer}": steering}, out / "steer.pt")


CHANGES = {
    "hook": change_hook,
    "hf-bias": change_bias,
    "gguf": change_control_vector,
    "lm-eval": change_steering,
}


@pytest.mark.parametrize(
    ("factor", "layer"), [(-1.0, 1), (2.0, 1), (1.0, 2)], ids=["sign", "dose", "layer"]
)
@pytest.mark.parametrize("format", PROVABLE)
def test_a_wrong_sign_dose_or_layer_in_the_file_fails(
    sharp, direction, tmp_path, format, factor, layer
):
    request = Export(direction, DOSE)
    export_direction(sharp, request, format, tmp_path)
    CHANGES[format](tmp_path, factor, layer)
    proof = prove(sharp, request, format, tmp_path, steps=6)
    assert proof["status"] == "failed"
    assert "logits of the prompt" in proof["reason"] and "resid of the decode" in proof["reason"]


DAMAGED = {
    "hook": "steer.py",
    "hf-bias": "checkpoint/model.safetensors",
    "gguf": "vector.gguf",
}


@pytest.mark.parametrize("format", DAMAGED)
def test_a_damaged_file_fails(sharp, direction, tmp_path, format):
    request = Export(direction, DOSE)
    export_direction(sharp, request, format, tmp_path)
    (tmp_path / DAMAGED[format]).write_bytes(b"(not what was written")
    assert prove(sharp, request, format, tmp_path, steps=2)["status"] == "failed"


def test_an_edit_that_could_go_missing_unnoticed_is_not_proven(sharp, direction, tmp_path):
    request = Export(direction, 1e-6)
    export_direction(sharp, request, "hook", tmp_path)
    proof = prove(sharp, request, "hook", tmp_path)
    assert proof["status"] == "unproven" and "its absence might pass" in proof["reason"]


@pytest.mark.parametrize(
    ("format", "module", "reason"),
    [
        ("gguf", "xllamacpp.xllamacpp", "llama.cpp is not there"),
        ("lm-eval", "lm_eval.models.hf_steered", "lm-eval does not import"),
        ("vllm", "vllm", "vLLM is not run here"),
    ],
)
def test_without_its_software_an_export_is_unproven(
    sharp, direction, tmp_path, monkeypatch, format, module, reason
):
    monkeypatch.setitem(sys.modules, module, None)
    request = Export(direction, DOSE)
    export_direction(sharp, request, format, tmp_path)
    proof = prove(sharp, request, format, tmp_path, steps=2)
    assert proof["status"] == "unproven" and reason in proof["reason"]
    assert proof["prompt"] is None and proof["text_equal"] is None


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["whenlens", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.fixture
def file(sharp, direction, sharp_folder, tmp_path):
    """A directions file, and the arguments that name the model."""
    path = tmp_path / "directions.safetensors"
    DirectionSet.of([direction]).save(path)
    return path, "--model", sharp_folder, "--out", tmp_path / "out", "--format", "hook"


def test_the_command_writes_and_proves_and_says_so(file, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, *file, "--dose", DOSE) == 0
    said = capsys.readouterr().out
    assert "verification: proven in transformers" in said and "steer.py" in said
    assert (tmp_path / "out" / "verification" / "parity.json").is_file()


def test_the_command_exits_with_3_where_a_proof_fails(file, monkeypatch, capsys):
    monkeypatch.setattr(Export, "shift", property(lambda self: -self.unit))
    assert command(monkeypatch, *file, "--dose", DOSE) == 3
    assert "failed in transformers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "verificatio"], "Unknown direction 'verificatio': did you mean verification"),
        (["--only", "verification@nobody"], "Unknown direction 'verification@nobody'"),
        (["--operation", "multiply"], "Unknown operation 'multiply'"),
        (["--at", "ends"], "Unknown position 'ends'"),
        (["--format", "gguff"], "Unknown format 'gguff'"),
        (["--model", "countdown-rl/base"], "holds no direction fitted in countdown-rl/base"),
        (["--model", "nowhere"], "Unknown model or pair 'nowhere'"),
    ],
)
def test_the_command_refuses_bad_input_in_one_sentence(
    file, monkeypatch, capsys, arguments, message
):
    assert command(monkeypatch, *file, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_command_wants_a_file_of_directions(file, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path / "none.safetensors", *file[1:]) == 2
    assert "is no file" in capsys.readouterr().err
    np.save(tmp_path / "plain.npy", np.ones(32))
    assert command(monkeypatch, tmp_path / "plain.npy", *file[1:]) == 2
    assert "is no safetensors file of directions" in " ".join(capsys.readouterr().err.split())
    assert command(monkeypatch, "countdown-r1", *file[1:]) == 2
    assert "did you mean countdown-rl" in " ".join(capsys.readouterr().err.split())
