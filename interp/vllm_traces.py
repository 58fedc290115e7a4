"""Traces sampled by vLLM, token for token what it wrote."""

from collections.abc import Callable, Sequence

from interp.errors import UserError, first_line
from interp.models import Model
from interp.tasks import Countdown
from interp.traces import MAX_NEW_TOKENS, graded, prompt_tokens, row_uniforms
from interp.types import Problem, Trace


def sample_with_vllm(
    model: Model,
    problems: Sequence[Problem],
    grade: Callable[[Problem, str], bool] | None = None,
    *,
    sampled: bool = True,
    n_samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    share_of_gpu: float = 0.9,
) -> list[Trace]:
    """What `generate` does, by vLLM: one graded trace per problem and sample, in order.

    vLLM loads the model's checkpoint once more, into `share_of_gpu` of a GPU's memory, and reads and writes
    token ids, so that nothing is tokenized twice. Sampling is at the model's `temperature`; a row's seed
    depends on `seed`, its problem and its sample number alone; the draws are vLLM's own, not those of
    `generate`. Interventions that are active on `model` have no part in this. Raises `UserError` where vLLM is
    not installed, or does not load the checkpoint.
    """
    if model.source is None:
        raise UserError(
            f"Model {model.name} does not say where its weights come from: load it with load_model."
        )
    try:
        from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "vLLM is not installed: pip install 'whenlens[vllm]', or use generate."
        ) from error
    try:
        llm = LLM(
            model=model.source.spec,
            revision=model.source.revision,
            # What a checkpoint suggests (top_k, penalties) would be another distribution than the model's.
            generation_config="vllm",
            gpu_memory_utilization=share_of_gpu,
        )
    except Exception as error:  # whatever a vLLM engine says as it starts
        raise UserError(
            f"vLLM does not load {model.source.spec!r} ({first_line(error)}): give a checkpoint that it "
            "knows, and room on the GPU, or use generate."
        ) from error
    asked = [(problem, k) for problem in problems for k in range(n_samples)]
    prompts = [prompt_tokens(model, problem.prompt) for problem, _ in asked]
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        [
            SamplingParams(
                temperature=model.temperature if sampled else 0.0,
                seed=int(row_uniforms(seed, problem.id, k, 1)[0] * 2**31),
                max_tokens=max_new_tokens,
                stop_token_ids=list(model.ends),
                detokenize=False,
            )
            for problem, k in asked
        ],
    )
    traces = []
    for (problem, k), prompt, output in zip(asked, prompts, outputs, strict=True):
        written = output.outputs[0]
        tokens = list(written.token_ids)
        if written.finish_reason == "stop" and not set(tokens[-1:]) & set(model.ends):
            tokens.append(model.ends[0])
        traces.append(
            graded(model, problem, prompt, tokens, grade or Countdown().grade, sampled, k)
        )
    return traces
