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
# # May this direction be deployed?
#
# Someone hands us a vector and says: add it, and the model checks its results. We put it before gates that
# were declared beforehand, look at the card, and only then write it out for other software, with a proof
# that it does the same there. `whenlens validate` and `whenlens export` do all of this; here it is by hand, on
# few problems and with few null directions, so intervals are wide.

# %%
from pathlib import Path

import numpy as np
from IPython.display import IFrame

from figures.card import dose_window
from interp import Export, export_direction, load_pair, prove
from interp.config import Config
from interp.directions import DirectionSet
from interp.pairs import direction_file
from interp.validation.experiment import run_validation
from interp.validation.gates import read_gates

OUT = Path("deployment")
config = Config("countdown-rl", n_fit=300, n_report=100, n_random=30, n_shuffled=5, n_null_problems=24)
shipped = DirectionSet.load(direction_file(Path("countdown-rl")))
checks = shipped["verification", "countdown-rl/base"]
print(f"{checks.behavior}: layer {checks.layer}, read {checks.read}, fitted in {checks.model}")

# %% [markdown]
# ## The gates
#
# Thresholds come from a YAML file, so they are fixed before anything is measured. Here we leave out the two
# that take longest.

# %%
Path("gates.yaml").write_text("necessity: false\ndose_response: {min_order: 0.7}\nprompt: false\n")
gates = read_gates(Path("gates.yaml"))
for name, thresholds in gates.items():
    print(f"{name:15}", dict(thresholds))

# %% [markdown]
# ## A true direction, and one that is only noise
#
# Plain vectors say nothing of themselves, so layer and behavior are given beside them.

# %%
noise = np.random.default_rng(0).normal(size=len(checks.vector)).astype(np.float32)
np.savez("candidates.npz", verification=checks.vector.numpy(), noise=noise)
cards = run_validation(
    Path("candidates.npz"),
    "countdown-rl/base",
    None,
    OUT,
    gates,
    "notebook 04",
    config=config,
    layer=checks.layer,
    behavior="verification",
)
for card in cards:
    print(f"\n{card['direction']}: {'passes' if card['passed'] else 'fails'}")
    for name, gate in card["gates"].items():
        print(f"  {'+' if gate['passed'] else '-'} {name:15} {gate['reason']}")

# %% [markdown]
# ## Dose and response
#
# The window reaches from the dose with the least effect that counts to the dose at which the model falls apart.

# %%
by_name = {card["direction"]: card for card in cards}
dose_window(by_name["verification"])

# %% [markdown]
# The card is a page of its own, to be handed on with the direction.

# %%
IFrame(str(OUT / "cards" / "verification" / "card.html"), width="100%", height=600)

# %% [markdown]
# ## Out into other software
#
# A hook that needs only PyTorch and transformers, and a checkpoint with the vector baked in as a bias. Each
# is opened in its own software and compared with our hooks: residual streams, logits, and greedy text. What a
# format cannot say is refused.

# %%
base = load_pair("countdown-rl").base
request = Export(checks, dose=by_name["verification"]["dose"], operation="add", at="all")
for format in ("hook", "hf-bias"):
    folder = OUT / "exports" / format
    export_direction(base, request, format, folder)
    proof = prove(base, request, format, folder)
    worst = max(proof[part]["logits_max_abs"] for part in ("prompt", "decode"))
    print(f"{format}: {proof['status']}, logits within {worst:.1g}, text equal: {proof['text_equal']}")
try:
    export_direction(base, Export(checks, 0.3, "ablate", "all"), "gguf", OUT / "exports" / "gguf")
except ValueError as refused:
    print("gguf:", refused)
