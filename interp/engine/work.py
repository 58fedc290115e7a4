"""How a shard of work travels to another process and comes back, whatever carries it."""

import io
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from interp.errors import UserError, first_line

TRIES = 3
"""How often a shard is begun, where workers die on it."""
AHEAD = 4
"""How many shards for each worker may be drawn and not yet handed on: what is done waits for a slow one before
it, in memory."""


@contextmanager
def one_pace(threads: int) -> Iterator[None]:
    """Let PyTorch compute on so many threads while the block is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Pickler(pickle.Pickler):
    """Takes of a tensor what it shows, not all of the memory that it is a part of."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is torch.Tensor and obj.untyped_storage().nbytes() > obj.nbytes:
            return obj.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _dumped(thing: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def packed(what: str, thing: Any) -> bytes:
    """A function or a shard as bytes; raises `UserError` where it cannot travel."""
    # Bytes that never touch a file: they go to processes that this one started, or to its cluster.
    try:
        return _dumped(thing)
    except UserError:
        raise
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise UserError(
            f"{what} cannot be sent to another process ({first_line(error)}): expected a function of a module "
            "(or functools.partial of one) and plain data; write it so, or run with --workers 1."
        ) from error


@lru_cache(maxsize=1)
def _function(work: bytes) -> Callable:
    # Kept, because it often brings models along.
    return pickle.loads(work)


def attempt(work: bytes, shard: bytes, threads: int) -> bytes:
    """Run packed work on a packed shard, in a worker; the answer or the error, packed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return _dumped((_function(work)(pickle.loads(shard)), None, ""))
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> bytes:
    """A packed answer that raises."""
    told = "".join(traceback.format_exception(error))
    return pickle.dumps((None, _portable(error), told))


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error that does not survive the journey is told in words
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def answer(reply: bytes) -> Any:
    """What an attempt gave; raises what it raised."""
    found, error, told = pickle.loads(reply)
    if error is not None:
        error.add_note(f"In a worker:\n{told}")
        raise error
    return found


def deadly(how: str) -> UserError:
    """The error for a shard on which every worker dies."""
    return UserError(
        f"{TRIES} workers died on the same shard of work (the last {how}): if memory ran out, give fewer "
        "--workers; what is done stays, run the same command to go on."
    )
