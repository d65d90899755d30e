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
from typing import TypeAlias

import click

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Cell: TypeAlias = str | int | float | bool | None


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def print_line(text: str) -> None:
    """One line on stdout."""
    click.echo(printable(text))


def note(text: str) -> None:
    """One line on stderr."""
    click.echo(f"pulzar: {printable(text)}", err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Rows under headings on a terminal, tab-separated lines without headings elsewhere."""
    if on_terminal():
        # Drawing takes rich, which costs more time than most commands: only people pay for it.
        importlib.import_module("pulzar.cli.table").draw(
            columns, [[cell_text(cell) for cell in row] for row in rows]
        )
        return
    for row in rows:
        click.echo("\t".join(cell_text(cell) for cell in row))


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
