"""Models, pairs and directions load as what they are, or say why not."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.directions import Direction, DirectionSet, mean_difference
from interp.errors import UserError
from interp.interventions import forward
from interp.models import left_pad, load_model, mean_norm, positions_of
from interp.organisms.checkpoints import build_tokenizer
from interp.organisms.corpus import VOCABULARY
from interp.pairs import Pair, check_pair, describe, load_pair, model_place
from interp.presets import PRESETS
from interp.traces import prompt_tokens

SEQUENCES = [[1, 40, 41, 42], [1, 50], [1, *range(30, 70)], [1]]


def test_left_padded_logits_are_hugging_faces_own(sharp, slow):
    found = forward(sharp, SEQUENCES)
    for row, tokens in zip(found, SEQUENCES, strict=True):
        expected = slow.logits(tokens)
        torch.testing.assert_close(row[-len(tokens) :], expected, atol=1e-4, rtol=1e-4)


def test_left_padding_puts_each_sequence_at_the_right_end():
    ids, real = left_pad(SEQUENCES, 0, torch.device("cpu"))
    for row, mask, tokens in zip(ids, real, SEQUENCES, strict=True):
        assert row[mask].tolist() == tokens
        assert mask.tolist() == [False] * (41 - len(tokens)) + [True] * len(tokens)
        assert positions_of(mask[None])[0][mask].tolist() == list(range(len(tokens)))


def test_the_shape_is_the_configurations(tiny):
    assert (tiny.n_layers, tiny.d_model) == (3, 32)
    assert tiny.boundary.tolist() == [word == "." for word in VOCABULARY]


def test_the_fingerprint_names_the_weights(tiny, tiny_folder, sharp):
    assert load_model(tiny_folder, "again", device="cpu").fingerprint == tiny.fingerprint
    assert sharp.fingerprint != tiny.fingerprint


def test_weights_are_loaded_in_float32_and_frozen(tiny):
    weights = list(tiny.bridge.original_model.parameters())
    assert {w.dtype for w in weights} == {torch.float32}
    assert not any(w.requires_grad for w in weights)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", ""])
def test_a_folder_without_a_checkpoint_is_an_error(tiny_folder, tmp_path, missing):
    folder = tmp_path / "nothing"
    if missing:
        shutil.copytree(tiny_folder, folder)
        (folder / missing).unlink()
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_model(folder)


def test_the_saved_tokenizer_is_the_built_one(tiny_folder):
    saved, built = AutoTokenizer.from_pretrained(tiny_folder), build_tokenizer()
    text = "reach 36 with 3 8 12 . answer 3 * 8 + 12 . </s> strange"
    assert saved(text)["input_ids"] == built(text)["input_ids"]
    assert saved.decode(saved(text)["input_ids"]) == "<s> " + text.replace("strange", "<unk>")
    assert (saved.pad_token, saved.eos_token, saved.padding_side) == ("<pad>", "</s>", "left")


def test_mean_norm_is_the_mean_length():
    assert mean_norm(torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]])) == pytest.approx(3.0)


def test_a_pair_of_equal_shapes_is_accepted(tiny, sharp):
    check_pair(tiny, sharp)


@pytest.mark.parametrize(
    ("shape", "what"), [({"d_model": 16}, "d_model"), ({"n_layers": 2}, "n_layers")]
)
def test_a_pair_of_unequal_shapes_is_refused(tiny, save_random, shape, what):
    other = load_model(save_random(**shape), "other", device="cpu")
    given = {"d_model": 32, "n_layers": 3}[what]
    with pytest.raises(UserError, match=f"tiny has {what} {given} .* other has {shape[what]}"):
        check_pair(tiny, other)


def test_a_pair_whose_tokens_mean_different_things_is_refused(tiny):
    other = build_tokenizer()
    swapped = json.loads(other.backend_tokenizer.to_str())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["reach"], vocabulary["with"] = vocabulary["with"], vocabulary["reach"]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(swapped)))
    with pytest.raises(UserError, match="vocabularies of tiny .* and other .* share"):
        check_pair(tiny, replace(tiny, name="other", tokenizer=other))


def test_both_models_of_a_pair_are_asked_in_the_thinking_models_template(
    tiny_folder, sharp_folder, tmp_path
):
    base, thinking = tmp_path / "one", tmp_path / "two"
    shutil.copytree(tiny_folder, base)
    shutil.copytree(sharp_folder, thinking)
    (thinking / "chat_template.jinja").write_text(
        "{% for m in messages %}by a7 . {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} we need{% endif %}"
    )
    pair = load_pair(str(base), str(thinking), device="cpu")
    assert (pair.name, pair.base.name, pair.thinking.name) == ("one", "one", "two")
    expected = pair.base.tokenizer("by a7 . reach 36 . we need")["input_ids"]
    for model in (pair.base, pair.thinking):
        assert prompt_tokens(model, "reach 36 .") == expected
    given = load_pair(str(base), str(thinking), device="cpu", template="note {problem} by")
    assert given.base.tokenizer.decode(prompt_tokens(given.base, "reach 36 .")) == (
        "<s> note reach 36 . by"
    )
    with pytest.raises(UserError, match="no place for the problem"):
        load_pair(str(base), str(thinking), template="note by")


def test_a_model_that_stands_alone_is_both_models_of_its_pair(tiny_folder):
    pair = load_pair(str(tiny_folder), device="cpu")
    assert pair.alone and pair.names == ("base",) and pair.base is pair.thinking
    told = pair.described()
    assert set(told) == {"base"}
    assert told["base"]["dtype"] == "float32" and told["base"]["device"] == "cpu"


def test_a_folder_with_two_checkpoints_is_a_pair(tiny_folder, sharp_folder, sharp, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "mine" / "base")
    shutil.copytree(sharp_folder, tmp_path / "mine" / "thinking")
    pair = load_pair(str(tmp_path / "mine"), device="cpu")
    assert (pair.name, pair.base.name, pair.thinking.name) == (
        "mine",
        "mine/base",
        "mine/thinking",
    )
    torch.testing.assert_close(forward(pair.thinking, SEQUENCES), forward(sharp, SEQUENCES))


def test_a_folder_with_a_base_alone_is_no_pair_and_asks_no_hub(tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "mine" / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("interp.loading._fetched", lambda *of: pytest.fail(f"asked for {of}"))
    with pytest.raises(
        UserError, match="'mine' has base/ and lacks thinking/: .* give 'mine/base'"
    ):
        load_pair("mine", device="cpu")
    assert load_pair("mine/base", device="cpu").alone


@pytest.mark.parametrize(
    ("template", "mode"),
    [
        ("<u>{problem}<a><think>\n", "opened by the template"),
        ("<u>{problem}<a><think>\n\n</think>\n\n", "closed by the template"),
        ("<think>Before.</think><u>{problem}<a>", "not opened"),
    ],
)
def test_what_was_recorded_says_whether_thinking_is_open(tiny, template, mode):
    assert describe(replace(tiny, template=template))["thinking_mode"] == mode


def test_an_unknown_pair_names_the_nearest():
    with pytest.raises(UserError, match="did you mean countdown-rl"):
        load_pair("countdown-lr")


def test_a_built_in_pair_lends_either_of_its_models(tiny_folder, tmp_path):
    own = load_pair("countdown-rl", device="cpu")
    for base, thinking in (
        ("countdown-rl", "countdown-rl/thinking"),
        ("countdown-rl/base", "countdown-rl"),
        ("countdown-rl", "countdown-rl"),
    ):
        found = load_pair(base, thinking, device="cpu")
        for which in ("base", "thinking"):
            mine, theirs = getattr(found, which), getattr(own, which)
            assert (mine.name, mine.fingerprint) == (theirs.name, theirs.fingerprint)
        assert found.prompt == own.prompt != Pair.prompt
    swapped = load_pair("countdown-rl", "countdown-rl/base", device="cpu")
    assert swapped.thinking.fingerprint == own.base.fingerprint and swapped.prompt == own.prompt
    alone = load_pair("countdown-rl/thinking", device="cpu")
    assert alone.name == "countdown-rl/thinking"
    assert alone.alone and alone.base.fingerprint == own.thinking.fingerprint
    with pytest.raises(
        UserError, match="'countdown-rl' is a pair, expected one model: .*/thinking"
    ):
        model_place("countdown-rl")
    assert model_place("orz-7b/base")[0] == PRESETS["orz-7b"].base
    with pytest.raises(UserError, match="smollm2 stands alone and has no thinking model"):
        model_place("smollm2/thinking")
    with pytest.raises(UserError, match="did you mean smollm2"):
        load_pair("countdown-rl", "smolm2")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_a_finite_number_above_zero(temperature):
    with pytest.raises(UserError, match="expected a finite number above 0"):
        load_pair("countdown-rl", temperature=temperature)


def direction(model, behavior="verification", **changes):
    seed = sum(map(ord, behavior + model.name))
    vector = torch.from_numpy(np.random.default_rng(seed).normal(size=32)).float()
    made = Direction(
        vector=vector,
        behavior=behavior,
        layer=1,
        read="-13:-8",
        contrast="matched",
        unit=2.5,
        model=model.name,
        model_fingerprint=model.fingerprint,
        tokenizer_hash=model.tokenizer_hash,
        hook="blocks.1.hook_resid_post",
        fit_split="0123",
    )
    return replace(made, **changes)


def test_directions_survive_the_file(tiny, sharp, tmp_path):
    odd = replace(sharp, name="run@2/th\u00efnking \U0001f600")
    given = DirectionSet.of(
        [direction(m, b) for m in (tiny, sharp, odd) for b in ("verification", "backtracking")]
    )
    given.save(tmp_path / "d.safetensors")
    back = DirectionSet.load(tmp_path / "d.safetensors")
    assert len(back) == len(given) == 6
    for key, made in given.directions.items():
        assert torch.equal(back[key].vector, made.vector)
        assert replace(back[key], vector=made.vector) == made
    assert {d.model for d in back} == {"tiny", "sharp", odd.name}


@pytest.mark.parametrize("behavior", ["../../outside", "/outside", "", "..", "a\n"])
def test_a_direction_whose_behavior_could_be_a_path_is_not_read(tiny, tmp_path, behavior):
    DirectionSet.of([direction(tiny, behavior)]).save(tmp_path / "d.safetensors")
    with pytest.raises(UserError, match="expected a behavior of letters"):
        DirectionSet.load(tmp_path / "d.safetensors")


@pytest.mark.parametrize("header", ["{no json", "[1]", '{"behavior": "verification"}'])
def test_a_file_with_another_header_is_no_file_of_directions(tmp_path, header):
    save_file({"x": torch.ones(3)}, tmp_path / "d.safetensors", metadata={"x": header})
    with pytest.raises(UserError, match="no safetensors file of directions .*give the directions"):
        DirectionSet.load(tmp_path / "d.safetensors")


def test_two_directions_with_one_name_are_refused(tiny):
    given = [direction(tiny), direction(tiny, layer=2)]
    with pytest.raises(UserError, match="two directions for verification in tiny"):
        DirectionSet.of(given)


def test_an_empty_set_survives_the_file(tmp_path):
    DirectionSet().save(tmp_path / "d.safetensors")
    assert len(DirectionSet.load(tmp_path / "d.safetensors")) == 0


def test_a_missing_direction_names_the_nearest(tiny):
    given = DirectionSet.of([direction(tiny)])
    with pytest.raises(UserError, match="did you mean verification/tiny"):
        given["verificaton", "tiny"]
    with pytest.raises(
        UserError, match=r"'verification' was asked for, .*\('verification', 'tiny'\)"
    ):
        given["verification"]


def test_a_file_of_directions_is_for_whom_other_files_are(tiny, tmp_path):
    DirectionSet.of([direction(tiny)]).save(tmp_path / "d.safetensors")
    (tmp_path / "other").write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1 and len(list(tmp_path.iterdir())) == 2


def test_a_direction_fits_only_its_own_coordinates(tiny, sharp):
    direction(tiny).check_model(tiny)
    direction(tiny).check_model(sharp)
    with pytest.raises(UserError, match="verification was made for tiny with d_model 16"):
        direction(tiny, vector=torch.zeros(16)).check_model(tiny)
    with pytest.raises(UserError, match="tokenizer_hash other"):
        direction(tiny, tokenizer_hash="other").check_model(tiny)


def test_mean_difference_matches_its_definition_for_each_contrast():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.random(60) < 0.4
    previous = rng.choice(["a", "b"], 60)
    rest = x[y].mean(0) - x[~y].mean(0)
    np.testing.assert_allclose(mean_difference(x, y), rest, atol=1e-6)
    np.testing.assert_allclose(
        mean_difference(x, y, "overall"), x[y].mean(0) - x.mean(0), atol=1e-6
    )
    # a shift that depends on the slot alone must leave the matched direction as it is
    shift = np.where(previous == "a", 7.0, -3.0)[:, None]
    np.testing.assert_allclose(
        mean_difference(x + shift, y, "matched", previous),
        mean_difference(x, y, "matched", previous),
        atol=1e-5,
    )
