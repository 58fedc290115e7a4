"""A small made-up results dict and its traces, the same at every call."""

from typing import Any

# behavior: (share in the base, share in the thinking model, best layer, effect, verdict)
_MADE_UP = {
    "subgoal-setting": (0.075, 0.312, 2, 0.331, "causal"),
    "verification": (0.083, 0.241, 2, 0.224, "causal"),
    "backtracking": (0.041, 0.122, 1, 0.052, "readable"),
    "deduction": (0.602, 0.281, 0, 0.004, "absent"),
}


def _around(value: float, below: float, above: float) -> list[float]:
    return [round(value - below, 4), round(value + above, 4)]


def _sweeps(best: int, effect: float, n_layers: int) -> dict[str, Any]:
    peak = [effect * 1.2 * 0.6 ** abs(layer - best) for layer in range(n_layers)]
    doses = (0.0, 0.25, 0.5, 1.0, 2.0)
    answer = [
        effect * 1.2 * (1 - (dose - 0.9) ** 2 / 0.81) if dose < 1.7 else 0.01 for dose in doses
    ]
    return {
        "layer_sweep": [
            {
                "read": read,
                "layer": layer,
                "auroc": round(height, 4),
                "auroc_ci": _around(height, 0.03, 0.02),
                "selectivity": 0.35,
                "ece": 0.04,
            }
            for read, shift in (("before", 0.0), ("first", 0.05), ("mean", 0.1))
            for layer in range(n_layers)
            for height in [0.55 + 0.42 * 0.8 ** abs(layer - best) - shift]
        ],
        "causal_sweep": [
            {
                "layer": layer,
                "effect": round(value, 4),
                "ci": _around(value, 0.03, 0.04),
                "null_q05": -0.02 - 0.005 * layer,
                "null_q95": 0.03 + 0.005 * layer,
            }
            for layer, value in enumerate(peak)
        ],
        "dose_response": [
            {
                "dose": dose,
                "effect": round(value, 4),
                "ci": _around(value, 0.02 * dose, 0.03 * dose),
                "null_q05": -0.03 * dose,
                "null_q95": 0.04 * dose,
            }
            for dose, value in zip(doses, answer, strict=True)
        ],
        "cosine": [
            {
                "layer": layer,
                "value": round(0.93 - 0.05 * layer, 4),
                "ci": _around(0.93 - 0.05 * layer, 0.04, 0.02),
            }
            for layer in range(n_layers)
        ],
    }


def _behavior(name: str, n_layers: int) -> dict[str, Any]:
    base, thinking, best, effect, verdict = _MADE_UP[name]
    lowered = -0.8 * thinking if verdict == "causal" else -0.01
    return {
        "n_segments": 812,
        "frequency": {
            "base": {"value": base, "ci": _around(base, 0.01, 0.012)},
            "thinking": {"value": thinking, "ci": _around(thinking, 0.015, 0.02)},
        },
        "layer": best,
        "position": "before",
        "dose": 0.5,
        "probe": {"auroc": 0.97, "auroc_ci": [0.94, 0.99], "selectivity": 0.4, "ece": 0.03},
        **_sweeps(best, effect, n_layers),
        "addition": {
            "baseline_rate": base,
            "steered_rate": round(base + effect, 4),
            "effect": effect,
            "ci": _around(effect, 0.04, 0.05),
            "null_q95": 0.047,
            "specific_effect": round(0.8 * effect, 4),
            "specific_null_q95": 0.033,
            "p_value": 0.0071 if verdict == "causal" else 0.21,
            "p_holm": 0.0284 if verdict == "causal" else 0.42,
            "n_null": 140,
            "proxy": {
                "effect": 1.2 * effect,
                "ci": _around(1.2 * effect, 0.03, 0.04),
                "null_q95": 0.04,
                "p_value": 0.005,
            },
        },
        "ablation": {
            "layer": best,
            "kind": "zero",
            "baseline_rate": thinking,
            "steered_rate": round(thinking + lowered, 4),
            "effect": round(lowered, 4),
            "ci": _around(lowered, 0.03, 0.02),
            "null_q05": -0.031,
            "null_q95": 0.031,
            "specific_effect": round(-0.7 * lowered, 4),
            "specific_null_q95": 0.021,
            "p_value": 0.0071,
            "p_holm": 0.0284,
            "n_null": 140,
            "removed_share": round(-lowered / thinking, 4),
        },
        "specificity": {
            other: {
                "effect": effect if other == name else round(-0.02 - 0.1 * effect + 0.013 * i, 4),
                "ci": _around(effect, 0.04, 0.05)
                if other == name
                else _around(-0.02 - 0.1 * effect + 0.013 * i, 0.02, 0.02),
            }
            for i, other in enumerate(_MADE_UP)
        },
        "accuracy_effect": {
            "value": round(0.3 * effect, 4),
            "ci": _around(0.3 * effect, 0.03, 0.03),
        },
        "verdict": verdict,
    }


def make_results(n_layers: int = 4) -> dict[str, Any]:
    """Results of a run that never happened, four behaviors, schema `whenlens.results/1`."""
    accuracy = {
        model: {
            mode: {"value": value, "ci": _around(value, 0.04, 0.04), "n": 500}
            for mode, value in modes.items()
        }
        for model, modes in {
            "base": {"greedy": 0.31, "sampled": 0.2},
            "thinking": {"greedy": 0.75, "sampled": 0.56},
        }.items()
    }
    return {
        "schema": "whenlens.results/1",
        "pair": "countdown-rl",
        "task": "countdown",
        "seed": 0,
        "d_model": 160,
        "n_layers": n_layers,
        "command": "whenlens run --pair countdown-rl --out runs/demo",
        "splits": {"fit": 300, "select": 200, "report": 500},
        "accuracy": accuracy,
        "behaviors": {name: _behavior(name, n_layers) for name in _MADE_UP},
        "timings": {"traces": 12.3, "activations": 2.2, "null": 81.04},
    }


def make_examples() -> list[dict[str, Any]]:
    """Three traces: base, base with a direction added, thinking model."""
    careful = [
        {"text": "aim for 24 , then 24 * 3 = 72 .", "behavior": "subgoal-setting"},
        {"text": " 4 + 8 = 12 , 12 * 2 = 24 .", "behavior": "deduction"},
        {"text": " check : 24 * 3 = 72 .", "behavior": "verification"},
        {"text": " hmm .", "behavior": None},
        {"text": " no , go back .", "behavior": "backtracking"},
        {"text": " answer 4 + 8 * 2 * 3 .", "behavior": "final-answer"},
    ]
    return [
        {
            "problem": "reach 72 with 2 3 4 8",
            "model": "base",
            "steered_by": None,
            "correct": False,
            "segments": careful[1:2] + careful[5:],
        },
        {
            "problem": "reach 72 with 2 3 4 8",
            "model": "base",
            "steered_by": "subgoal-setting",
            "correct": True,
            "segments": careful[:2] + careful[5:],
        },
        {
            "problem": "reach 72 with 2 3 4 8",
            "model": "thinking",
            "steered_by": None,
            "correct": True,
            "segments": careful,
        },
    ]
