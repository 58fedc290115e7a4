"""The harness itself, on a task of local files, scores a steered model as hooks do."""

import json
import math
from contextlib import nullcontext

import pytest

from interp.export import Export, export_direction
from interp.interventions import forward, intervene
from interp.tasks import load_task

PROBLEMS = load_task("countdown").problems()[:6]
TARGET = "we need"
TASK = """
task: local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: " {{{{answer}}}}"
metric_list: [{{metric: perplexity}}]
"""


@pytest.fixture
def evaluated(tmp_path, sharp_folder, monkeypatch):
    """A function from a model type and its arguments to the task's perplexity."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [json.dumps({"question": p.prompt, "answer": TARGET}) for p in PROBLEMS]
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "data.jsonl").write_text("\n".join(rows))
    task = TASK.format(data=tmp_path / "task" / "data.jsonl")
    (tmp_path / "task" / "local.yaml").write_text(task)
    manager = TaskManager(include_path=str(tmp_path / "task"), include_defaults=False)

    def evaluate(kind, **arguments):
        found = lm_eval.simple_evaluate(
            model=kind,
            model_args={"pretrained": str(sharp_folder), "dtype": "float32", **arguments},
            tasks=["local"],
            task_manager=manager,
            device="cpu",
            batch_size=1,
            bootstrap_iters=0,
        )
        return found["results"]["local"]["perplexity,none"]

    return evaluate


def perplexity(model, edits):
    """exp(-mean log-probability of the target), by hooks."""
    said = model.tokenizer(TARGET, add_special_tokens=False).input_ids
    total = 0.0
    for problem in PROBLEMS:
        asked = model.tokenizer(problem.prompt).input_ids
        with intervene(model, *edits) if edits else nullcontext():
            rows = forward(model, [asked + said])[0].log_softmax(-1)
        total += sum(float(rows[len(asked) - 1 + i, t]) for i, t in enumerate(said))
    return math.exp(-total / len(PROBLEMS))


@pytest.mark.slow
def test_the_harness_scores_a_local_task_as_hooks_do(sharp, direction, evaluated, tmp_path):
    request = Export(direction, 0.5)
    path = export_direction(sharp, request, "lm-eval", tmp_path / "export")
    plain, steered = perplexity(sharp, ()), perplexity(sharp, request.edits(sharp))
    assert evaluated("hf") == pytest.approx(plain, rel=1e-3)
    assert evaluated("steered", steer_path=str(path)) == pytest.approx(steered, rel=1e-3)
    assert abs(math.log(steered / plain)) > 0.1
