"""The progress bar, drawn by rich. Imported only when stderr is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from pulzar.client.save import OnBytes


class Shown:
    """A bar below what is written. It may be used from several threads."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._line = ""  # the end of what is to be written, without its end of line

    def show(self, title: str, done: float, total: float | None) -> None:
        """How far it is; `total` None is not known."""
        self._progress.update(
            self._task, description=Text(title).markup, completed=done, total=total
        )

    def write(self, text: str) -> None:
        """Write text above the bar, whole lines at a time."""
        lines, newline, self._line = (self._line + text).rpartition("\n")
        if newline:
            self._progress.console.out(lines, highlight=False)

    def end(self) -> None:
        """Write what has no end of line."""
        if self._line:
            self._progress.console.out(self._line, highlight=False)


@contextmanager
def shown(title: str) -> Iterator[Shown]:
    """Draw a bar while the block runs, of which the title changes."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        made = Shown(progress, progress.add_task(Text(title).markup, total=None))
        try:
            yield made
        finally:
            made.end()


@contextmanager
def bar(title: str, total_bytes: int) -> Iterator[OnBytes]:
    """Draw a bar while the block runs; the callback takes the bytes that were moved. It may be
    called from several threads. `total_bytes` 0 is an amount that nobody knows."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(Text(title).markup, total=total_bytes or None)

        def advance(count: int) -> None:
            progress.advance(task, count)

        yield advance


@contextmanager
def count_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `bar`, for things that are counted."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(Text(title).markup, total=total or None)

        def advance(count: int) -> None:
            progress.advance(task, count)

        yield advance
