"""Synthetic atlases: traces like those of the built-in pairs, the same for the same seed."""

import random
from typing import Any

SENTENCES = {
    "subgoal-setting": (" we need 24 .", " aim for 12 ."),
    "deduction": (" 3 + 9 = 12 , 12 * 2 = 24 .", " 9 - 3 = 6 , 6 * 2 = 12 ."),
    "example-testing": (" try 9 * 2 = 18 .",),
    "backtracking": (" no , back up .",),
    "verification": (" check 24 is 24 .",),
    "uncertainty-estimation": (" not sure 12 helps .",),
    None: (" note 6 is even .",),
    "final-answer": (" answer 3 + 9 * 2 .",),
}
WORDS = (" check", " aim", " try", " no", " answer", " 12", " 24", " +", " *", " .", " we", " so")
OFFSETS = [-3, -2, -1, 0]
COMPONENTS = ["resid_post", "attn_out", "mlp_out"]


def make_atlas(
    n_traces: int = 6, n_tokens: int | None = None, n_layers: int = 4, seed: int = 0
) -> dict[str, Any]:
    """An atlas of schema `whenlens.atlas/1`; traces have `n_tokens`, or end with an answer."""
    draw = random.Random(seed)
    traces = [_trace(draw, i, n_tokens, n_layers) for i in range(n_traces)]
    return {
        "schema": "whenlens.atlas/1",
        "pair": "countdown-rl",
        "n_layers": n_layers,
        "components": COMPONENTS,
        "offsets": OFFSETS,
        "behaviors": [name for name in SENTENCES if name],
        "traces": traces,
    }


def _trace(draw: random.Random, i: int, n_tokens: int | None, n_layers: int) -> dict[str, Any]:
    tokens, segments = [], []
    plan = ["subgoal-setting", *draw.choices(list(SENTENCES)[:-1], k=draw.randint(3, 7))]
    while n_tokens and len(plan) < n_tokens:
        plan += draw.choices(list(SENTENCES)[:-1], k=10)
    for behavior in [*plan, "final-answer"]:
        words = draw.choice(SENTENCES[behavior]).split()
        segments.append(
            {"start": len(tokens), "end": len(tokens) + len(words), "behavior": behavior}
        )
        tokens += [f" {word}" for word in words]
    tokens = tokens[:n_tokens]
    segments = [
        s | {"end": min(s["end"], len(tokens))} for s in segments if s["start"] < len(tokens)
    ]
    starts = {s["start"] for s in segments}
    trace = {
        "id": f"countdown-{i:03}",
        "problem": "reach 24 with 2 3 9 .",
        "source": ("thinking", "thinking", "base", "hybrid")[i % 4],
        "correct": draw.choice([True, False]),
        "tokens": tokens,
        "segments": segments,
        "disagree": [],
        "lens": {},
        "patching": {},
    } | {name: [] for name in ("js", "kl", "h_base", "h_thinking", "rank")}
    trace |= {"top_base": [], "top_thinking": []}
    for k, token in enumerate(tokens):
        _token(draw, trace, k, token, k in starts, n_layers)
    return trace


def _token(
    draw: random.Random, trace: dict[str, Any], k: int, token: str, start: bool, n_layers: int
) -> None:
    js = min(0.69, draw.betavariate(1, 3) if start else draw.betavariate(0.3, 8) * 0.7)
    apart = js > 0.22
    trace["js"].append(js)
    trace["kl"].append(js * 3.1)
    trace["h_base"].append(draw.random() * 2)
    trace["h_thinking"].append(draw.random())
    trace["rank"].append(draw.randint(2, 6) if apart else 1)
    others = draw.sample([word for word in WORDS if word != token], 5)
    trace["top_thinking"].append(_top(draw, [token, *others[:4]]))
    trace["top_base"].append(_top(draw, others if apart else [token, *others[1:]]))
    if not apart:
        return
    trace["lens"][str(k)] = [
        js * 3.1 * (layer + 1) / n_layers * draw.uniform(0.6, 1) for layer in range(n_layers)
    ]
    if not trace["disagree"]:
        trace["patching"][str(k)] = {
            name: [
                [
                    draw.uniform(-0.2, 0.3) + 0.7 * (layer + 1) / n_layers * (offset == 0)
                    for offset in OFFSETS
                ]
                for layer in range(n_layers)
            ]
            for name in COMPONENTS
        }
    trace["disagree"].append(k)


def _top(draw: random.Random, words: list[str]) -> list[list[Any]]:
    left, found = 1.0, []
    for word in words:
        probability = left * draw.uniform(0.4, 0.9)
        found.append([word.strip(), probability])
        left -= probability
    return found
