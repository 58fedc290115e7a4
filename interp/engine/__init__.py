"""Where work runs: `map_shards` in this process, in a pool of local processes, or on a Ray cluster."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar, runtime_checkable

from interp.errors import UserError, unknown_name

ENGINES = ("local", "ray")

S = TypeVar("S")
R = TypeVar("R")


@runtime_checkable
class Engine(Protocol):
    """Runs one function on many shards of work."""

    def map_shards(self, fn: Callable[[S], R], shards: Iterable[S]) -> Iterator[R]:
        """`fn(shard)` of every shard, in order, each as soon as it and those before it are there.

        Shards are drawn as room for them appears, so an iterator may still be making them while others
        run; while one is slow, only so many after it (`work.AHEAD` for each worker) as memory has to hold
        the results of. A shard whose worker dies is done again. What `fn` raises is raised here. Results do not
        depend on the engine or on how many workers it has: a shard is the same work everywhere, on the
        same number of threads (`open_engine`). Raises `UserError` for a function or a shard that cannot travel
        to another process, and for a shard on which worker after worker dies.
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

    `workers` is how many shards run at a time. Without it, `local` is this process on as many threads as PyTorch
    takes, and Ray takes as many shards as the cluster has room for. `address` is that of a Ray cluster
    (`HOST:PORT`, `auto`); without one, Ray is started on this machine. A script that opens several processes
    does so under `if __name__ == "__main__"`.

    With `workers`, and on Ray, a shard is computed on one CPU thread, or on `OMP_NUM_THREADS`, here and in every
    worker: sums then have one order, whoever does them. Raises `UserError` for an unknown engine, for less than
    one worker, and where Ray is not installed or does not answer.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers were given, expected at least 1: raise --workers.")
    if name == "local" and address is not None:
        raise UserError(
            f"Address {address!r} was given for local processes: use it with --engine ray, or leave it out."
        )
    if name == "local" and workers is None:
        return nullcontext(HERE)
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
        elif workers == 1 or workers is None:
            yield HERE
        else:
            from interp.engine.pool import Pool

            with Pool(workers, threads) as engine:
                yield engine


def n_threads() -> int:
    """CPU threads of a shard: `OMP_NUM_THREADS`, or one."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, int(said)) if said.isdecimal() else 1


__all__ = ["ENGINES", "HERE", "Engine", "Here", "n_threads", "open_engine"]
