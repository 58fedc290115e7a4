"""What cannot work is refused before anything long begins."""

import pytest

from interp.cli import app
from interp.config import Config, DivergenceConfig, HybridConfig, shortage, split_problems
from interp.errors import UserError
from interp.organisms.recipes import train_organism
from interp.pairs import Pair, load_pair
from interp.pipeline import run_main_job
from interp.progress import Progress
from interp.runs import Run
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


def test_a_task_with_fewer_problems_than_splits_may_have_is_told(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("".join(f'{{"prompt": "{n} + 1", "answer": "{n + 1}"}}\n' for n in range(40)))
    found = {name: len(some) for name, some in split_problems(Config("x", task=str(path))).items()}
    assert sum(found.values()) == 40
    enough = {f"n_{name}": n for name, n in found.items()}
    assert shortage(Config("x", task=str(path), **enough)) is None
    assert shortage(Config("countdown-rl")) is None  # 392 of 400
    told = shortage(Config("x", task=str(path), **enough | {"n_fit": 30, "n_report": 600}))
    assert told is not None and "has 40 problems, shared out 30% / 20% / 50%" in told
    assert told.endswith(f"{found['fit']} of 30 to fit, {found['report']} of 600 to report.")


@pytest.mark.parametrize("given", ["a", "a\nb"])
def test_a_file_is_no_folder_to_train_or_to_run_in(given, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.organisms.recipes.build_model", None)
    path = tmp_path / given
    path.write_text("mine")
    with pytest.raises(OSError):
        train_organism("countdown-rl", path, Progress())
    with pytest.raises(UserError, match="is a file: choose a folder"):
        Run(path, {})
    assert path.read_text() == "mine"


def test_another_run_is_told_by_what_sets_it_apart(tmp_path):
    asked = {"kind": {letter: 1 for letter in "abcdefg"}}
    Run(tmp_path, asked)
    with pytest.raises(UserError, match="of another command or version"):
        Run(tmp_path, {"a": 1})
    with pytest.raises(UserError, match=r"with b 1 instead of 2\): choose another --out"):
        Run(tmp_path, {"kind": asked["kind"] | {"b": 2}})
    with pytest.raises(
        UserError, match=r"with a 1 instead of 2, .*, d 1 .*, and 3 more\)"
    ) as caught:
        Run(tmp_path, {"kind": dict.fromkeys("abcdefg", 2)})
    assert "e 1" not in str(caught.value)
    long = {"pair": f"/home/someone/{'deep/' * 20}first", "seed": 0}
    Run(tmp_path / "long", long)
    with pytest.raises(UserError, match="deep/first' instead of .*deep/second'") as caught:
        Run(tmp_path / "long", long | {"pair": long["pair"].replace("first", "second")})
    assert len(str(caught.value)) < 400
    Run(tmp_path / "odd", {"kind": 3})
    with pytest.raises(UserError, match="kind 3 instead of"):
        Run(tmp_path / "odd", asked)


def test_a_model_says_in_a_line_what_it_is(tiny):
    assert tiny.fingerprint in repr(tiny)
    assert len(repr(tiny)) < 600
