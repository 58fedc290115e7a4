"""Speed of hybrid decoding, as ratios within one run on one pair and the same prompts.

    python benchmarks/hybrid_speed.py [--pair NAME] [--problems N]

1. Tokens a second against the structure of the published code: no cache, one row at a time, one
   full forward for the base, two for the thinking model (category and logits), and one for each candidate
   coefficient at a disagreement. At least 20 times is asked.
2. Wall time against decoding base and thinking model separately at the same batch size, where 10% of
   tokens are steered, for one candidate and for a sweep of six. At most 1.4 times is asked.
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import torch

from interp import Countdown, load_pair
from interp.hybrid.controllers import Categories, at_disagreements, at_random
from interp.hybrid.decode import GRID, Arm, decode_hybrid, steered
from interp.hybrid.vectors import SteeringVectors
from interp.traces import decode, prompt_tokens

N_NEW = 23
"""Base traces are not shorter, so that all three decodings run for the same steps and rows."""
N_SLOW = 6
REPEATS = 5


@torch.no_grad()
def published(pair, prompts, vectors, layer):
    """Token by token, row by row, with full forwards."""
    base, thinking = pair.base.plain.twin, pair.thinking.plain.twin
    block = base.model.layers[layer]
    n = 0
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(N_NEW):
            ids = torch.tensor([tokens])
            thinking(ids, use_cache=False)  # the category is read in a pass of its own
            wanted = thinking(ids, use_cache=False).logits[0, -1]
            token = int(base(ids, use_cache=False).logits[0, -1].argmax())
            if token != int(wanted.argmax()):
                candidates = [token]
                for c in GRID:
                    hook = block.register_forward_hook(
                        lambda module, args, out, c=c: torch.cat(
                            [out[:, :-1], out[:, -1:] + c * vectors.vectors[0]], 1
                        )
                    )
                    candidates.append(int(base(ids, use_cache=False).logits[0, -1].argmax()))
                    hook.remove()
                token = max(candidates, key=lambda t: float(wanted[t]))
            tokens.append(token)
            n += 1
            if token == pair.base.tokenizer.eos_token_id:
                break
    return n


def seconds(work):
    """Wall time of the work, and what it returned."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main() -> None:
    """Run both comparisons and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="countdown-rl")
    parser.add_argument("--problems", type=int, default=500)
    options = parser.parse_args()
    pair = load_pair(options.pair)
    problems = list(Countdown().problems())[: options.problems]
    prompts = [prompt_tokens(pair.base, p.prompt) for p in problems]
    layer = 1
    noise = torch.randn(1, pair.base.d_model, generator=torch.Generator().manual_seed(0))
    vectors = SteeringVectors(
        "trained-jointly", layer, ("any",), noise, torch.zeros(pair.base.d_model)
    )
    one = Categories(("any",), lambda resid: torch.zeros(resid.shape[:-1], dtype=torch.long))
    draws = torch.from_numpy(np.random.default_rng(0).random((len(prompts), N_NEW, 3)))

    def hybrid(controller, grid, judge):
        arm = Arm(controller, steered(vectors, grid), judge)
        return decode_hybrid(pair.base, pair.thinking, prompts, arm, draws, False, N_NEW)

    hybrid(at_random(one, 0.1), (1.0,), "first")  # warm up
    slow_time, slow_tokens = seconds(lambda: published(pair, prompts[:N_SLOW], vectors, layer))
    fast_time, rows = seconds(lambda: hybrid(at_disagreements("d", one), GRID, "thinking"))
    fast_tokens = sum(len(row.tokens) for row in rows)
    slow_rate, fast_rate = slow_tokens / slow_time, fast_tokens / fast_time
    print(f"published structure: {slow_rate:,.0f} tokens/s")
    share = np.mean([c >= 0 for row in rows for c in row.steered])
    print(
        f"batched, two caches, {share:.1%} of tokens steered: {fast_rate:,.0f} tokens/s, "
        f"{fast_rate / slow_rate:.0f} times"
    )
    for grid, judge in (((1.0,), "first"), (GRID, "thinking")):
        ratios = []
        for _ in range(REPEATS):
            base, _ = seconds(lambda: decode(pair.base, prompts, None, N_NEW))
            thinking, _ = seconds(lambda: decode(pair.thinking, prompts, None, N_NEW))
            both, rows = seconds(partial(hybrid, at_random(one, 0.1), grid, judge))
            ratios.append(both / (base + thinking))
        share = np.mean([c >= 0 for row in rows for c in row.steered])
        print(
            f"{len(grid)} candidate(s), {share:.1%} of tokens steered: "
            f"{statistics.median(ratios):.2f} times base plus thinking apart "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {REPEATS} runs)"
        )


if __name__ == "__main__":
    main()
