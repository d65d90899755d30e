"""What is measured, what is wanted, and the arithmetic between the two. No I/O.

A row is measured in rounds; in each round everything that is compared runs once, one right after
the other, so that a slow minute of the machine hits all of them. What is judged is the median
over the rounds of the ratio within a round, never a ratio of two bests.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Unit(Enum):
    """How a figure is written."""

    RATIO = "x"
    KEYS_PER_S = " keys/s"
    SECONDS = " s"
    MIB = " MiB"
    PERCENT = " %"
    CALLS_PER_S = " calls/s"


class Verdict(Enum):
    """How a measured figure stands to what is wanted."""

    GOAL = "PASS (goal)"
    FLOOR = "PASS (floor)"
    SHORT = "short"
    NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table of figures to reach. A missing floor means: not judged."""

    row: str
    what: str
    unit: Unit
    floor: float | None = None
    goal: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A figure as measured: one value per round, and what they were made of."""

    figure: Figure
    rounds: tuple[float, ...]
    detail: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def measured(self) -> float | None:
        return median(self.rounds) if self.rounds else None


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number, the mean of the two in the middle."""
    return statistics.median(values)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Ours divided by theirs, round by round."""
    if len(ours) != len(theirs):
        raise ValueError("every round must have measured both")
    return tuple(a / b for a, b in zip(ours, theirs, strict=True))


def reaches(figure: Figure, measured: float, wanted: float | None) -> bool:
    """Whether `measured` is at least as good as `wanted`."""
    if wanted is None:
        return False
    return measured >= wanted if figure.higher_is_better else measured <= wanted


def verdict(figure: Figure, measured: float | None) -> Verdict:
    """Goal reached, only the floor, or short of both."""
    if measured is None or figure.floor is None:
        return Verdict.NONE
    if reaches(figure, measured, figure.goal):
        return Verdict.GOAL
    if reaches(figure, measured, figure.floor):
        return Verdict.FLOOR
    return Verdict.SHORT


def short_by(figure: Figure, measured: float) -> float:
    """How far from the floor, as a part of it: 0.25 is a quarter of the floor missing or over."""
    if figure.floor is None or reaches(figure, measured, figure.floor):
        return 0.0
    return abs(measured - figure.floor) / figure.floor


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest, as a part of the median: how much the rounds disagree."""
    middle = median(values) if values else 0.0
    return (max(values) - min(values)) / middle if middle else 0.0


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
