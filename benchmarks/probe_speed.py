"""Speed of logistic probes over all layers, behaviors and folds, as ratios within one run.

    python benchmarks/probe_speed.py [--layers N] [--segments N] [--d-model N] [--pairs N] [--threads N]
    python benchmarks/probe_speed.py --data activations.safetensors

`logistic_sweep` against the plain loop: StandardScaler and LogisticRegression for each layer, behavior and fold,
on the same float32 numbers, with as many threads. The loop is timed on `--pairs` random pairs of layer and
behavior, all folds of each, in turn with the sweep, and scaled up to all pairs: by default 18 of 180, one fit in
ten. At least 10 times is asked, and out-of-fold AUROCs that differ by at most 0.005. On a machine that has other
work, take `--threads 1` and read the CPU seconds.

Then one layer with a quarter, half, all and twice the segments: how cost grows with their number, as the exponent
of a power. At most 1.05 is asked.

Activations are synthetic: a spectrum like that of a residual stream, heavy tails, a few dimensions of huge offset,
and behaviors that several directions tell of. With `--data` they are your own: `x` [layer, n, d_model],
`y` [n, behavior] of 0 and 1, and `group` [n], the number of each row's problem.
"""

import argparse
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from turns import Row, Setting

from interp.engine.work import one_pace
from probes import auroc, grouped_folds, logistic_sweep

N_GROUPS = 200
N_LAYERS, N_SEGMENTS, N_BEHAVIORS, N_FOLDS, N_TIMED = 30, 5000, 6, 5, 18


def synthetic(n_layers: int, n: int, d_model: int, n_behaviors: int):
    """Activations a layer, behaviors with rates from 3% to 30%, and the problem of each row."""
    draws = np.random.default_rng(0)
    axes = np.linalg.qr(draws.normal(size=(d_model, d_model)))[0]
    spectrum = np.arange(1, d_model + 1) ** -0.7
    group = draws.integers(N_GROUPS, size=n)
    hidden = (
        draws.standard_t(5, size=(n, d_model)) + draws.normal(size=(N_GROUPS, d_model))[group] / 3
    )
    tells = draws.normal(size=(d_model, n_behaviors)) * spectrum[:, None] ** 0.3
    logits = 3 * (hidden @ tells) / np.linalg.norm(tells, axis=0)
    rates = np.linspace(0.03, 0.3, n_behaviors)
    y = logits + draws.logistic(size=logits.shape)
    y = y > [np.quantile(column, 1 - rate) for column, rate in zip(y.T, rates, strict=True)]

    def layer(number: int) -> np.ndarray:
        noise = np.random.default_rng(number + 1).standard_t(5, size=(n, d_model))
        mixed = (hidden + noise * (1.5 - number / n_layers)) * spectrum
        x = (mixed @ axes).astype(np.float32)
        x[:, :3] = x[:, :3] * 50 + 1000
        return x

    return layer, y, group


def plain(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Out-of-fold decisions of one layer and behavior, fold by fold."""
    scores = np.zeros(len(y))
    for k in np.unique(folds):
        train = folds != k
        scaler = StandardScaler().fit(x[train])
        probe = LogisticRegression(max_iter=1000).fit(scaler.transform(x[train]), y[train])
        scores[~train] = probe.decision_function(scaler.transform(x[~train]))
    return scores


def clock() -> np.ndarray:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def stratified(y: np.ndarray, group: np.ndarray, n_folds: int) -> np.ndarray:
    """Folds that keep problems whole, stratified by the first behavior that a row shows."""
    return grouped_folds(group, np.where(y.any(1), y.argmax(1) + 1, 0), n_folds, 0)


def race(layer, n_layers: int, y: np.ndarray, folds: np.ndarray, timed: set, threads: int):
    """Wall and CPU seconds of the sweep over all layers and of the loop over the timed pairs; AUROC apart."""
    ours, loop, apart = np.zeros(2), np.zeros(2), []
    for begin in range(0, n_layers, threads):
        numbers = range(begin, min(begin + threads, n_layers))
        some = [layer(at) for at in numbers]
        start = clock()
        swept = logistic_sweep(some, y, folds)
        ours += clock() - start
        for (at, x), b in product(zip(numbers, some, strict=True), range(y.shape[1])):
            if (at, b) in timed:
                start = clock()
                with threadpool_limits(threads):
                    scores = plain(x, y[:, b], folds)
                loop += clock() - start
                apart.append(abs(auroc(scores, y[:, b]) - swept.auroc[at - begin, b]))
    return ours, loop, max(apart)


def growth(n: int, d_model: int, n_behaviors: int, n_folds: int) -> tuple[list[int], np.ndarray]:
    """CPU seconds of one layer's fits by number of segments: the least of three turns."""
    numbers, took = [n // 4, n // 2, n, 2 * n], []
    layer, y, group = synthetic(1, numbers[-1], d_model, n_behaviors)
    x = layer(0)
    for _ in range(3):
        for some in numbers:
            folds = stratified(y[:some], group[:some], n_folds)
            start = clock()
            logistic_sweep([x[:some]], y[:some], folds)
            took.append(clock()[1] - start[1])
    return numbers, np.reshape(took, (3, -1)).min(0)


def compare(layer, n_layers: int, y: np.ndarray, folds: np.ndarray, n_timed: int, threads: int):
    """Wall and CPU seconds of the sweep and of the whole loop, scaled up from random pairs; AUROC apart."""
    warnings.simplefilter("ignore")
    logistic_sweep(layer(0)[None, :500, :64], y[:500, -1:], np.arange(500) % 2)  # warm up
    pairs = [(at, b) for at in range(n_layers) for b in range(y.shape[1])]
    timed = {pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:n_timed]}
    ours, loop, apart = race(layer, n_layers, y, folds, timed, threads)
    return ours, loop * len(pairs) / len(timed), apart


def sweep(setting: Setting) -> list[Row]:
    """Logistic probes of all layers of one width, against scikit-learn's loop, as rows of a table.

    On one thread each: two threads of its own make the loop several times slower beside torch's.
    """
    d_model = setting.model.d_model
    layer, y, group = synthetic(N_LAYERS, N_SEGMENTS, d_model, N_BEHAVIORS)
    folds = stratified(y, group, N_FOLDS)
    with one_pace(1):
        ours, loop, apart = compare(layer, N_LAYERS, y, folds, N_TIMED, 1)
        numbers, took = growth(N_SEGMENTS, d_model, N_BEHAVIORS, N_FOLDS)
    setting.console.print(f"  sweep: {ours[0]:.1f} s, the loop {loop[0]:.1f} s", highlight=False)
    fits = f"sweep, {N_LAYERS} x {N_BEHAVIORS} x {N_FOLDS} fits"
    return [
        Row("scikit-learn's loop", fits, [loop[0] / ours[0]], ">= 10",
            f"{loop[1] / ours[1]:.1f} in CPU seconds"),
        Row("sweep, AUROC apart", "the loop", [apart], "<= 0.005"),
        Row("sweep, segments", "its work: " + ", ".join(map(str, numbers)),
            [float(np.polyfit(np.log(numbers), np.log(took), 1)[0])], "<= 1.05"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=N_LAYERS, help="evenly spaced ones of --data")
    parser.add_argument("--segments", type=int, default=N_SEGMENTS)
    parser.add_argument("--d-model", type=int, default=576)
    parser.add_argument("--behaviors", type=int, default=N_BEHAVIORS)
    parser.add_argument("--folds", type=int, default=N_FOLDS)
    parser.add_argument(
        "--pairs", type=int, default=N_TIMED, help="of layer and behavior, in the loop"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, help="safetensors with x, y and group")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.data:
        found = load_file(options.data)
        layers, y, group = found["x"], found["y"].astype(bool), found["group"]
        chosen = np.linspace(0, len(layers) - 1, min(options.layers, len(layers))).astype(int)
        n_layers, layer = len(chosen), layers[chosen].__getitem__
    else:
        n_layers = options.layers
        layer, y, group = synthetic(n_layers, options.segments, options.d_model, options.behaviors)
    folds = stratified(y, group, options.folds)
    ours, whole, apart = compare(layer, n_layers, y, folds, options.pairs, options.threads)
    n_pairs = n_layers * y.shape[1]
    print(
        f"{n_pairs * options.folds} fits: {n_layers} layers x {y.shape[1]} behaviors x "
        f"{options.folds} folds, {len(y)} segments, {options.threads} threads"
    )
    print(f"{'':24} {'wall s':>10} {'CPU s':>10}")
    print(f"{'logistic_sweep':24} {ours[0]:10.1f} {ours[1]:10.1f}")
    note = f"  (from {min(options.pairs, n_pairs)} of {n_pairs} pairs)"
    print(f"{'scikit-learn, a loop':24} {whole[0]:10.1f} {whole[1]:10.1f}{note}")
    ratio = whole / ours
    print(f"{'ratio':24} {ratio[0]:10.1f} {ratio[1]:10.1f}  (at least 10 is asked)")
    print(
        f"{'AUROC apart, at most':24} {apart:10.4f}             (at most 0.005 is asked)",
        flush=True,
    )
    numbers, took = growth(options.segments, options.d_model, options.behaviors, options.folds)
    for n, seconds in zip(numbers, took, strict=True):
        print(f"{f'one layer, {n} segments':24} {'':10} {seconds:10.2f}")
    exponent = np.polyfit(np.log(numbers), np.log(took), 1)[0]
    print(f"{'exponent':24} {'':10} {exponent:10.2f}  (at most 1.05 is asked)")


if __name__ == "__main__":
    main()
