"""The parity proof: what was exported, run by the software it is for, does what the hooks do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from interp.errors import UserError
from interp.export.formats import Format, format_for
from interp.export.reference import reference
from interp.export.request import Export
from interp.export.runtime import Pass, Runtime, Unproven
from interp.models import Model
from interp.runs import write_json
from interp.tasks import Countdown
from interp.traces import prompt_tokens

STEPS = 16
N_PROMPTS = 3
VISIBLE = 10.0
"""An edit that moves no logit by this many tolerances could almost go missing unnoticed: nothing is proven."""


@dataclass(frozen=True)
class Reading:
    """What one runtime made of the prompts: passes over them and over the next tokens, and greedy text."""

    prompt: list[Pass]
    decode: list[Pass]
    text: list[list[int]]


def prove(
    model: Model,
    request: Export,
    format: str,
    out: Path,
    prompts: Sequence[str] | None = None,
    steps: int = STEPS,
) -> dict:
    """Compare what `export_direction` wrote into `out` with the hook reference; writes `out/parity.json`.

    Residual stream and logits are compared on the pass over each prompt and on `steps` cached passes after
    it, in which both are fed the reference's greedy tokens; so is the text that each makes by itself.
    `prompts` defaults to three Countdown problems. Status `proven` wants every difference within the
    format's tolerance (a share of the largest value at the position, at least 1) and equal text; `unproven`
    tells why there was nothing to compare. Raises `UserError` for a request that fits not model or format.
    """
    chosen = format_for(format, request)
    request.check(model)
    prompts = prompts or [p.prompt for p in Countdown().problems()[:N_PROMPTS]]
    tokens = [prompt_tokens(model, prompt) for prompt in prompts]
    layer = request.watched(model)
    with reference(model, request.edits(model, chosen.every_write), layer) as runtime:
        texts = [runtime.complete(row, steps, model.ends) for row in tokens]
        fed = [text[:-1] for text in texts]
        expected = Reading(*_passes(runtime, tokens, fed), texts)
    with reference(model, (), layer) as runtime:
        effect = _largest(expected.prompt, [runtime.prompt(row) for row in tokens])
    version = {"name": format, "version": None}
    try:
        with chosen.run(model, request, out) as runtime:
            version = {"name": runtime.name, "version": runtime.version}
            passes = _passes(runtime, tokens, fed)
            found = Reading(*passes, [runtime.complete(row, steps, model.ends) for row in tokens])
        compared = _compare(chosen, expected, found, effect)
    except Unproven as why:
        compared = {"status": "unproven", "reason": str(why)}
    except UserError as why:
        compared = {"status": "failed", "reason": str(why)}
    result = {
        "format": format,
        "status": "",
        "reason": "",
        "tolerance": chosen.tolerance,
        "prompt": None,
        "decode": None,
        "text_equal": None,
        "effect": effect,
        "reference": _reference_in_words(request, chosen),
        "runtime": version,
        "request": request.describe(),
        "model": {"name": model.name, "fingerprint": model.fingerprint},
    } | compared
    write_json(out / "parity.json", result)
    return result


def _passes(
    runtime: Runtime, prompts: list[list[int]], fed: list[list[int]]
) -> tuple[list[Pass], list[Pass]]:
    """The passes over every prompt, and those over the tokens that follow it."""
    prompt, decode = [], []
    for tokens, following in zip(prompts, fed, strict=True):
        prompt.append(runtime.prompt(tokens))
        decode.extend(runtime.step(token) for token in following)
    return prompt, decode


def _compare(chosen: Format, expected: Reading, found: Reading, effect: dict) -> dict:
    if not expected.decode:
        raise Unproven(
            "every text ends with its first token, so that no cached pass can be compared: give other prompts"
        )
    prompt = _largest(expected.prompt, found.prompt)
    decode = _largest(expected.decode, found.decode)
    differences = [
        f"{what} of the {where} by {values[f'{what}_max_abs']:.2g}"
        for where, values in (("prompt", prompt), ("decode steps", decode))
        for what in ("logits", "resid")
        if not values[f"{what}_share"] <= chosen.tolerance
    ]
    same = expected.text == found.text
    if not same:
        differences.append("the greedy text")
    status, reason = (
        ("failed", "differs in " + ", ".join(differences)) if differences else ("proven", "")
    )
    if status == "proven" and effect["logits_share"] < VISIBLE * chosen.tolerance:
        status = "unproven"
        moved = effect["logits_max_abs"]
        reason = f"the edit moves no logit by more than {moved:.2g}, so that its absence might pass"
    return {
        "status": status,
        "reason": reason,
        "prompt": prompt,
        "decode": decode,
        "text_equal": same,
    }


def _largest(expected: list[Pass], found: list[Pass]) -> dict:
    """Largest differences over passes: of logits and residuals, and KL(reference, export) in nats.

    A `share` is a difference by the largest value (at least 1) at its position.
    """
    if any(a.logits.shape != b.logits.shape for a, b in zip(expected, found, strict=True)):
        raise UserError(
            f"The export tells logits of shape {tuple(found[0].logits.shape)} where "
            f"{tuple(expected[0].logits.shape)} are expected: it belongs to another model."
        )
    both = {
        what: [torch.cat([getattr(p, what) for p in passes]) for passes in (expected, found)]
        for what in ("logits", "resid")
    }
    log_p, log_q = (values.double().log_softmax(-1) for values in both["logits"])
    result: dict = {
        "passes": len(expected),
        "tokens": len(log_p),
        "kl_max": float((log_p.exp() * (log_p - log_q)).sum(-1).max()),
    }
    for what, (ours, theirs) in both.items():
        apart = (ours - theirs).abs().amax(-1)
        result[f"{what}_max_abs"] = float(apart.max())
        result[f"{what}_share"] = float((apart / ours.abs().amax(-1).clamp_min(1.0)).max())
    return result


def _reference_in_words(request: Export, chosen: Format) -> str:
    if request.operation == "add":
        where = f"added to the output of block {request.direction.layer}"
    elif chosen.every_write:
        where = "removed from the embedding and from all that attention and MLP write"
    else:
        where = "removed from the output of every block"
    return f"hooks in TransformerLens: direction {where}, at {request.at} positions"
