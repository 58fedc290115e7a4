"""The program behind `grading.py`: reads requests as JSON lines, writes replies as JSON lines.

It stands alone, and imports math-verify or reasoning-gym with the first request that needs it. No text of
a request is ever compiled: four of reasoning-gym's graders call `eval` on a model's answer.
"""

import json
import logging
import os
import random
import sys
from functools import cache, lru_cache

MEMORY = 4 * 2**30
JUNK = "xx 7 zz"

_trusted: set[str] | None = None


def _audit(event: str, args: tuple) -> None:
    if event == "compile" and _trusted is not None:
        source = args[0].decode("utf-8", "replace") if isinstance(args[0], bytes) else args[0]
        if source not in _trusted:
            raise RuntimeError("an answer is not run as code")


def hello() -> bool:
    return True


def same(gold: str, answer: str) -> bool:
    """Whether two expressions are equal, as math-verify reads them."""
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list:
        config = [LatexExtractionConfig(boxed_match_priority=0)]
        return parse(f"\\boxed{{{text}}}", config, parsing_timeout=0)

    try:
        left, right = read(gold), read(answer)
        return bool(left and right) and bool(verify(left, right, timeout_seconds=0))
    except Exception:
        return False


def names() -> list[str]:
    """The data sets that reasoning-gym makes without being told more."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


@cache
def _data(name: str, seed: int, size: int):
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, seed=seed, size=size)


@lru_cache(maxsize=4096)
def _entry(name: str, seed: int, size: int, index: int) -> dict:
    random.seed(f"{name}/{seed}/{index}")  # some generators draw from the global state
    return _data(name, seed, size)[index]


def entries(name: str, seed: int, size: int, first: int, last: int) -> list[dict]:
    """Questions and answers `first` to `last` (exclusive)."""
    found = [_entry(name, seed, size, i) for i in range(first, last)]
    return [{"question": e["question"], "answer": e["answer"]} for e in found]


def score(name: str, seed: int, size: int, index: int, gold: str | None, answer: str) -> bool:
    """Whether the data set's own grader gives `answer` full marks, and can be trusted with that."""
    entry = _entry(name, seed, size, index)
    if entry["answer"] != gold:
        raise ValueError(f"{name}:{index} has another answer in this version of reasoning-gym")
    # Where the grader cannot tell right from wrong, its own answer is the only right one, and no use here.
    marks = _marks(_data(name, seed, size), answer, entry)
    return marks >= 1.0 and _is_strict(name, seed, size, index)


@lru_cache(maxsize=4096)
def _is_strict(name: str, seed: int, size: int, index: int) -> bool:
    """Whether the data set's grader denies full marks to junk, to another answer, and to hedges."""
    entry = _entry(name, seed, size, index)
    gold, tried = entry["answer"], [JUNK]
    if gold is not None:
        near = (_entry(name, seed, size, (index + k) % size)["answer"] for k in range(1, 20))
        other = next((answer for answer in near if answer != gold), JUNK)
        hedges = (
            "{1}",
            "not {0}",
            "{0} or {1}",
            "{1} or {0}",
            "{0}, {1}",
            "{1}, {0}",
            "{0}\n{1}",
            "{1}\n{0}",
        )
        tried += [hedge.format(gold, other) for hedge in hedges] + [f"{gold} {JUNK}"]
    return all(_marks(_data(name, seed, size), answer, entry) < 1.0 for answer in tried)


def _marks(data, answer: str, entry: dict) -> float:
    global _trusted
    _trusted = set(_texts(entry))
    try:
        return float(data.score_answer(answer, entry))
    except Exception:
        return 0.0
    finally:
        _trusted = None


def _texts(value) -> list[str]:
    """All texts anywhere in an entry."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return [t for v in value for t in _texts(v)] if isinstance(value, list | tuple | set) else []


def _limit(seconds: int) -> None:
    """Let the system kill this process after so many more seconds of processor time."""
    try:
        import resource
    except ImportError:  # not on Windows: the clock of the other side is left
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    wanted = {
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + 1 + seconds,
        resource.RLIMIT_AS: MEMORY,
    }
    for kind, limit in wanted.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard < 0 else min(limit, hard), hard))


def main() -> None:
    """Answer requests until the other side hangs up."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print
    logging.disable(logging.CRITICAL)
    sys.addaudithook(_audit)
    functions = {f.__name__: f for f in (hello, same, names, entries, score)}
    for line in sys.stdin:
        request = json.loads(line)
        _limit(request["seconds"])
        try:
            reply = {"value": functions[request["what"]](**request["given"])}
        except MemoryError:
            sys.exit(1)
        except Exception as error:
            reply = {"error": f"Grading failed ({type(error).__name__}: {str(error)[:200]})."}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
