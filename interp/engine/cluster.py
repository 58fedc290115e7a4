"""Ray: shards as tasks on a cluster, done again where a worker or its machine dies."""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from interp.engine.work import AHEAD, TRIES, answer, attempt, deadly, failure, packed
from interp.errors import UserError, first_line
from interp.runs import code_key

S = TypeVar("S")
R = TypeVar("R")
KNOCK_SECONDS = 5


def _task(code: str, work: bytes, shard: bytes, threads: int) -> bytes:
    if code != code_key():
        return failure(
            UserError(
                "A worker of the Ray cluster has other code than this machine: install the same version of "
                "whenlens on every machine of the cluster, and start Ray anew."
            )
        )
    return attempt(work, shard, threads)


def _knock(address: str) -> None:
    """Raise where nobody listens; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("not HOST:PORT")
    socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


class RayCluster:
    """A Ray cluster that runs, or one of this machine's own for the time of the block.

    Where this process is connected to a cluster already, that one is used, and stays connected.
    A shard takes one CPU, and one GPU where the cluster has any. With `workers`, so many run at a time.
    """

    def __init__(self, address: str | None, workers: int | None, threads: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "Ray is not installed: pip install 'whenlens[ray]', or run with --engine local."
            ) from error
        self._ray: Any = ray
        self._address, self._workers, self._threads = address, workers, threads

    def __enter__(self) -> "RayCluster":
        ray = self._ray
        self._own = not ray.is_initialized()
        if not self._own and self._address is not None:
            raise UserError(
                f"This process is connected to a Ray cluster already, and {self._address!r} was given: leave "
                "the address out, or end that connection with ray.shutdown()."
            )
        if self._own:
            more = {} if self._address else {"num_cpus": self._workers, "include_dashboard": False}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")
            try:
                if self._address not in (None, "auto"):
                    _knock(self._address)
                ray.init(
                    self._address or "local", log_to_driver=False, logging_level="ERROR", **more
                )
            except Exception as error:  # Ray raises almost anything for a cluster that is not there
                where = f"at {self._address!r} " if self._address else ""
                raise UserError(
                    f"Ray {where}does not answer ({first_line(error)}): start it with ray start --head and give "
                    "the address that it prints, as HOST:PORT."
                ) from error
        has = ray.cluster_resources()
        workers = self._workers or max(1, int(has.get("CPU", 1)))
        # More than run at once, so that no worker waits for its next shard.
        self._room = self._workers or 2 * workers
        self._ahead = AHEAD * workers
        # Workers keep their models; by default one with a GPU would end after each task.
        self._task = ray.remote(max_retries=TRIES - 1, max_calls=0)(_task).options(
            num_cpus=1, num_gpus=1 if has.get("GPU") else 0
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._ray.shutdown()

    def map_shards(self, fn: Callable[[S], R], shards: Iterable[S]) -> Iterator[R]:
        """See `Engine`."""
        work = self._ray.put(packed("The function", fn))
        code = code_key()
        fresh = (
            self._task.remote(code, work, packed("A shard", shard), self._threads)
            for shard in shards
        )
        order: deque[Any] = deque()
        running: list[Any] = []
        # Where an error or a deaf caller ends this early, what still runs comes to its end unheard: to cancel a
        # task whose answer is on its way can abort this process (a failed check in Ray's task manager, 2.60).
        while True:
            while len(running) < self._room and len(order) < self._ahead:
                if (task := next(fresh, None)) is None:
                    break
                order.append(task)
                running.append(task)
            if not order:
                return
            if running:
                _, running = self._ray.wait(running)
            while order and order[0] not in running:
                yield answer(self._result(order.popleft()))

    def _result(self, task: Any) -> bytes:
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise deadly(f"with {first_line(error)!r}") from error
        except errors.RayError as error:
            raise UserError(
                f"The Ray cluster could not do a shard of work ({first_line(error)}): install the same version "
                "of whenlens on every machine of the cluster; what is done stays, run the same command to go on."
            ) from error
