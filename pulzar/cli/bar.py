"""The progress bar, drawn by rich. Imported only when stderr is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from pulzar.client.save import OnBytes


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
