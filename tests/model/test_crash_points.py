"""Every named moment of the durable path, died at: by the process alone, or with the machine.

The life of a volume (life.py) is run once to count how often it passes each point. Then it is run
again for each passing, and ends there. What a reader saw after the restart must outlive a power
loss that follows at once: it was durable before it was shown.
"""

import random
from collections import Counter

import pytest

from pulzar.testing import Fault, FaultPlan, Killed
from pulzar.testing.faults import at_point
from pulzar.varidb.crash_point import CrashPoint
from tests.model.engine import Engine
from tests.model.life import STEPS, live

SEED = 20
PASSINGS_MAX = 12
"""Of a point that is passed more often, so many passings are tried, spread over the life."""
FATES = 4
"""So many times each death is died, with other leftovers of what was not synced."""


def passings() -> Counter[str]:
    """How often each point is passed in a life without accidents."""
    engine = Engine(SEED, opened=False)
    live(engine)
    engine.check()
    engine.check_rebuild()
    return engine.disk.points


def chosen(count: int) -> list[int]:
    """At most PASSINGS_MAX of 1..count: the first, the last, and some between."""
    numbers = range(1, count + 1)
    if count <= PASSINGS_MAX:
        return list(numbers)
    return [1, *sorted(random.Random(count).sample(numbers[1:-1], PASSINGS_MAX - 2)), count]


def live_until(engine: Engine, point: CrashPoint, nth: int) -> int:
    """Live up to a passing of `point`; the number of the step that was under way."""
    engine.disk.faults = FaultPlan(at_point(point, nth=nth))
    for number, step in enumerate(STEPS):
        try:
            step(engine)
        except Killed:
            engine.disk.faults = None
            return number
    raise AssertionError(f"{point} was not passed {nth} times")


@pytest.mark.parametrize("point", CrashPoint, ids=lambda point: point.name)
@pytest.mark.parametrize("power", [False, True], ids=["process", "machine"])
def test_what_was_acknowledged_outlives_a_death_at(point: CrashPoint, *, power: bool) -> None:
    count = passings()[point]
    assert count, f"no step of a volume's life passes {point.name}"
    for nth in chosen(count):
        for fate in range(FATES):
            die_at(point, nth, fate, power=power)


def die_at(point: CrashPoint, nth: int, fate: int, *, power: bool) -> None:
    """One life that ends at a passing of `point`, and what comes after."""
    engine = Engine(SEED, opened=False)
    under_way = live_until(engine, point, nth)
    engine.rng.seed(fate)
    engine.crash(power=power)
    engine.check()
    # What was read is true from now on, also when the power goes before anything else.
    engine.crash(power=True)
    engine.check()
    for step in STEPS[under_way + 1 :]:
        step(engine)
        engine.check()
    engine.crash(power=True)
    engine.check()
    engine.check_rebuild()


def test_every_point_is_passed_and_none_is_unknown() -> None:
    assert set(passings()) == {str(point) for point in CrashPoint}


@pytest.mark.parametrize("fate", range(FATES))
def test_what_a_dead_process_left_in_the_cache_is_not_counted_on(fate: int) -> None:
    """Killed at any I/O of a compaction; opened again; then the power goes."""
    operations = 0
    for nth in range(1, 100):
        engine = Engine(SEED)
        engine.write([(b"a", b"1" * 200), (b"b", b"2"), (b"c", b"3")])
        engine.write([(b"a", None), (b"b", b"4")])
        engine.disk.faults = FaultPlan(Fault(nth=nth, kill=True))
        try:
            engine.compact()
        except Killed:
            operations = nth
        engine.disk.faults = None
        engine.rng.seed(fate)
        engine.crash(power=False)
        engine.crash(power=True)
        engine.check()
        engine.compact()
        engine.crash(power=True)
        engine.check()
        engine.check_rebuild()
    assert operations > 30
