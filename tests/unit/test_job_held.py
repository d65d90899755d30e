"""The orders that wait at an agent, and how many it asks for."""

import asyncio

from pulzar.jobs.held import Held
from pulzar.jobs.messages import Order, Result
from pulzar.limits import HELD_S_MAX, ORDERS_AHEAD
from pulzar.testing import ManualClock


def order(number: int) -> Order:
    return Order(
        job=number, attempt=1, directory="d", script="s", digest="h", arguments="{}", timeout_s=0.0
    )


def result(number: int, took_ms: int) -> Result:
    return Result(job=number, attempt=1, event="succeed", started_ms=0, finished_ms=took_ms)


async def run(held: Held, took_ms: int, count: int = 1) -> None:
    for number in range(count):
        held.add([order(number)])
        await held.next()
        held.ended(result(number, took_ms))


def test_as_many_as_slots_are_free_and_more_where_jobs_are_short() -> None:
    async def life() -> None:
        held = Held(2, clock=ManualClock())
        assert (held.room, held.free) == (2, 2)
        held.add([order(1)])
        assert (held.room, held.free) == (1, 1)
        await held.next()
        assert (held.room, held.free) == (1, 1)
        held.ended(result(1, 1))
        await run(held, 1, 30)
        assert held.room == 2 + 2 * ORDERS_AHEAD
        await run(held, 10_000)
        assert held.room == 2

    asyncio.run(life())


def test_it_is_time_to_ask_when_half_of_those_ahead_are_used() -> None:
    async def life() -> None:
        held = Held(1, clock=ManualClock())
        await run(held, 0, 50)
        held.add(order(number) for number in range(1 + ORDERS_AHEAD))
        await held.next()
        asking = asyncio.ensure_future(held.has_room())
        for _ in range(ORDERS_AHEAD // 2):
            await asyncio.sleep(0)
            assert not asking.done()
            held.ended(result(0, 0))
            await held.next()
        held.ended(result(0, 0))
        await asyncio.wait_for(asking, 5)

    asyncio.run(life())


def test_what_waits_too_long_is_taken_away_and_no_more_is_asked_for() -> None:
    async def life() -> None:
        clock = ManualClock()
        held = Held(1, clock=clock)
        await run(held, 0, 50)
        held.add([order(1), order(2)])
        await held.next()
        assert await held.kept_too_long() == []
        clock.advance(HELD_S_MAX)
        assert await held.kept_too_long() == [order(2)]
        assert held.room == 0

    asyncio.run(life())


def test_one_is_taken_away_before_it_begins_or_not_at_all() -> None:
    async def life() -> None:
        held = Held(1, clock=ManualClock())
        held.add([order(1), order(2)])
        assert await held.next() == order(1)
        assert held.remove(1, 1) is None
        assert held.remove(2, 2) is None
        assert held.remove(2, 1) == order(2)

    asyncio.run(life())
