"""The same work for every layer: on a CPU a layer for each core, so that none waits for another."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from probes._arrays import Array

Result = TypeVar("Result")


def layer_matrices(
    x: Iterable[Float[Array, "n d_model"]], n: int
) -> Iterator[Float[Tensor, "n d_model"]]:
    """The activations of each layer, checked, as tensors where they lie.

    Raises ValueError for no layers, NaN or infinite values, or another number of rows than n.
    """
    layer = -1
    for layer, values in enumerate(x):
        values = torch.as_tensor(values)
        if len(values) != n:
            raise ValueError(
                f"layer {layer} of x has {len(values)} rows and y has {n}, expected the same number: "
                "pass one row each"
            )
        # A sum needs no copy; where it overflows, the values are counted one by one.
        finite = bool(torch.isfinite(values.sum()))
        bad = 0 if finite else values.numel() - int(torch.isfinite(values).sum())
        if bad:
            raise ValueError(
                f"layer {layer} of x holds {bad} NaN or infinite values out of {values.numel()}, "
                "expected none: look for overflow in the dtype that they were computed in"
            )
        yield values
    if layer < 0:
        raise ValueError("x holds 0 layers, expected at least one: pass x [layer, n, d_model]")


def for_each_layer(
    work: Callable[[Tensor], Result], layers: Iterator[Float[Tensor, "n d_model"]]
) -> list[Result]:
    """`work` of each layer, in order. As many layers as torch has threads are in memory at a time.

    A layer gets one core: matrices of a few thousand rows are too small to share between two, and
    numbers do not depend on how many cores there are.
    """
    threads, found = torch.get_num_threads(), []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            while some := list(islice(layers, threads)):
                on_cpu = some[0].device.type == "cpu"
                found += pool.map(work, some) if on_cpu else map(work, some)
        finally:
            torch.set_num_threads(threads)
    return found
