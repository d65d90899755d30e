"""What a command prints: for people on a terminal, for programs everywhere else.

- `print_json`: one JSON object per line; what `--json` asks for.
- `print_table`: a drawn table on a terminal; else one line per row, cells separated by tabs,
  without a heading, so that `cut`, `awk` and `while read` need no switch.
- `print_line`: one line on stdout.
- `note`: one line for people on stderr; stdout stays clean for what was asked.

Text from outside (keys, content types) passes `printable` first: a control character must not
reach a terminal, and a tab or a newline must not look like another cell or row.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import BinaryIO, TypeAlias

import click

from pulzar.errors import OpenError

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

TABLE_ROWS_MAX = 1000

Cell: TypeAlias = str | int | float | bool | None


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether a person reads stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def binary_stdout() -> BinaryIO:
    """Where the bytes of a value go. Raises OpenError where stdout is closed."""
    _check_stdout()
    return sys.stdout.buffer


def binary_stdin() -> BinaryIO:
    """Where the bytes of a value come from. Raises OpenError where stdin is closed."""
    if sys.stdin is None:  # as `<&-` leaves it
        raise OpenError("standard input is closed")
    return sys.stdin.buffer


def _check_stdout() -> None:
    if sys.stdout is None:  # as `>&-` leaves it; click would be silent
        raise OpenError("standard output is closed")


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on one line."""
    _check_stdout()
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def print_line(text: str) -> None:
    """One line on stdout."""
    _check_stdout()
    click.echo(printable(text))


def note(text: str) -> None:
    """One line on stderr."""
    click.echo(f"pulzar: {printable(text)}", err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Rows under headings on a terminal, tab-separated lines without headings elsewhere.

    On a terminal a long list is drawn as several tables, so that it need not fit into memory.
    """
    _check_stdout()
    if not on_terminal():
        for row in rows:
            click.echo("\t".join(cell_text(cell) for cell in row))
        return
    # Drawing takes rich, which costs more time than most commands: only people pay for it.
    draw = importlib.import_module("pulzar.cli.table").draw
    remaining = iter(rows)
    while page := list(islice(remaining, TABLE_ROWS_MAX)):
        draw(columns, [[cell_text(cell) for cell in row] for row in page])


def cell_text(cell: Cell) -> str:
    """A cell as text; None is empty."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return printable(str(cell))


def printable(text: str) -> str:
    """Text with every control character (and half of a pair) written as Python would."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def size_text(size: int) -> str:
    """Bytes for people: 999 B, 1.0 KiB, 3.5 GiB."""
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1023.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} PiB"


def key_text(key: bytes | None) -> str | None:
    """A key as text; None where there is none. What is not UTF-8 is written in hex."""
    return key.decode("utf-8", "backslashreplace") if key else None


def time_text(time: datetime | int) -> str:
    """A time as RFC 3339 text, UTC, with milliseconds where it is given in those; the number
    itself where no calendar has it."""
    if isinstance(time, datetime):
        return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        text = datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(time)
    return text.replace("+00:00", "Z")
