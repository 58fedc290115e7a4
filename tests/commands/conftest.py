"""Refusals of the command, without a process of their own."""

import sys
from collections.abc import Callable

import pytest

from interp.cli import main


@pytest.fixture
def said(monkeypatch, capsys) -> Callable[..., str]:
    """What the command says when it refuses its arguments, in one line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["whenlens", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    return run
