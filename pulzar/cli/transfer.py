"""What `put` and `get` share for directories: a progress bar and the report of what was done."""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from pulzar.cli.exit import NO, Answer
from pulzar.cli.output import note, print_json, print_line, size_text
from pulzar.client.tree import OnBytes, Outcome


@contextmanager
def progress(title: str, total_bytes: Callable[[], int]) -> Iterator[OnBytes | None]:
    """A bar on stderr where that is a terminal, moved by the callback; else None.

    `total_bytes` is asked only where there is a bar to draw.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with importlib.import_module("pulzar.cli.bar").bar(title, total_bytes()) as on_bytes:
        yield on_bytes


def report(outcomes: Iterable[Outcome], *, done: str, as_json: bool) -> None:
    """Print what became of the files: with JSON each one, else what failed and the counts.

    Ends the command with NO where any file failed.
    """
    moved = skipped = failed = size = 0
    for outcome in outcomes:
        if outcome.error:
            failed += 1
        elif outcome.skipped:
            skipped += 1
        else:
            moved += 1
            size += outcome.size
        if as_json:
            print_json(msgspec.structs.asdict(outcome))
        elif outcome.error:
            note(f"{outcome.key}: {outcome.error}")
    if not as_json:
        print_line(
            f"{done}: {moved} ({size_text(size)}), there already: {skipped}, failed: {failed}"
        )
    if failed:
        raise Answer(NO)
