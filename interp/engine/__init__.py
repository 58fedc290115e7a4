"""Where work runs: `map_shards` in this process, in a pool of local processes, or on a Ray cluster."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar, runtime_checkable

from interp.errors import UserError, unknown_name

ENGINES = ("local", "ray")
MOST_WORKERS = 8
"""Processes at most, unless more are asked for: each holds the models."""

S = TypeVar("S")
R = TypeVar("R")


@runtime_checkable
class Engine(Protocol):
    """Runs one function on many shards of work."""

    def map_shards(self, fn: Callable[[S], R], shards: Iterable[S]) -> Iterator[R]:
        """`fn(shard)` of every shard, in order, each as soon as it and those before it are there.

        Shards are drawn as room for them appears, so an iterator may still be making them while others
        run. A shard whose worker dies is done again. What `fn` raises is raised here. Results do not
        depend on the engine or on how many workers it has: a shard is the same work everywhere, on the
        same number of threads. Raises `UserError` for a function or a shard that cannot travel to another
        process, and for a shard on which worker after worker dies.
        """
        ...


class Here:
    """One shard after another, in this process."""

    def map_shards(self, fn: Callable[[S], R], shards: Iterable[S]) -> Iterator[R]:
        """See `Engine`."""
        return map(fn, shards)


HERE = Here()
"""The engine of whoever names none."""


def open_engine(
    name: str = "local", workers: int | None = None, address: str | None = None
) -> AbstractContextManager[Engine]:
    """The engine of a run, for a `with` block: `local` processes, or `ray`.

    `workers` is how many shards run at a time: of local processes as many as there are cores (but one
    where there is a GPU, and then in this process), on Ray as many as the cluster has room for. `address`
    is that of a Ray cluster (`HOST:PORT`, `auto`); without one, Ray is started on this machine.

    While the block is open, here and in every worker, PyTorch computes on one CPU thread, or on
    `OMP_NUM_THREADS`: sums then have one order, whoever does them. Raises `UserError` for an unknown
    engine, and where Ray is not installed or does not answer.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if name == "local" and address is not None:
        raise UserError(
            f"Address {address!r} was given for local processes: use it with --engine ray, or leave it out."
        )
    return _opened(name, workers, address)


@contextmanager
def _opened(name: str, workers: int | None, address: str | None) -> Iterator[Engine]:
    from interp.engine.work import one_pace  # PyTorch only where something is computed

    threads = n_threads()
    with one_pace(threads):
        if name == "ray":
            from interp.engine.cluster import RayCluster

            with RayCluster(address, workers, threads) as engine:
                yield engine
            return
        workers = workers or default_workers(threads)
        if workers == 1:
            yield HERE
            return
        from interp.engine.pool import Pool

        with Pool(workers, threads) as engine:
            yield engine


def n_threads() -> int:
    """CPU threads of a shard: `OMP_NUM_THREADS`, or one."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, int(said)) if said.isdecimal() else 1


def default_workers(threads: int) -> int:
    """A process for every so many cores, `MOST_WORKERS` at most; one where there is a GPU."""
    import torch

    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MOST_WORKERS, (cores or 1) // threads))


__all__ = ["ENGINES", "HERE", "Engine", "Here", "default_workers", "n_threads", "open_engine"]
