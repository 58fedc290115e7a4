"""Generation asks the device for a number once in many tokens, and says the same as if it asked each time."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interp.hybrid.controllers import at_disagreements, one_category
from interp.hybrid.decode import GRID, Arm, decode_hybrid, steered
from interp.hybrid.vectors import SteeringVectors
from interp.interventions import Add, MeanAblate, intervene
from interp.traces import decode

N_NEW = 48
ASKING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)
PROMPTS = [[5, 9, 17, 30], [11, 3], [7, 8, 9, 10, 11, 12], [40, 41, 42]]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(3))


def asked_by_us(depth: int) -> bool:
    """Whether the first frame outside of torch is this package's: transformers asks for itself."""
    frame = sys._getframe(depth)
    while frame and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return frame is not None and "/interp/" in frame.f_code.co_filename


class Waits(TorchDispatchMode):
    """Counts the questions to the device that stop the host: numbers, lists, and masks as indices."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func.overloadpacket is torch.ops.aten.index and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if (masked or func.overloadpacket in ASKING) and asked_by_us(1):
            self.n += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def count(monkeypatch):
    """Runs some work and returns how often it waited."""

    def counted(work) -> int:
        waits, real = Waits(), torch.Tensor.tolist

        def tolist(tensor):
            waits.n += asked_by_us(1)
            return real(tensor)

        with monkeypatch.context() as patch, waits:
            patch.setattr(torch.Tensor, "tolist", tolist)
            work()
        return waits.n

    return counted


def edits():
    means = {layer: torch.full((32,), 0.1) for layer in (1, 2)}
    return Add(VECTOR, 0, 0.3, 2.0, at="all"), MeanAblate(VECTOR, means)


def run(model, *edits):
    draws = torch.rand(len(PROMPTS), N_NEW, generator=torch.Generator().manual_seed(1)).double()
    with intervene(model, *edits) as audit:
        return decode(model, PROMPTS, draws, N_NEW), audit


@pytest.mark.parametrize("n", [5, 16, 1000])
@pytest.mark.parametrize("edited", [False, True])
def test_looking_seldom_changes_no_token_and_no_count(sharp, looks, n, edited):
    some = edits() if edited else ()
    tokens, audit = run(sharp, *some)
    assert len({len(row) for row in tokens}) > 1  # some end before others
    looks(n)
    seldom, counted = run(sharp, *some)
    assert seldom == tokens
    assert (counted.rows, counted.positions, counted.fired) == (
        audit.rows,
        audit.positions,
        audit.fired,
    )
    assert counted.change == pytest.approx(audit.change)


@pytest.mark.parametrize("edited", [False, True])
def test_the_device_is_asked_once_in_many_tokens(sharp, looks, count, edited):
    some = edits() if edited else ()
    often = count(lambda: run(sharp, *some))
    looks(16)
    seldom = count(lambda: run(sharp, *some))
    assert often >= N_NEW
    assert seldom <= 2 * (N_NEW // 16) + 4


def test_the_hybrid_asks_no_more_often(pair, looks, count):
    vectors = SteeringVectors("difference", 1, ("any",), 20 * VECTOR[None], torch.zeros(32), None)
    arm = Arm(at_disagreements("d", one_category()), steered(vectors, GRID), "thinking")
    draws = torch.rand(len(PROMPTS), N_NEW, 3, generator=torch.Generator().manual_seed(1))

    def work():
        return decode_hybrid(pair.base, pair.thinking, PROMPTS, arm, draws, True, N_NEW)

    assert any(c >= 0 for row in work() for c in row.steered)
    often = count(work)
    looks(16)
    seldom = count(work)
    assert often >= N_NEW
    assert seldom <= N_NEW // 16 + 12


def test_nan_is_refused_when_the_block_is_left(sharp, looks):
    looks(1000)
    with pytest.raises(ValueError, match="NaN or infinite"):
        run(sharp, Add(VECTOR * float("nan"), 0, 0.3, 2.0, at="all"))
