"""A made-up dict of a divergence, the same at every call."""

from typing import Any

BEHAVIORS = ["verification", "deduction", "none", "backtracking", "subgoal-setting", "final-answer"]
"""Behaviors of segments as they stand in the dict: not in the taxonomy's order."""
DEPLOYED = ["verification", "backtracking", "subgoal-setting"]
COMPONENTS = ("resid_post", "attn_out", "mlp_out")
DIRECTIONS = ("thinking_into_base", "base_into_thinking")
PAIRS = [
    (" wait", " so"), ("\n\n", "."), (" check", " answer"), ("<b>no</b>", " 12"), (" 24", " 36"),
    ("\t", " "), ("Alternatively", "Therefore"), ("", " ok"), (" incomprehensibilities", " a"),
    (" aim", " 4"), (" hmm", "\n"), (" but", ","),
]  # fmt: skip


def _near(value: float, width: float) -> list[float]:
    return [round(value - width, 5), round(value + 1.3 * width, 5)]


def _one(value: float, width: float) -> dict[str, Any]:
    return {"value": round(value, 5), "ci": _near(value, width)}


def _source(level: float, names: list[str]) -> dict[str, Any]:
    tokens = [4200 - 350 * i for i in range(len(names))]
    shares = [round(0.36 / (i + 1) + 0.02, 4) for i in range(len(names))]
    return {
        "traces": 200,
        "tokens": sum(tokens),
        "disagreement": _one(level, 0.01),
        "js": {
            "mean": 0.4 * level,
            "ci": _near(0.4 * level, 0.004),
            "gini": 0.87,
            "gini_ci": [0.85, 0.89],
            "share_on_segment_starts": 0.31,
            "share_on_segment_starts_ci": [0.28, 0.35],
        },
        "segment_starts": 0.11,
        "kl_base_thinking": _one(0.3, 0.02),
        "kl_thinking_base": _one(0.4, 0.02),
        "entropy": {"base": _one(0.5, 0.02), "thinking": _one(0.3, 0.02)},
        "rank": {"unshifted": 0.85, "marginal": 0.1, "shifted": 0.05},
        "promoted_in_base_top5": _one(0.81, 0.02),
        "first_divergence": {"share": 0.97, "median": 6},
        "by_position": [
            {
                "from": i / 10,
                "to": (i + 1) / 10,
                "tokens": 1600 - 10 * i,
                "disagreement": round(level * (1.7 - 0.12 * i + 0.2 * (i % 3)), 5),
                "js": round(0.4 * level * (1.6 - 0.1 * i + 0.15 * (i % 2)), 5),
            }
            for i in range(10)
        ],
        "by_distance": [
            {
                "distance": i,
                "tokens": 1700 - 100 * i,
                "disagreement": round(level * 2.2 * 0.7**i + 0.02, 5),
                "js": round(0.9 * level * 0.65**i + 0.004, 5),
            }
            for i in range(9)
        ],
        "by_behavior": {
            name: {
                "tokens": tokens[i],
                "starts": tokens[i] // 9,
                "disagreement": round(level / (1 + 0.3 * i), 5),
                "js": round(0.5 * level / (1 + 0.25 * i), 5),
                "js_at_start": round(1.4 * level / (1 + 0.4 * i), 5),
                "js_share": shares[i],
            }
            for i, name in enumerate(names)
        },
    }


def _promoted(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "token": token,
            "base_token": base,
            "count": 420 // (i + 1),
            "js": round(0.41 - 0.011 * i, 4),
            "median_rank": 2.0 + 0.5 * (i % 4),
            "probability_base": round(0.21 * 0.93**i, 4),
            "probability_thinking": round(0.88 - 0.02 * i, 4),
        }
        for i, (token, base) in enumerate(pairs)
    ]


def _patching(n_layers: int, behaviors: list[str]) -> dict[str, Any]:
    offsets = [-4, -3, -2, -1, 0]
    depth = max(1, n_layers - 1)

    def restored(direction: str, component: str, layer: int, offset: int) -> float:
        size = {"resid_post": 1.35, "attn_out": 0.5, "mlp_out": -0.4}[component]
        size *= 0.9 if direction == "base_into_thinking" else 1.0
        return round(size * (layer + 0.3) / (depth + 0.3) * 0.35 ** (-offset), 4)

    return {
        "n": 180,
        "offsets": offsets,
        "heatmap": {
            direction: {
                component: [
                    [restored(direction, component, layer, offset) for offset in offsets]
                    for layer in range(n_layers)
                ]
                for component in COMPONENTS
            }
            for direction in DIRECTIONS
        },
        "at_last": {
            direction: {
                component: [
                    {
                        "layer": layer,
                        "restored": restored(direction, component, layer, 0),
                        "ci": _near(restored(direction, component, layer, 0), 0.05),
                    }
                    for layer in range(n_layers)
                ]
                for component in COMPONENTS
            }
            for direction in DIRECTIONS
        },
        "factorial": [
            {
                "layer": layer,
                "upstream": round(2.4 * (layer + 1) / n_layers, 4),
                "late": round(1.9 * (1 - (layer + 1) / n_layers) - 0.2, 4),
                "interaction": round(0.3 - 0.5 * layer / n_layers, 4),
                "portable": round(0.9 * (layer + 1) / n_layers, 4),
                "portable_ci": _near(0.9 * (layer + 1) / n_layers, 0.06),
                "interaction_ci": _near(0.3 - 0.5 * layer / n_layers, 0.09),
            }
            for layer in range(n_layers)
        ],
        "projected": {
            "layer": n_layers // 2,
            "full": 0.71,
            "directions": {
                name: {"value": 0.2 - 0.03 * i, "ci": [0.1, 0.3], "complement": 0.6, "p_value": 0.1}
                for i, name in enumerate(behaviors)
            },
            "complement": 0.4,
            "random": {"mean": 0.01, "q95": 0.06},
            "n_random": 100,
        },
    }


def _explained(names: list[str], deployed: list[str], n_layers: int) -> dict[str, Any]:
    return {
        "n": 640,
        "layer": n_layers // 2,
        "dose": 0.5,
        "directions": 0.41,
        "ci": [0.37, 0.46],
        "random": 0.12,
        "random_q95": 0.17,
        "matched": 0.14,
        "matched_q95": 0.2,
        "n_random": 100,
        "deployed": deployed,
        "by_behavior": {
            name: {
                "share": round(0.28 * 0.75**i, 4),
                "ci": _near(0.28 * 0.75**i, 0.01),
                "random": 0.05,
                "random_q95": round(0.08 + 0.005 * i, 4),
                "matched": 0.06,
                "matched_q95": round(0.1 + 0.005 * i, 4),
                "p_value": 0.0099 if i < 2 else 0.21,
                "closed": 0.2,
            }
            for i, name in enumerate(deployed)
        },
        "table": {
            name: {
                other: round(0.5 / (1 + abs(i - j)) * 0.93**j, 4)
                for j, other in enumerate(deployed)
            }
            for i, name in enumerate(names)
        },
        "examples": [],
    }


def _weights(n_layers: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for module, full in (("embed.W_E", 160), ("unembed.W_U", 160), ("ln_final.w", 1)):
        found.append(
            {
                "module": module,
                "layer": None,
                "component": None,
                "relative_change": 0.011 + full / 4e4,
                "stable_rank": 1.0 if full == 1 else 12.5,
                "full_rank": full,
                "unchanged": 0.5,
                "restored": None,
            }
        )
    for layer in range(n_layers):
        matrices = [(f"attn.W_{kind}", "attn_out") for kind in "QKVO"]
        for i, (name, component) in enumerate(
            [*matrices, ("mlp.W_in", "mlp_out"), ("mlp.W_out", "mlp_out")]
        ):
            up = (layer + 1) / n_layers
            found.append(
                {
                    "module": f"blocks.{layer}.{name}",
                    "layer": layer,
                    "component": component,
                    "relative_change": round(0.02 + 0.03 * up + 0.006 * ((5 * i + layer) % 7), 5),
                    "stable_rank": round(3 + 2.5 * i + 4 * up * ((layer + i) % 3), 3),
                    "full_rank": 160,
                    "unchanged": 0.2,
                    "restored": round(up * (0.5 if component == "attn_out" else -0.3), 4),
                }
            )
    return found


def make_divergence(
    n_layers: int = 4, names: list[str] | None = None, pairs: list[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """A divergence that was never measured, schema `whenlens.divergence/1`.

    Args:
        names: behaviors of segments; without them the deployed behaviors are three of six.
        pairs: texts of the promoted tokens and of those that the base would have written.
    """
    behaviors = BEHAVIORS if names is None else names
    deployed = DEPLOYED if names is None else [name for name in names if name != "none"]
    sources = {
        name: _source(level, behaviors)
        for name, level in (("hybrid", 0.09), ("thinking", 0.14), ("base", 0.07))
    }
    return {
        "schema": "whenlens.divergence/1",
        "version": "0.3.0",
        "command": "whenlens diverge --pair countdown-rl --out runs/diverge",
        "pair": "countdown-rl",
        "task": "countdown",
        "seed": 0,
        "d_model": 160,
        "n_layers": n_layers,
        "config": {"seed": 0},
        "splits": {"fit": 300, "select": 200, "report": 200},
        "vocabulary": {"shared": 220, "base_only": 0, "thinking_only": 2},
        "tokens": sources["thinking"]["tokens"],
        **{
            key: sources["thinking"][key]
            for key in ("disagreement", "js", "rank", "promoted_in_base_top5")
        },
        "sources": sources,
        "promoted": _promoted(PAIRS if pairs is None else pairs),
        "predict_disagreement": {
            "layer": n_layers // 2,
            "auroc": 0.86,
            "ci": [0.84, 0.88],
            "base_entropy_auroc": 0.79,
            "base_entropy_ci": [0.77, 0.81],
            "difference": {"value": 0.07, "ci": [0.05, 0.09]},
            "shuffled_auroc": 0.503,
            "by_layer": [
                {
                    "layer": layer,
                    "auroc": round(0.86 - 0.012 * abs(layer - n_layers // 2), 4),
                    "ci": _near(0.86 - 0.012 * abs(layer - n_layers // 2), 0.015),
                }
                for layer in range(n_layers)
            ],
        },
        "layers": {
            "lens": {
                kind: [
                    {
                        "layer": layer,
                        "kl": round(level * (0.1 + ((layer + 1) / n_layers) ** 2), 5),
                        "ci": _near(level * (0.1 + ((layer + 1) / n_layers) ** 2), 0.08 * level),
                    }
                    for layer in range(n_layers)
                ]
                for kind, level in (("agreement", 0.3), ("disagreement", 1.8), ("first", 2.2))
            },
            "n": {"agreement": 1200, "disagreement": 1250, "first": 190},
        },
        "patching": _patching(n_layers, deployed),
        "explained": _explained(behaviors, deployed, n_layers),
        "weights": _weights(n_layers),
        "timings": {"traces": 12.3, "patching": 81.0},
    }
