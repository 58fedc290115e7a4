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


# kind, controller, vectors, coefficients, accuracy, tokens steered
_ARMS = {
    "hybrid": ("method", "model-margin", "trained", "candidates", 0.6, 0.118),
    "controller: probe": ("method", "probe", "trained", "candidates", 0.52, 0.163),
    "vectors: difference-of-means": (
        "method", "model-margin", "difference-of-means", "candidates", 0.43, 0.118,
    ),
    "coefficients: sweep": ("method", "model-margin", "trained", "sweep", 0.57, 0.118),
    "random-vectors": ("control", "model-margin", "random", "candidates", 0.329, 0.118),
    "random-category": ("control", "model-margin", "trained", "candidates", 0.41, 0.118),
    "least-similar-category": ("control", "model-margin", "trained", "candidates", 0.3, 0.118),
    "random-positions": ("control", "random", "trained", "candidates", 0.345, 0.121),
    "magnitude-only": ("control", "model-margin", "magnitude", "candidates", 0.318, 0.118),
    "bias-only": ("control", "model-margin", "bias", "candidates", 0.47, 0.118),
    "logit-bias": ("control", "model-margin", "logits", "candidates", 0.5, 0.118),
    "thinking-token": ("ceiling", "model-margin", None, None, 0.71, 0.118),
    "prompt": ("baseline", None, None, None, 0.28, 0.0),
    "power-sampling": ("baseline", None, None, None, 0.37, 0.0),
}  # fmt: skip
_WRITTEN = {
    "base": "4 + 8 = 12 , 12 * 2 = 24 . 24 + 3 = 27 . answer 4 + 8 * 2 + 3 .",
    "hybrid": "aim for 24 , then 24 * 3 = 72 . 4 + 8 = 12 , 12 * 2 = 24 . "
    "check : 24 * 3 = 72 . answer 4 + 8 * 2 * 3 .",
    "thinking": "aim for 24 , then 24 * 3 = 72 . 8 - 4 = 4 . no , go back . 4 + 8 = 12 , "
    "12 * 2 = 24 . check : 24 * 3 = 72 . answer 4 + 8 * 2 * 3 .",
}
_STEERED = {0: (True, "subgoal-setting"), 1: (False, "subgoal-setting"), 4: (True, None)} | {
    21: (True, "verification"), 22: (False, "verification")
}  # fmt: skip


def _tokens(model: str) -> list[dict[str, Any]]:
    words = _WRITTEN[model].split()
    marks = _STEERED if model == "hybrid" else {}
    return [
        {
            "text": word if i == 0 else f" {word}",
            "steered": i in marks,
            "changed": marks[i][0] if i in marks else False,
            "label": marks[i][1] if i in marks else None,
        }
        for i, word in enumerate(words)
    ]


def make_hybrid(refused: bool = False) -> dict[str, Any]:
    """A hybrid run that never happened, schema `whenlens.hybrid/1`.

    The base model is right on 31% and the thinking model on 75%, or on 33% where the gap is to be
    refused. Some numbers are null: those of one arm's cost and of one arm's interval.
    """
    base, thinking = 0.31, 0.33 if refused else 0.75

    def recovery(accuracy: float, width: float = 0.08) -> dict[str, Any] | None:
        value = (accuracy - base) / (thinking - base)
        return None if refused else {"value": value, "ci": [value - width, value + 1.2 * width]}

    def arm(name: str) -> dict[str, Any]:
        kind, controller, vectors, coefficients, accuracy, steered = _ARMS[name]
        found = {
            "kind": kind,
            "controller": controller,
            "vectors": vectors,
            "coefficients": coefficients,
            "accuracy": {"value": accuracy, "ci": _around(accuracy, 0.035, 0.04)},
            "gap_recovery": recovery(accuracy),
            "by_seed": [
                None if refused else (accuracy - base) / (thinking - base) + shift
                for shift in (-0.02, 0.0, 0.02)
            ],
            "tokens_steered": steered,
            "tokens_changed": round(0.4 * steered, 4),
            "positions_edited": 0.0 if kind in ("ceiling", "baseline") else round(0.7 * steered, 4),
            "eos_rate": 0.97,
            "truncated": 0.03,
            "forwards_per_token": 1.0 if kind == "baseline" else 2.81,
            "seconds": 184.2,
            "n_tokens": 152034,
        }
        if name == "random-vectors":
            found["sets"] = [
                None if refused else round(0.04 + 0.11 * ((7 * i % 20) / 10 - 0.95), 4)
                for i in range(20)
            ]
        if name == "prompt":
            found |= {"positions_edited": None, "seconds": None, "by_seed": [None, None, None]}
        if name == "logit-bias":
            found["accuracy"]["ci"] = None
        return found

    def factorial(i: int, j: int, k: int) -> dict[str, Any]:
        broken = (i, j, k) == (2, 1, 1)
        accuracy = None if broken else 0.62 - 0.09 * i - 0.14 * j - 0.03 * k
        return {
            "controller": ("model-margin", "probe", "random")[i],
            "vectors": ("trained", "difference-of-means", "sparse-decoder")[j],
            "coefficients": ("candidates", "sweep")[k],
            "accuracy": accuracy,
            "gap_recovery": None if broken or refused else (accuracy - base) / (thinking - base),
            "tokens_steered": None if broken else 0.118,
            "final_accuracy": 0.6 if (i, j, k) == (0, 0, 0) else None,
            "final_gap_recovery": None,
        }

    def budget(at_all: float, share: float) -> list[dict[str, Any]]:
        return [
            {
                "margin": margin,
                "tokens_steered": 0.118 * share**i,
                "gap_recovery": recovery(base + at_all * 0.7**i, 0.06),
            }
            for i, margin in enumerate((0.0, 0.5, 1.0, 2.0, 4.0))
        ]

    tokens = [9000 - 300 * i for i in range(10)]
    behaviors = ["initializing", "deduction", "backtracking", "verification", "subgoal-setting"]
    strongest = None if refused else 0.727
    return {
        "schema": "whenlens.hybrid/1",
        "version": "0.2.0",
        "command": "whenlens hybrid --pair countdown-rl --out runs/hybrid",
        "pair": "countdown-rl",
        "task": "countdown",
        "mode": "sampled",
        "seeds": [0, 1, 2],
        "d_model": 160,
        "n_layers": 4,
        "config": {"k": 3, "margin": 0.0, "layers": [1, 2]},
        "splits": {"fit": 300, "select": 200, "report": 500},
        "accuracy": {
            "base": {"value": base, "ci": _around(base, 0.04, 0.04), "n": 1500},
            "thinking": {"value": thinking, "ci": _around(thinking, 0.04, 0.04), "n": 1500},
        },
        "gap": {"value": thinking - base, "ci": _around(thinking - base, 0.045, 0.045)},
        "gap_refused": "the gap is 2.0 points, under 5 points" if refused else None,
        "taxonomy": {
            "method": "topk-sae",
            "layer": 2,
            "n_categories": 6,
            "k": 3,
            "fvu": 0.21,
            "ami": 0.58,
            "kmeans_ami": 0.47,
            "f1": {"deduction": 0.93, "verification": 0.81, "backtracking": None},
            "categories": [
                {"index": i, "share": share, "behavior": behavior, "purity": purity}
                for i, (share, behavior, purity) in enumerate(
                    [
                        (0.31, "deduction", 0.95),
                        (0.24, "subgoal-setting", 0.88),
                        (0.17, "verification", 0.79),
                        (0.12, "backtracking", 0.62),
                        (0.1, "final-answer", 0.99),
                        (0.06, None, None),
                    ]
                )
            ],
            "grid": [
                {
                    "layer": layer,
                    "n_latents": size,
                    "fvu": 0.3 - 0.01 * size,
                    "ami": 0.5 + 0.01 * layer,
                    "consistency": 0.7,
                    "completeness": 0.6,
                    "orthogonality": 0.8,
                    "score": 0.7 + 0.01 * layer,
                }
                for layer in (1, 2)
                for size in (6, 9)
            ],
        },
        "layer": 2,
        "factorial": [
            factorial(i, j, k)
            for k in range(2)
            for i in range(3)
            for j in range(3)
            if (i, j, k) != (1, 2, 1)
        ],
        "chosen": {
            "controller": "model-margin",
            "vectors": "trained",
            "coefficients": "candidates",
        },
        "arms": {name: arm(name) for name in reversed(_ARMS)},
        "contrasts": {
            name: {
                "value": 0.6 - values[4],
                "ci": _around(0.6 - values[4], 0.04, 0.045),
                "p_above": 1.0 if values[4] < 0.5 else 0.9995,
            }
            for name, values in _ARMS.items()
            if values[0] in ("control", "baseline")
        },
        "equal_cost": [
            {
                "name": name,
                "votes": votes,
                "tokens_per_problem": cost,
                "accuracy": {"value": value, "ci": _around(value, 0.04, 0.04)},
            }
            for name, votes, cost, value in (
                ("power-sampling", 1, 843.2, 0.37),
                ("entropy", 8, 810.5, 0.41),
                ("base", 8, 826.0, 0.39),
            )
        ],
        "budget": {"hybrid": budget(0.29, 0.5), "thinking-token": budget(0.4, 0.55)},
        "firing": {
            "bins": [i / 10 for i in range(11)],
            "tokens": tokens,
            "steered": {
                name: [
                    round(count * (0.02 + 0.012 * ((3 * b + i) % (4 + b)) / (1 + 0.2 * i)))
                    for i, count in enumerate(tokens)
                ]
                for b, name in enumerate(reversed(behaviors))
            },
        },
        "examples": [
            {
                "problem": problem,
                **{
                    model: {"correct": model != "base", "tokens": _tokens(model)}
                    for model in ("base", "hybrid", "thinking")
                },
            }
            for problem in ("reach 72 with 2 3 4 8", "reach 72 with 8 4 3 2")
        ],
        "verdict": {
            "answer": "cannot-tell" if refused else "when",
            "value": strongest,
            "ci": None if refused else [0.641, 0.808],
            "reason": "the gap is refused" if refused else "the interval lies above 0.5",
        },
        "timings": {"taxonomy": 41.2, "vectors": 95.0, "factorial": 310.4, "report": 1208.9},
    }
