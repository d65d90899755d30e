"""The clock that tests move."""

import pytest

from pulzar.clock import Clock
from pulzar.testing import ManualClock


def test_stands_still_until_moved() -> None:
    clock: Clock = ManualClock(now_ms=5_000, monotonic_s=10.0)
    assert (clock.now_ms(), clock.monotonic_s()) == (5_000, 10.0)
    assert (clock.now_ms(), clock.monotonic_s()) == (5_000, 10.0)


def test_advance_moves_both_and_small_steps_add_up() -> None:
    clock = ManualClock(now_ms=0)
    for _ in range(10_000):
        clock.advance(0.0001)
    assert clock.now_ms() == 1_000
    assert clock.monotonic_s() == 1.0


def test_only_the_wall_clock_goes_back() -> None:
    clock = ManualClock(now_ms=100_000, monotonic_s=7.0)
    clock.step_wall(-60)
    assert (clock.now_ms(), clock.monotonic_s()) == (40_000, 7.0)
    clock.step_wall(0.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (40_500, 7.0)
    with pytest.raises(ValueError):
        clock.advance(-1)
