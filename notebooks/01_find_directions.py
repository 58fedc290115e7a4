# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Find a direction and test whether it is causal
#
# A base model and the thinking model that reinforcement learning made of it play Countdown:
# `reach 36 with 3 8 12 .` The thinking model sets subgoals (`aim for 24 .`) more often. Is there a
# direction in the *base* model's residual stream that makes it set one, and does the thinking
# model need its own?
#
# This is the main job of `whenlens run` by hand, on few problems and for one behavior. Problems
# are split three ways: `fit` gives the directions, `select` chooses the layer, and the effects are
# measured on `report`, which chose nothing.

# %%
import random

import numpy as np
import plotly.graph_objects as go
import torch

from figures import theme
from interp import (
    Add,
    MeanAblate,
    collect,
    generate,
    intervene,
    load_pair,
    load_task,
    mean_difference,
    segment_all,
)
from probes import (
    MeanDifference,
    paired_bootstrap,
    paired_ratio_bootstrap,
    permutation_p_value,
    random_directions,
    ratio_bootstrap,
    sweep,
)

BEHAVIOR = "subgoal-setting"
SEED = 0

pair = load_pair("countdown-rl")
models = {"base": pair.base, "thinking": pair.thinking}
problems = list(load_task("countdown").problems(held_out=True))
random.Random(SEED).shuffle(problems)
fit, select, report = problems[:96], problems[96:104], problems[104:124]
cfg = pair.base.bridge.cfg
print(f"{cfg.architecture}, {cfg.n_layers} layers, d_model {cfg.d_model}")

# %% [markdown]
# ## Traces, sentences, behaviors
#
# Each model answers the `fit` problems, sampled at temperature 1. Every sentence becomes a segment
# with an exact token span and a behavior. A behavior's frequency is its share of the segments;
# intervals are 95% bootstrap intervals over problems.

# %%
traces = {name: generate(model, fit, seed=SEED) for name, model in models.items()}
segments = {name: segment_all(model, traces[name], "grammar") for name, model in models.items()}
for segment in segments["thinking"][0]:
    print(f"{segment.behavior or '':>24} | {segment.text.strip()}")

totals = {name: [len(row) for row in rows] for name, rows in segments.items()}
seen = {s.behavior for rows in segments.values() for row in rows for s in row if s.behavior}
print(f"\n{'share of segments':>24} | base                 | thinking")
for behavior in sorted(seen):
    shares = [
        ratio_bootstrap([sum(s.behavior == behavior for s in row) for row in rows], totals[name])
        for name, rows in segments.items()
    ]
    cells = [f"{s.value:.3f} [{s.ci.low:.3f}, {s.ci.high:.3f}]" for s in shares]
    print(f"{behavior:>24} | {' | '.join(cells)}")
for name in models:
    print(f"accuracy of {name}: {np.mean([t.correct for t in traces[name]]):.2f}")

# %% [markdown]
# ## Where can it be read?
#
# Both models read the pooled traces. `before` is the token just before a segment: the model has
# not yet begun the sentence, so a probe there reads a decision, not the words. The direction is the
# difference of means: segments that set a subgoal minus all others. Its AUROC is cross-validated
# with whole problems held out. The selectivity is what is left of it when the AUROC on labels
# shuffled within each problem is taken off.

# %%
pooled = traces["base"] + traces["thinking"], segments["base"] + segments["thinking"]
layers = range(pair.base.n_layers)
resid, direction = {}, {}
fig = go.Figure()
for name, model in models.items():
    store = collect(model, *pooled, reads=["before"])
    y = store.labels == BEHAVIOR
    resid[name] = [store[f"blocks.{layer}.hook_resid_post", "before"] for layer in layers]
    direction[name] = np.stack([mean_difference(x, y) for x in resid[name]])
    cells = {("before", layer): x for layer, x in enumerate(resid[name])}
    found = sweep(cells, y, store.groups, MeanDifference(), seed=SEED).cells
    for c in found:
        print(f"{name:>8} layer {c.layer}: AUROC {c.auroc:.3f}, selectivity {c.selectivity:.3f}")
    low = [c.auroc - c.auroc_ci.low for c in found]
    high = [c.auroc_ci.high - c.auroc for c in found]
    error = {"array": high, "arrayminus": low, "symmetric": False}
    color = theme.BASE if name == "base" else theme.THINKING
    fig.add_scatter(
        x=list(layers), y=[c.auroc for c in found], error_y=error, name=name, line={"color": color}
    )
fig.update_xaxes(title="Layer", dtick=1).update_yaxes(title="AUROC (95% CI)", range=[0.4, 1.02])
fig.update_layout(template=theme.TEMPLATE, width=520, height=360)
fig.update_layout(legend={"y": 1, "yanchor": "bottom"})

# %% [markdown]
# ## Is it causal?
#
# What a probe reads need not be what the model uses, so the direction has to *act*, and act more
# than chance does. Chance is 29 random directions that go through everything the real one goes
# through: same length, same positions, same problems, and their own choice of the best layer. The
# smallest p-value that 29 can give is 1/30; `whenlens run` uses 200 that keep
# to where activations vary, adds directions from shuffled
# labels, and corrects for testing several behaviors.
#
# `Add` edits only the tokens after which a sentence may start. A dose of 1 is one mean norm of the
# residual stream there; the layer is chosen at the middle dose. Every batch row may carry its own
# vector, so one generation tests all directions, with a zero vector among them as the baseline.

# %%
N_RANDOM = 29
noise = random_directions(N_RANDOM, pair.base.d_model, 1.0, SEED)


def candidates(name, layer):
    """[1 + 1 + N_RANDOM, d_model]: the real direction of a layer, zero, and the random ones."""
    real = direction[name][layer]
    return np.stack([real, np.zeros_like(real), *noise])


def measure(model, edit, vectors, problems):
    """Counts [3, vector, problem] of the behavior, of all segments and of right answers."""
    rows = torch.from_numpy(vectors).float().repeat_interleave(len(problems), 0)
    with intervene(model, edit(rows)):
        asked = problems * len(vectors)
        made = generate(model, asked, seed=SEED, batch_size=len(asked))
    labels = [[s.behavior for s in row] for row in segment_all(model, made, "grammar")]
    hits = [row.count(BEHAVIOR) for row in labels]
    counts = np.array([hits, [len(row) for row in labels], [t.correct for t in made]], float)
    return counts.reshape(3, len(vectors), len(problems))


def best_layers(name, edit_at, sign):
    """The layer at which each candidate moves the behavior most on the `select` problems."""
    found = []
    for layer in layers:
        counts = measure(models[name], edit_at(layer), candidates(name, layer), select)
        found.append(sign * counts[0].sum(-1) / counts[1].sum(-1))
    return np.argmax(found, axis=0)


def effect_on_report(name, edit_at, chosen, sign):
    """Effect of the real direction and 5-95% band of the random ones, each at its own layer."""
    counts = np.empty((3, len(chosen), len(report)))
    for layer in np.unique(chosen):
        here = chosen == layer
        vectors = candidates(name, layer)[here]
        counts[:, here] = measure(models[name], edit_at(layer), vectors, report)
    rates = counts[0].sum(-1) / counts[1].sum(-1)
    real, clean = counts[:, 0], counts[:, 1]
    effect = paired_ratio_bootstrap(real[0], real[1], clean[0], clean[1], seed=SEED)
    null = rates[2:] - rates[1]
    p = permutation_p_value(effect.value, null, "greater" if sign > 0 else "less")
    low, high = np.quantile(null, [0.05, 0.95])
    gain = paired_bootstrap(real[2], clean[2], [q.id for q in report], seed=SEED)
    print(
        f"layer {chosen[0]}: rate {rates[1]:.3f} -> {rates[0]:.3f}, effect {effect.value:+.3f} "
        f"[{effect.ci.low:+.3f}, {effect.ci.high:+.3f}], random {low:+.3f} to {high:+.3f}, "
        f"p = {p:.3f}; accuracy {gain.value:+.2f} [{gain.ci.low:+.2f}, {gain.ci.high:+.2f}]"
    )
    return effect, (low, high)


# %%
DOSES = (0.2, 0.4, 0.8)
unit = [float(np.linalg.norm(x, axis=1).mean()) for x in resid["base"]]


def adding(dose):
    """How to edit at a layer: add each row's vector at this dose."""
    return lambda layer: lambda rows: Add(rows, int(layer), dose, unit[layer])


chosen = best_layers("base", adding(DOSES[1]), +1)
found = [effect_on_report("base", adding(dose), chosen, +1) for dose in DOSES]

effects, bands = [effect for effect, _ in found], np.array([band for _, band in found])
error = {
    "array": [e.ci.high - e.value for e in effects],
    "arrayminus": [e.value - e.ci.low for e in effects],
    "symmetric": False,
}
fig = go.Figure()
fig.add_scatter(
    x=[*DOSES, *DOSES[::-1]], y=[*bands[:, 1], *bands[::-1, 0]], fill="toself", mode="none",
    fillcolor=theme.NULL, name="random directions, 5-95%",
)  # fmt: skip
fig.add_scatter(
    x=DOSES, y=[e.value for e in effects], error_y=error, name=theme.label(BEHAVIOR),
    line={"color": theme.color(BEHAVIOR)},
)  # fmt: skip
fig.update_xaxes(title="Dose (mean residual norms)").update_yaxes(title="Change of rate (95% CI)")
fig.update_layout(template=theme.TEMPLATE, width=520, height=360)
fig.update_layout(legend={"y": 1, "yanchor": "bottom"})

# %% [markdown]
# ## Does the thinking model need it?
#
# `MeanAblate` resets the component along the direction to its mean over all segments, so that
# every sentence starts from the same value and only the *difference* is gone.

# %%
means = [torch.from_numpy(x).mean(0) for x in resid["thinking"]]


def ablating(layer):
    """How to edit at a layer: reset each row's component to the mean."""
    return lambda rows: MeanAblate(rows, {int(layer): means[layer]}, at="starts")


chosen = best_layers("thinking", ablating, -1)
_ = effect_on_report("thinking", ablating, chosen, -1)

# %% [markdown]
# ## What this shows, and what it does not
#
# A direction that raises the behavior when added and lowers it when ablated, both outside the gray
# band of random directions and with intervals that exclude 0, is *causal* for how often the
# behavior occurs. Where only the AUROC is high, it is *readable*, no more. Read the printed lines
# with these limits in mind:
#
# - **Rate is not accuracy.** A large dose makes the model say `aim for` everywhere, and the
#   accuracy that is printed beside the rate tells what that costs. Whether the base then *solves*
#   more asks for the right moments too, which this notebook does not choose.
# - **The last layer is close to the answer.** Look which layer was chosen (it is printed first): a
#   direction that acts only at the last may do little more than raise the logit of one word. An
#   effect at an earlier layer says more.
# - **Few problems.** Twenty problems give wide intervals, and 29 random directions no p-value
#   below 0.033. One behavior at three doses is also three tests.
# - **The built-in pair is small and synthetic.** Its ground truth is known: the base had every
#   behavior before reinforcement learning. That makes it a check of the method, not evidence about
#   large models.
#
# `whenlens run --pair countdown-rl --out runs/demo` does all of it for four behaviors on hundreds
# of problems; `load_pair` takes any folder with `base/` and `thinking/` checkpoints.
