"""Turns: one write of a key at a time, in the order they came, and none is lost on the way."""

import asyncio

import pytest

from pulzar.errors import Unavailable
from pulzar.limits import KEY_WAITERS_MAX
from pulzar.varidb.turns import Turns

KEY = b"key"


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_free_key_is_taken_at_once() -> None:
    turns = Turns()
    assert turns.is_free(KEY)
    assert turns.try_take(KEY)
    assert not turns.is_free(KEY)
    assert not turns.try_take(KEY)
    assert turns.try_take(b"another")
    turns.give(KEY)
    assert turns.is_free(KEY)
    assert not turns.is_free(b"another")


def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    async def scenario() -> list[int]:
        turns, order = Turns(), []

        async def write(number: int) -> None:
            await turns.take(KEY)
            order.append(number)
            await asyncio.sleep(0)
            assert not turns.is_free(KEY)
            turns.give(KEY)

        await asyncio.gather(*map(write, range(20)))
        assert turns.is_free(KEY)
        return order

    assert asyncio.run(scenario()) == list(range(20))


def test_two_keys_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        turns = Turns()
        await turns.take(KEY)
        await asyncio.wait_for(turns.take(b"another"), 1)

    asyncio.run(scenario())


def test_nobody_comes_in_between_two_turns() -> None:
    async def scenario() -> None:
        turns = Turns()
        await turns.take(KEY)
        waiting = asyncio.create_task(turns.take(KEY))
        await settled()
        turns.give(KEY)
        assert not turns.try_take(KEY)  # it is the other's, who has not run yet
        await waiting
        turns.give(KEY)
        assert turns.is_free(KEY)

    asyncio.run(scenario())


def test_one_that_gave_up_while_waiting_is_passed_over() -> None:
    async def scenario() -> None:
        turns = Turns()
        await turns.take(KEY)
        tasks = [asyncio.create_task(turns.take(KEY)) for _ in range(3)]
        await settled()
        tasks[0].cancel()
        tasks[1].cancel()
        await settled()
        turns.give(KEY)
        await asyncio.wait_for(tasks[2], 1)
        turns.give(KEY)
        assert turns.is_free(KEY)
        assert [task.cancelled() for task in tasks] == [True, True, False]

    asyncio.run(scenario())


def test_when_all_that_waited_gave_up_the_key_is_free() -> None:
    async def scenario() -> None:
        turns = Turns()
        await turns.take(KEY)
        waiting = asyncio.create_task(turns.take(KEY))
        await settled()
        waiting.cancel()
        await settled()
        turns.give(KEY)
        assert turns.is_free(KEY)

    asyncio.run(scenario())


@pytest.mark.parametrize("another_waits", [False, True])
def test_a_turn_that_came_just_when_its_task_was_cancelled_goes_on(*, another_waits: bool) -> None:
    async def scenario() -> None:
        turns = Turns()
        await turns.take(KEY)
        waiting = asyncio.create_task(turns.take(KEY))
        await settled()
        behind = asyncio.create_task(turns.take(KEY)) if another_waits else None
        await settled()
        turns.give(KEY)  # the turn has come, but the task has not run yet
        waiting.cancel()
        await settled()
        assert waiting.cancelled()
        if behind is not None:
            await asyncio.wait_for(behind, 1)
            turns.give(KEY)
        assert turns.is_free(KEY)

    asyncio.run(scenario())


def test_at_most_so_many_may_wait_for_one_key() -> None:
    async def scenario() -> None:
        turns = Turns()
        await turns.take(KEY)
        tasks = [asyncio.create_task(turns.take(KEY)) for _ in range(KEY_WAITERS_MAX)]
        await settled()
        with pytest.raises(Unavailable, match="try again"):
            await turns.take(KEY)
        await asyncio.wait_for(turns.take(b"another"), 1)
        turns.give(KEY)
        await tasks[0]
        last = asyncio.create_task(turns.take(KEY))  # there is room again
        for task in [*tasks[1:], last]:
            turns.give(KEY)
            await asyncio.wait_for(task, 1)
        turns.give(KEY)
        assert turns.is_free(KEY)

    asyncio.run(scenario())
