"""How many results an agent tells at once, and how many orders an agent is given."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from pulzar.cluster.remote import Network
from pulzar.errors import InvalidParameter
from pulzar.jobs.agent import Agent, Site, some_of
from pulzar.jobs.messages import Result
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.states import State
from pulzar.limits import RESULTS_BYTES_MAX, RESULTS_MAX
from pulzar.testing import ManualClock
from tests.unit.job_players import Player, opened


def result(size: int) -> Result:
    return Result(
        job=1, attempt=1, event="succeed", started_ms=0, finished_ms=0, output="1", log=bytes(size)
    )


def test_results_are_told_together_up_to_a_count_and_a_size() -> None:
    assert len(some_of([result(0)] * 1000)) == RESULTS_MAX
    large = result(RESULTS_BYTES_MAX + 1)
    assert some_of([large, large]) == [large]
    assert some_of([result(1), large]) == [result(1)]


def test_an_agent_gets_its_share_of_a_long_queue_and_one_job_of_a_short_one(
    scripts: Scripts,
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            one, two = Player(site, "a", "one"), Player(site, "b", "two")
            for player in (one, two):
                await player.speak()
            for _ in range(20):
                await site.launch()
            one.turn = 1
            given = await one.many(16)
            assert [order.job for order in given] == list(range(1, 11))
            assert await one.many(16) == given  # the same turn
            two.turn = 1
            assert len(await two.many(16)) == 5
            await two.tell(*(two.result(order) for order in given))  # not by who has them
            assert {job.attempt for job in site.system.ledger.in_states([State.DISPATCHED])} == {1}
            await one.tell(*(one.result(order) for order in given))
            assert [site.state(order.job) for order in given] == ["ready"] * 10

    asyncio.run(life())


class Refusing:
    """A master that takes no result."""

    async def call(self, *_: object, **__: object) -> bytes:
        raise InvalidParameter("this is no result")


def test_a_result_that_is_refused_does_not_hold_up_others_in_silence(tmp_path: Path) -> None:
    site = Site(
        master="http://127.0.0.1:1",
        key="00",
        node="n",
        slots=0,
        directory=str(tmp_path),
        memory_bytes=0,
        is_fresh=False,
        log_level="info",
    )

    async def life() -> None:
        network = cast("Network", Refusing())
        agent = Agent(site, network, clock=ManualClock(), agent_id="0a")
        agent._has_ended(result(0))
        with pytest.raises(InvalidParameter):
            await asyncio.wait_for(agent._tell_results(), 5)

    asyncio.run(life())
