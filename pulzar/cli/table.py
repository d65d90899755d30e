"""Tables for people, drawn by rich. Imported only when stdout is a terminal.

Only the columns of FREE texts are folded where a line is too long, and none of them below
FREE_COLUMNS: a time or a number stays whole. Where that is not enough, every row becomes a block
of lines, `heading  cell`.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

FREE = frozenset({"key", "content type", "path", "place", "value", "what"})
FREE_COLUMNS = 12
GAP_COLUMNS = 2  # between two columns


def draw(
    columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """Print rows under headings. Cells are plain text: brackets in a key are not markup."""
    console = console or Console()
    cells = [[Text(cell) for cell in row] for row in rows]
    widths = [
        max(len(heading), *(row[number].cell_len for row in cells))
        for number, heading in enumerate(columns)
    ]
    least = sum(
        min(width, FREE_COLUMNS) if heading in FREE else width
        for width, heading in zip(widths, columns, strict=True)
    )
    if least + GAP_COLUMNS * (len(columns) - 1) > console.width:
        _blocks(console, columns, cells)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for heading in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading not in FREE)
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    width = max(map(len, columns))
    for row in rows:
        for heading, cell in zip(columns, row, strict=True):
            console.print(Text(f"{heading:<{width}}  ").append_text(cell), soft_wrap=True)
        console.print()
