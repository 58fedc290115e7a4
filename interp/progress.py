"""Progress bars for long work; silent unless a console is given."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """One bar per stage on `console`; without a console, nothing is shown."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def say(self, sentence: str | None) -> None:
        """Show a sentence, if there is one."""
        if self.console is not None and sentence is not None:
            self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the block runs; call what it yields with the units just done."""
        if self.console is None:
            yield lambda n: None
            return
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with RichProgress(*columns, console=self.console) as shown:
            task = shown.add_task(name, total=total)
            yield lambda n: shown.advance(task, n)
