"""Traces by vLLM: a stand-in with its interface writes them, one full forward a token."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from interp.errors import UserError
from interp.models import load_model
from interp.pairs import weights_folder
from interp.traces import generate
from interp.vllm_traces import sample_with_vllm
from tests.interp.conftest import PROBLEMS, slow_model

N_TOKENS = 40


class Stand:
    """`vllm.LLM` as its documentation describes it, greedy whatever it is asked for."""

    keeps_end = True

    def __init__(self, model, revision, generation_config, gpu_memory_utilization):
        if not model.startswith("/"):
            raise RuntimeError("no such model\nand a long story")
        assert generation_config == "vllm"
        self.slow = slow_model(model)
        Stand.last = self

    def generate(self, prompts, params):
        self.params = params
        found = []
        for prompt, wanted in zip(prompts, params, strict=True):
            ids = prompt["prompt_token_ids"]
            tokens = self.slow.complete(ids, wanted.max_tokens, Stand.end)
            stopped = tokens[-1] == Stand.end
            if stopped and not self.keeps_end:
                tokens = tokens[:-1]
            one = SimpleNamespace(token_ids=tokens, finish_reason="stop" if stopped else "length")
            found.append(SimpleNamespace(outputs=[one]))
        return found


@pytest.fixture(scope="module")
def writes():
    """A model that ends some of its traces early."""
    return load_model(weights_folder("countdown-rl") / "thinking", device="cpu")


@pytest.fixture
def stand(monkeypatch, writes):
    Stand.end = writes.tokenizer.eos_token_id
    monkeypatch.setitem(
        sys.modules, "vllm", SimpleNamespace(LLM=Stand, SamplingParams=SimpleNamespace)
    )


@pytest.mark.parametrize("keeps_end", [True, False])
def test_greedy_traces_are_those_of_generate(stand, writes, monkeypatch, keeps_end):
    monkeypatch.setattr(Stand, "keeps_end", keeps_end)
    grade = lambda problem, text: len(text) % 2 == 0  # noqa: E731
    options = {"sampled": False, "n_samples": 2, "max_new_tokens": N_TOKENS}
    found = sample_with_vllm(writes, PROBLEMS[:5], grade, **options)
    assert found == generate(writes, PROBLEMS[:5], grade, **options)
    assert {True, False} == {t.stopped for t in found} == {t.correct for t in found}


def test_rows_have_seeds_of_their_own_that_do_not_depend_on_their_place(stand, writes):
    def seeds(problems, seed):
        sample_with_vllm(writes, problems, seed=seed, n_samples=2, max_new_tokens=1)
        return [p.seed for p in Stand.last.params]

    every = seeds(PROBLEMS, 0)
    assert len(set(every)) == 2 * len(PROBLEMS)
    assert seeds(PROBLEMS[3:5], 0) == every[6:10]
    assert not set(seeds(PROBLEMS, 1)) & set(every)


def test_sampling_is_at_the_temperature_of_the_model(stand, writes):
    for options, expected in (({}, 0.7), ({"sampled": False}, 0.0)):
        sample_with_vllm(
            replace(writes, temperature=0.7), PROBLEMS[:2], max_new_tokens=1, **options
        )
        assert {p.temperature for p in Stand.last.params} == {expected}


def test_what_cannot_be_is_one_sentence(stand, writes, monkeypatch):
    with pytest.raises(UserError, match="does not say where its weights come from"):
        sample_with_vllm(replace(writes, source=None), PROBLEMS)
    away = replace(writes, source=replace(writes.source, spec="away"))
    with pytest.raises(UserError, match="does not load 'away' .no such model.: "):
        sample_with_vllm(away, PROBLEMS)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'whenlens\[vllm\]'"):
        sample_with_vllm(writes, PROBLEMS)
