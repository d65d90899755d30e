"""What `put` and `get` share for directories: a progress bar and the report of what was done."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from pulzar.cli.exit import NO, Answer
from pulzar.cli.output import note, print_json, print_line, size_text, stderr_is_terminal
from pulzar.client.save import OnBytes
from pulzar.client.tree import Outcome

LEFT_OUT_SHOWN = 10


@contextmanager
def progress(title: str, total_bytes: Callable[[], int]) -> Iterator[OnBytes | None]:
    """A bar on stderr where that is a terminal, moved by the callback; else None.

    `total_bytes` is asked only where there is a bar to draw.
    """
    if not stderr_is_terminal():
        yield None
        return
    with importlib.import_module("pulzar.cli.bar").bar(title, total_bytes()) as on_bytes:
        yield on_bytes


def nothing(_count: int) -> None:
    """Where there is no bar."""


class Tally:
    """What became of the files so far."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.moved = self.moved_bytes = self.skipped = self.failed = self.left_out = 0

    def add(self, outcome: Outcome) -> None:
        """Count a file; with JSON print it, else only what failed."""
        if outcome.error:
            self.failed += 1
        elif outcome.skipped:
            self.skipped += 1
        else:
            self.moved += 1
            self.moved_bytes += outcome.size
        if self._as_json:
            print_json(msgspec.structs.asdict(outcome))
        elif outcome.error:
            note(f"{outcome.key}: {outcome.error}" if outcome.key else outcome.error)

    def leave_out(self, path: str) -> None:
        """Count what is no regular file, and name the first ones."""
        self.left_out += 1
        if self.left_out <= LEFT_OUT_SHOWN:
            note(f"{path} is no regular file: left out")
        elif self.left_out == LEFT_OUT_SHOWN + 1:
            note("more that is no regular file is left out and only counted")

    def summary(self, done: str) -> str:
        """The counts in one line."""
        left_out = f", left out: {self.left_out}" if self.left_out else ""
        return (
            f"{done}: {self.moved} ({size_text(self.moved_bytes)}),"
            f" there already: {self.skipped}{left_out}, failed: {self.failed}"
        )


def report(outcomes: Iterable[Outcome], tally: Tally, *, done: str, as_json: bool) -> None:
    """Print what became of the files: with JSON each one, else what failed and the counts.

    Ends the command with NO where any file failed.
    """
    for outcome in outcomes:
        tally.add(outcome)
    if not as_json:
        print_line(tally.summary(done))
    if tally.failed:
        raise Answer(NO)
