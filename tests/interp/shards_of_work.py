"""Work for the engine's tests: functions that a worker can import, and fast."""

import os
import signal
import time
from pathlib import Path

import torch

from interp.errors import UserError


def square(n: int) -> int:
    return n * n


def late_square(n: int) -> int:
    """The first shards take longest."""
    time.sleep(0.3 / (1 + n))
    return n * n


def sums(seed: int) -> torch.Tensor:
    """Sums whose last bits would tell another number of threads."""
    numbers = torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed))
    return torch.stack([numbers.sum(), numbers.view(1024, -1).matmul(numbers.view(-1, 1024)).sum()])


def circumstances(_: int) -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


def dies_once(folder: Path, n: int) -> torch.Tensor:
    """Two shards take their workers along when they are begun for the first time."""
    mark = folder / str(n)
    if n in (1, 4) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return sums(n)


def dies(n: int) -> int:
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def slow_and_dies_once(folder: Path, others: int, n: int) -> int:
    """The first shard ends after `others` have begun, and takes its worker along the first time."""
    if n == 0:
        while len(list(folder.glob("[0-9]*"))) < others:
            time.sleep(0.01)
        time.sleep(0.3)  # if more are drawn than may be, it is now
        if not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        (folder / str(n)).touch()
    return n * n


class Odd(Exception):
    """An error that pickle cannot bring back."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)


def fails(n: int) -> int:
    if n == 2:
        raise UserError("Two was given, expected another number: count on.")
    if n == 3:
        raise KeyError("three")
    if n == 4:
        raise Odd(why="four")
    return n


def stays(folder: Path, n: int) -> int:
    """Leaves its process id, and stays in all shards but the first."""
    (folder / f"{n}").write_text(str(os.getpid()))
    time.sleep(600 * n)
    return n


def written(model, problems) -> list[tuple[int, ...]]:
    from interp.traces import generate

    return [trace.tokens for trace in generate(model, problems, seed=3)]


def whose(model, _: int) -> tuple[int, int, str]:
    return os.getpid(), id(model), model.fingerprint


def how(pair, _: int) -> tuple:
    """What a worker's models have beside their weights."""
    base = pair.base
    fast = base.hf is base.plain.twin is not base.bridge.original_model
    with base.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_mid", lambda resid, hook: resid)]):
        slow = base.hf is base.bridge.original_model
    return base.template, base.temperature, base.hf.dtype, pair.alone, fast, slow


def arms(d_model: int, d_vocab: int) -> dict:
    """Arms of every kind of proposal and judge, with random vectors."""
    from interp.hybrid import controllers as c
    from interp.hybrid.decode import GRID, THINKING_TOKEN, Arm, logit_bias, steered
    from interp.hybrid.vectors import CoefficientNetwork, SteeringVectors

    torch.manual_seed(0)
    names = ("one", "two")
    categories = c.probe_categories(torch.randn(60, d_model), 30 * names)
    shifts = torch.randn(2, d_model) * 3
    network = CoefficientNetwork(d_model, 2, 1.0)
    torch.nn.init.normal_(network.heads.weight)
    vectors = SteeringVectors("trained", 2, names, shifts, torch.zeros(d_model), network)
    biases, apart = torch.randn(1, d_vocab) * 3, c.at_disagreements("probe", categories)
    return {
        "fixed": Arm(apart, steered(vectors), thinking_layer=1),
        "network": Arm(c.at_random(categories, 0.5), steered(vectors, network=True)),
        "swept": Arm(c.of_random_category(apart, vectors), steered(vectors, GRID), "thinking"),
        "by lot": Arm(apart, steered(vectors, GRID), "random"),
        "entropy": Arm(c.at_entropy(0.5), logit_bias(biases)),
        "ceiling": Arm(apart, THINKING_TOKEN),
    }
