"""The arithmetic of the benchmark: ratios within a round, medians over rounds, verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import (
    Figure,
    Result,
    Unit,
    Verdict,
    median,
    percentile,
    ratios,
    short_by,
    spread,
    verdict,
)

RATE = Figure(row="r", what="a rate", unit=Unit.RATIO, floor=0.7, goal=1.0)
TIME = Figure(
    row="t", what="a time", unit=Unit.SECONDS, floor=2.0, goal=1.0, higher_is_better=False
)
UNJUDGED = Figure(row="u", what="a fact", unit=Unit.MIB)


def test_median_of_even_number_is_between_the_two_in_the_middle() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_ratio_is_taken_within_a_round() -> None:
    # The machine was twice as fast in the second round, for both.
    assert ratios([10.0, 20.0], [20.0, 40.0]) == (0.5, 0.5)


def test_ratio_needs_both_in_every_round() -> None:
    with pytest.raises(ValueError, match="both"):
        ratios([1.0], [])


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (1.0, Verdict.GOAL),
        (0.99, Verdict.FLOOR),
        (0.7, Verdict.FLOOR),
        (0.69, Verdict.SHORT),
        (None, Verdict.NONE),
    ],
)
def test_verdict_where_more_is_better(measured: float | None, expected: Verdict) -> None:
    assert verdict(RATE, measured) is expected


@pytest.mark.parametrize(
    ("measured", "expected"),
    [(1.0, Verdict.GOAL), (1.01, Verdict.FLOOR), (2.0, Verdict.FLOOR), (2.01, Verdict.SHORT)],
)
def test_verdict_where_less_is_better(measured: float, expected: Verdict) -> None:
    assert verdict(TIME, measured) is expected


def test_figure_without_floor_is_not_judged() -> None:
    assert verdict(UNJUDGED, 1e9) is Verdict.NONE


def test_short_by_is_a_part_of_the_floor_on_either_side() -> None:
    assert short_by(RATE, 0.35) == pytest.approx(0.5)
    assert short_by(TIME, 3.0) == pytest.approx(0.5)
    assert short_by(RATE, 0.7) == 0.0


@given(st.floats(0.01, 100), st.sampled_from([RATE, TIME]))
def test_short_exactly_when_the_verdict_says_so(measured: float, figure: Figure) -> None:
    assert (short_by(figure, measured) > 0) == (verdict(figure, measured) is Verdict.SHORT)


def test_spread_is_a_part_of_the_median() -> None:
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)
    assert spread([]) == 0.0


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 0.5) == 50.0
    assert percentile([3.0], 0.99) == 3.0


def test_result_without_rounds_has_no_measurement() -> None:
    assert Result(figure=RATE, rounds=()).measured is None
