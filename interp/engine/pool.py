"""A pool of local processes in which a worker's death costs the shard in its hands, done again."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from interp.engine.work import AHEAD, TRIES, answer, attempt, deadly, packed

S = TypeVar("S")
R = TypeVar("R")


@dataclass(eq=False)
class _Task:
    """A function and a shard on their way, how often they were begun, and what came of it."""

    work: bytes
    shard: bytes
    tries: int = 0
    reply: bytes | None = None


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection

    def end(self) -> str:
        """Stop the process; says how it ended."""
        self.pipe.close()
        self.process.join(timeout=0.1)  # a dying one shall die of its own cause
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _serve(pipe: Connection, threads: int) -> None:
    """A worker's life: attempts until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    try:
        while True:
            work, shard = pipe.recv_bytes(), pipe.recv_bytes()
            pipe.send_bytes(attempt(work, shard, threads))
    except (EOFError, OSError):
        return


class Pool:
    """Up to `workers` processes of `threads` CPU threads each, started when there is work for them.

    Each has a pipe of its own, so that nothing is shared that a killed one could leave locked.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self._most, self._threads = workers, threads
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, _Task] = {}
        self._again: deque[_Task] = deque()
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:  # one import for all workers, also for those that replace a dead one
            self._context.set_forkserver_preload(["interp.models", "probes"])
            forkserver.ensure_running()  # imports while this process does so too

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *self._busy]:
            worker.end()
        self._idle, self._busy = [], {}

    def map_shards(self, fn: Callable[[S], R], shards: Iterable[S]) -> Iterator[R]:
        """See `Engine`."""
        work = packed("The function", fn)
        fresh = (_Task(work, packed("A shard", shard)) for shard in shards)
        order: deque[_Task] = deque()
        try:
            while True:
                while len(self._busy) < self._most:
                    if self._again:
                        task = self._again.popleft()
                    elif len(order) < AHEAD * self._most and (task := next(fresh, None)):
                        order.append(task)
                    else:
                        break
                    self._begin(task)
                if not order:
                    return
                self._listen()
                while order and (reply := order[0].reply) is not None:
                    order.popleft()
                    yield answer(reply)
        finally:  # where an error or a deaf caller ends this early, what still runs is not wanted
            for worker in [worker for worker, task in self._busy.items() if task in order]:
                del self._busy[worker]
                worker.end()

    def _begin(self, task: _Task) -> None:
        worker = self._idle.pop() if self._idle else self._started()
        task.tries += 1
        try:
            worker.pipe.send_bytes(task.work)
            worker.pipe.send_bytes(task.shard)
            self._busy[worker] = task
        except OSError:
            self._bury(worker, task)

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _listen(self) -> None:
        """Wait for an answer, or a death."""
        ready = wait([worker.pipe for worker in self._busy])
        for worker in [worker for worker in self._busy if worker.pipe in ready]:
            task = self._busy.pop(worker)
            try:
                task.reply = worker.pipe.recv_bytes()
                self._idle.append(worker)
            except (EOFError, OSError):
                self._bury(worker, task)

    def _bury(self, worker: _Worker, task: _Task) -> None:
        how = worker.end()
        if task.tries >= TRIES:
            raise deadly(how)
        self._again.append(task)
