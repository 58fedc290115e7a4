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
# # Did training teach how to reason, or only when?
#
# The base model writes. Wherever the thinking model would say something else, a vector is added to
# the base's residual stream, for this one token and at this one place. No weight changes, and no token is
# copied: what is said is still the base's own choice. If that closes the gap between the two, the
# base could do it all along and training taught *when*.
#
# This notebook does by hand, on few problems, what `whenlens hybrid` does with every control. The
# method is that of Venhoff et al. (arXiv:2510.07364).

# %%
import random

import numpy as np
import plotly.graph_objects as go
import torch

from figures import theme
from interp import generate, load_pair, load_task
from interp.hybrid.controllers import at_disagreements, one_category
from interp.hybrid.decode import THINKING_TOKEN, Arm, decode_hybrid, steered
from interp.hybrid.points import disagreements, read_points
from interp.hybrid.shown import pieces
from interp.hybrid.vectors import trained_jointly
from interp.traces import prompt_tokens, row_uniforms
from probes import gap_recovery, rng

SEED, LAYER, N_NEW = 0, 2, 160
pair = load_pair("countdown-rl")
task = load_task("countdown")
problems = list(task.problems(held_out=True))
random.Random(SEED).shuffle(problems)
fit, report = problems[:200], problems[200:300]

# %% [markdown]
# ## Where do the two models part?
#
# Both read the thinking model's own traces. A *point* is a place where the next token is decided; at
# few of them the greedy tokens of the two models differ.

# %%
traces = generate(pair.thinking, fit, sampled=False)
points = read_points(pair, traces, [LAYER], thinking_layer=LAYER)
parted = disagreements(points)
n, n_parted = (sum(int(p.real.sum()) for p in ps) for ps in (points, parted))
print(f"{n_parted} of {n} tokens: {n_parted / n:.1%}")
show = pair.base.tokenizer.decode
for p in parted[:1]:
    for row in range(5):
        base, thinking = p.base_token[row, 0], p.target[row, 0]
        print(f"base says {show([int(base)])!r}, thinking model {show([int(thinking)])!r}")

# %% [markdown]
# ## One vector
#
# A vector is trained to make the base say the thinking model's token at these points. Here one vector
# serves all of them: it can say *now*, and nothing else. `whenlens hybrid` trains one for each category of
# an unsupervised taxonomy of the thinking model's sentences.

# %%
one = one_category()
categories = [one.read(p.thinking_resid) for p in parted]
vectors = trained_jointly(parted, categories, one.names, LAYER, SEED, network=False)
resid = torch.cat([p.base_resid[LAYER][p.real] for p in parted]).norm(dim=-1).mean()
print(f"length {float(vectors.vectors.norm()):.0f}; the residual stream's is {float(resid):.0f}")

# %% [markdown]
# ## Hybrid, ceiling and null
#
# All on problems that trained nothing. The ceiling is the thinking model's own token at the
# same places. The null is five random vectors of the same length: a single one may be lucky.

# %%
prompts = [prompt_tokens(pair.base, p.prompt) for p in report]
draws = np.stack(
    [np.stack([row_uniforms(SEED, p.id, k, N_NEW) for k in range(3)], 1) for p in report]
)
moments = at_disagreements("disagreement", one)


def solve(proposal):
    """Which problems the arm solves, and its rows."""
    arm = Arm(moments, proposal, thinking_layer=LAYER)
    rows = decode_hybrid(pair.base, pair.thinking, prompts, arm, torch.from_numpy(draws))
    end = pair.base.tokenizer.eos_token_id
    right = [
        row.tokens[-1] == end and task.grade(p, show(row.tokens[:-1]))
        for p, row in zip(report, rows, strict=True)
    ]
    return np.array(right, float), rows


base, thinking = (
    np.array([t.correct for t in generate(model, report, sampled=False)], float)
    for model in (pair.base, pair.thinking)
)
hybrid, rows = solve(steered(vectors))
ceiling, _ = solve(THINKING_TOKEN)
nulls = [solve(steered(vectors.randomized(rng(SEED, "null", k))))[0] for k in range(5)]
share = np.mean([c >= 0 for row in rows for c in row.steered])
print(f"base {base.mean():.2f}, hybrid {hybrid.mean():.2f}, thinking {thinking.mean():.2f}")
print(f"tokens steered: {share:.1%}")

fig = go.Figure()
for name, right, color in [
    ("hybrid", hybrid, theme.THINKING),
    ("thinking model's token", ceiling, theme.INK),
    *[(f"random vector {i + 1}", null, theme.BASE) for i, null in enumerate(nulls)],
]:
    found = gap_recovery(base, right, thinking, seed=SEED).recovery
    print(f"{name}: {found.value:+.2f} [{found.ci.low:+.2f}, {found.ci.high:+.2f}]")
    error = {
        "array": [100 * (found.ci.high - found.value)],
        "arrayminus": [100 * (found.value - found.ci.low)],
        "symmetric": False,
    }
    fig.add_scatter(
        x=[100 * found.value], y=[name], error_x=error, mode="markers",
        marker={"color": color, "size": 9}, showlegend=False,
    )  # fmt: skip
fig.add_vline(x=0, line={"width": 1, "color": theme.INK})
fig.add_vline(x=100, line={"width": 1, "color": theme.INK, "dash": "dot"})
fig.update_xaxes(title="Recovery of the gap (%, 95% CI)").update_yaxes(autorange="reversed")
fig.update_layout(template=theme.TEMPLATE, width=620, height=360, margin={"l": 170})

# %% [markdown]
# ## What was steered?
#
# Steered tokens stand in brackets.

# %%
gained = [i for i in range(len(report)) if hybrid[i] > base[i]][:2]
for i in gained:
    marked = [
        f"[{text.strip()}]" if category >= 0 else text.strip()
        for text, category in zip(pieces(pair.base, rows[i].tokens), rows[i].steered, strict=True)
    ]
    print(report[i].prompt, " ".join(marked), "\n")

# %% [markdown]
# ## What this shows, and what it does not
#
# - **The thinking model is asked at every token.** The moments are its own; only the *content* comes from
#   the base. `whenlens hybrid` has arms that do without it: a gate on the base's entropy, a prompt,
#   power sampling.
# - **A hundred problems** give wide intervals, and five random vectors are a weak null.
# - **A single vector** does nearly as well here as one for each category, so in this pair little depends on
#   *which*. Say so before you say that categories matter.
# - On `countdown-distilled`, whose base never saw these behaviors, the same steps recover next to
#   nothing, though the ceiling is as high. Try it: change the name in the first cell.
