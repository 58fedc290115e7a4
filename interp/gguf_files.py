"""GGUF files, read by transformers in a fifth of the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any
from unittest.mock import patch

import numpy as np

_ONE_AT_A_TIME = Lock()


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within, gguf parses a file once, and from a plain array, whoever asks for it.

    transformers has the metadata of one file parsed for the configuration, the tokenizer and the weights, each
    time by slices of a memory map, which cost many times those of an array: a vocabulary has 100,000 of them.
    The table of tensors' names, the same for all modules of a model, is made for each of them.
    """
    import gguf

    with _ONE_AT_A_TIME:

        class Reader(gguf.GGUFReader):
            @property
            def data(self) -> np.ndarray:
                return self._data

            @data.setter
            def data(self, values: np.memmap[Any, Any]) -> None:
                self._data = np.asarray(values)

        names = lru_cache(gguf.get_tensor_name_map)
        with (
            patch.object(gguf, "GGUFReader", lru_cache(Reader)),
            patch.object(gguf, "get_tensor_name_map", names),
        ):
            yield
