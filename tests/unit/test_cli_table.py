"""Tables for people: what is folded where the terminal is narrow, and what never is."""

from io import StringIO

import pytest
from rich.console import Console

from pulzar.cli.inspect import COLUMNS
from pulzar.cli.table import draw

LONG = ("key", "size", "created", "content type", "expires")
KEY = "photos/2026/summer/" + "a-long-name-" * 6 + ".jpeg"
ROW = (KEY, "293.0 KiB", "2026-11-25 23:11Z", "application/octet-stream", "2026-12-25 23:11Z")


def drawn(columns: tuple[str, ...], row: tuple[str, ...], width: int) -> list[str]:
    output = StringIO()
    draw(columns, [row], Console(file=output, width=width))
    return output.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 132])
def test_only_free_text_is_folded(width: int) -> None:
    lines = drawn(LONG, ROW, width)
    assert all(len(line) <= width for line in lines)
    (line,) = [line for line in lines if "293.0 KiB" in line]
    assert "2026-11-25 23:11Z" in line
    assert "2026-12-25 23:11Z" in line
    folded = "".join(line.split("  ")[0].strip() for line in lines[2:])
    assert folded == KEY


def test_a_terminal_that_is_too_narrow_gets_a_block_per_row() -> None:
    time = "2026-11-25T23:11:05.123Z"
    version = "0000010000000001"
    row = ("1", "128", "3", "PUT", version, "5", time, time, "ok", "a [bold]key[/bold]")
    lines = drawn((*COLUMNS, "key"), row, 80)
    assert lines == [
        *(f"{name:<7}  {cell}" for name, cell in zip((*COLUMNS, "key"), row, strict=True)),
        "",
    ]
    assert len(drawn((*COLUMNS, "key"), row, 160)) == 3
