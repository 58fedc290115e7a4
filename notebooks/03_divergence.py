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
# # Where do the two models part?
#
# Both models read the thinking model's own texts. At every token we ask how far their next-token
# distributions lie apart, which token each would have said, and what makes the difference: a layer, a
# component, a direction. `whenlens diverge` does all of this with every null; here it is by hand, on few
# problems.

# %%
import random

import numpy as np
import plotly.graph_objects as go

from figures import theme
from interp import Atlas, generate, load_pair, load_task
from interp.behaviors import segment_all
from interp.divergence.atlas_data import trace_record
from interp.divergence.layers import lens_kl
from interp.divergence.patching import patch, splits_at
from interp.divergence.summary import promoted, summarize, tabulate
from interp.divergence.tokens import score
from interp.vocabulary import shared_vocabulary

SEED, N = 0, 60
pair = load_pair("countdown-rl")
problems = list(load_task("countdown").problems(held_out=True))
random.Random(SEED).shuffle(problems)
traces = generate(pair.thinking, problems[:N], sampled=False)
segments = segment_all(pair.base, traces, "grammar")

# %% [markdown]
# ## Token by token
#
# One forward of each model. Jensen-Shannon divergence runs from 0 to ln 2 = 0.69 nats.

# %%
vocabulary = shared_vocabulary(pair.base, pair.thinking)
found = score(pair, vocabulary, traces)
table = tabulate(traces, segments, found)
said = summarize(table, found, SEED)
print(f"greedy tokens differ at {said['disagreement']['value']:.1%} of {said['tokens']} tokens")
print(f"{said['js']['share_on_segment_starts']:.0%} of the divergence stands on segment starts,")
print(f"which are {said['segment_starts']:.0%} of the tokens; Gini {said['js']['gini']:.2f}")
for row in promoted(pair.base, found)[:6]:
    print(
        f"{row['count']:3d} x {row['base_token']!r} -> {row['token']!r}, rank {row['median_rank']:.0f}"
    )

# %% [markdown]
# ## In which layer
#
# Logit lens of both models where they disagree, and everywhere else.

# %%
differ = np.flatnonzero(table.differ)
agree = np.random.default_rng(SEED).permutation(np.flatnonzero(~table.differ))[: len(differ)]
figure = go.Figure()
for name, rows in (("they disagree", differ), ("they agree", agree)):
    places = [table.places[row] for row in rows]
    kl = lens_kl(pair, vocabulary, traces, places).mean(1)
    figure.add_scatter(x=list(range(len(kl))), y=kl, name=name, mode="lines+markers")
figure.update_layout(
    template=theme.TEMPLATE,
    width=560,
    height=360,
    xaxis={"title": "Layer", "dtick": 1},
    yaxis={"title": "KL(thinking || base) of the lenses (nats)"},
)
figure

# %% [markdown]
# ## What makes the decision
#
# The thinking model's activations, put into the base at the last position before the first disagreement
# of each trace, one layer and component at a time. 1 restores the thinking model's choice in full.

# %%
first = [(i, int(np.flatnonzero(one.differ)[0])) for i, one in enumerate(found) if one.differ.any()]
tokens = [(int(found[i].thinking_token[t]), int(found[i].base_token[t])) for i, t in first]
splits = splits_at(pair, traces, first, tokens)
for component, restored in patch(splits, "thinking", "base", n_offsets=1).items():
    shares = ", ".join(f"{share:+.2f}" for share in restored.heatmap[:, 0])
    print(f"{component:10s} by layer: {shares}")

# %% [markdown]
# ## Read it
#
# The same numbers on the text itself: point at a token, or press `?` for the keys.

# %%
records = [
    trace_record(pair.base, "thinking", traces[i], segments[i], found[i], {}, {}) for i in range(12)
]
Atlas(
    {
        "schema": "whenlens.atlas/1",
        "pair": pair.name,
        "n_layers": pair.base.n_layers,
        "components": [],
        "offsets": [],
        "behaviors": sorted({s["behavior"] for r in records for s in r["segments"]} - {None}),
        "traces": records,
    }
)
