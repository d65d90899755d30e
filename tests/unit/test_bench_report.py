"""What people read: a line per figure, and RESULTS.md."""

import pytest

from bench.figures import Figure, Result, Unit
from bench.report import document, line, quantity, table, wanted

PUT = Figure(row="put", what="PUT against nginx", unit=Unit.RATIO, floor=0.7, goal=1.0)
MEMORY = Figure(
    row="large", what="memory", unit=Unit.MIB, floor=150, goal=None, higher_is_better=False
)
REACHED = Result(figure=PUT, rounds=(0.8, 0.9, 0.7), detail="Pulzar 8/s; nginx 10/s")
MISSED = Result(figure=MEMORY, rounds=(300.0,))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.834, Unit.RATIO, "0.83x"),
        (312.4, Unit.RATIO, "312x"),
        (101_234.5, Unit.KEYS_PER_S, "101,234 keys/s"),
        (0.04321, Unit.SECONDS, "0.0432 s"),
        (1.234, Unit.SECONDS, "1.23 s"),
        (149.6, Unit.MIB, "150 MiB"),
    ],
)
def test_quantity(value: float, unit: Unit, text: str) -> None:
    assert quantity(value, unit) == text


def test_wanted_says_on_which_side() -> None:
    assert wanted(0.7, PUT) == "0.7x"
    assert wanted(150, MEMORY) == "<= 150 MiB"
    assert wanted(None, MEMORY) == "-"


def test_line_shows_measured_beside_floor_and_goal() -> None:
    text = line(REACHED)
    assert "0.80x" in text
    assert "floor 0.7x" in text
    assert "goal 1x" in text
    assert "PASS (floor)" in text
    assert "nginx 10/s" in text


def test_line_says_by_how_much_it_is_short() -> None:
    assert "short by 100%" in line(MISSED)


def test_table_has_the_same_columns_in_every_row() -> None:
    odd = Result(figure=PUT, rounds=(), notes=("a | b",))
    rows = table([REACHED, MISSED, odd]).splitlines()
    assert {row.replace("\\|", "").count("|") for row in rows} == {9}


def test_document_carries_machine_durability_and_command() -> None:
    text = document(
        [REACHED], machine=[("filesystem", "ext4")], command="python -m bench", rounds=5
    )
    assert "| filesystem | ext4 |" in text
    assert "`fdatasync` has returned" in text
    assert "`python -m bench`" in text
    assert "medians of 5" in text
