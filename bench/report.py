"""The tables that people read: on the terminal, and in RESULTS.md. Text in, text out."""

from collections.abc import Sequence

from bench.figures import Figure, Result, Unit, Verdict, short_by, spread, verdict

DURABILITY = """\
| system | a 2xx to a write means |
|---|---|
| Pulzar | the record, deletes included, is in the log and `fdatasync` has returned |
| nginx DAV | the bytes are in the page cache; power loss may take them (nginx never syncs) |
| etcd | the entry is in its write-ahead log and `fdatasync` has returned |
"""


def quantity(value: float, unit: Unit) -> str:
    """A number as people write it: three digits that mean something."""
    if unit is Unit.RATIO:
        text = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    elif unit is Unit.SECONDS:
        text = f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
    else:
        text = f"{value:,.0f}"
    return text + unit.value


def wanted(value: float | None, figure: Figure) -> str:
    """A floor or a goal, with the side on which it lies where that is not obvious."""
    if value is None:
        return "-"
    text = f"{value:,g}{figure.unit.value}"
    return text if figure.higher_is_better else f"<= {text}"


def judgement(result: Result) -> str:
    """The last column: passed, or by how much it is short."""
    measured = result.measured
    word = verdict(result.figure, measured)
    if word is Verdict.SHORT and measured is not None:
        return f"short by {short_by(result.figure, measured):.0%}"
    return word.value


def measured_text(result: Result) -> str:
    return "-" if result.measured is None else quantity(result.measured, result.figure.unit)


def line(result: Result) -> str:
    """One result on the terminal."""
    figure = result.figure
    return (
        f"{figure.row:12} {figure.what}\n"
        f"{'':12} {measured_text(result)}   floor {wanted(figure.floor, figure)}"
        f"   goal {wanted(figure.goal, figure)}   {judgement(result)}"
        + (f"\n{'':12} {result.detail}" if result.detail else "")
        + "".join(f"\n{'':12} {note}" for note in result.notes)
    )


def table(results: Sequence[Result]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| row | what | measured | floor | goal | | spread | made of |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        figure = result.figure
        made_of = "; ".join((result.detail, *result.notes) if result.detail else result.notes)
        cells = (
            figure.row,
            figure.what,
            measured_text(result),
            wanted(figure.floor, figure),
            wanted(figure.goal, figure),
            judgement(result),
            f"{spread(result.rounds):.0%}" if len(result.rounds) > 1 else "-",
            made_of,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def document(
    results: Sequence[Result], *, machine: Sequence[tuple[str, str]], command: str, rounds: int
) -> str:
    """RESULTS.md: the table with everything one needs to judge or repeat it."""
    facts = "\n".join(f"| {name} | {text} |" for name, text in machine)
    return (
        "# Benchmark results\n\n"
        f"Written by `{command}`; README.md beside this file says what is compared and why that "
        f"is fair. Figures are medians of {rounds} interleaved rounds unless a row says "
        "otherwise; *spread* is the largest minus the smallest round, in parts of the median.\n\n"
        "## The machine\n\n"
        f"| | |\n|---|---|\n{facts}\n\n"
        "## Durability\n\n"
        f"{DURABILITY}\n"
        "## Figures\n\n"
        f"{table(results)}"
    )
