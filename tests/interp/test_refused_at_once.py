"""What cannot work is refused before anything long begins."""

import pytest

from interp.cli import app
from interp.config import Config, DivergenceConfig, HybridConfig, split_problems
from interp.errors import UserError
from interp.pairs import Pair, load_pair
from interp.pipeline import run_main_job
from interp.progress import Progress
from interp.setup import Setup


@pytest.mark.parametrize(
    "kind, config", [("hybrid", HybridConfig("x")), ("divergence", DivergenceConfig("x"))]
)
def test_one_model_alone_has_no_hybrid_and_no_divergence(tiny, tmp_path, kind, config):
    with pytest.raises(UserError, match=f"stands alone, and a {kind} needs .* give --thinking"):
        Setup(kind, Pair("x", tiny, tiny), config, tmp_path / "out", Progress())
    assert not (tmp_path / "out").exists()


def test_an_unknown_annotator_is_refused_before_models_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.pipeline.load_pair", None)
    with pytest.raises(UserError, match=r"annotator 'keyword'.*keywords"):
        run_main_job(Config("countdown-rl", annotator="keyword", behaviors=None), tmp_path, "")


@pytest.mark.parametrize("command", ["run", "hybrid", "diverge"])
@pytest.mark.parametrize(
    ("option", "given", "refusal"),
    [
        ("--annotator", "keyword", "annotator 'keyword'.*keywords"),
        ("--device-map", "sideways", "under the device map 'sideways'"),
    ],
)
def test_every_command_passes_on_what_it_is_given(command, option, given, refusal, tmp_path):
    asked = [command, option, given, "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=refusal):
        app(asked, standalone_mode=False)
    assert not (tmp_path / "out").exists()


def test_a_path_without_a_model_is_called_a_path():
    with pytest.raises(UserError, match="^There is nothing at '/no/such/model'"):
        load_pair("/no/such/model")


def test_a_task_too_small_to_split_is_refused_before_models_are_loaded(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    with pytest.raises(UserError, match="has 1 problems, expected at least 5"):
        split_problems(Config("countdown-rl", task=str(path)))


def test_a_model_says_in_a_line_what_it_is(tiny):
    assert tiny.fingerprint in repr(tiny)
    assert len(repr(tiny)) < 600
