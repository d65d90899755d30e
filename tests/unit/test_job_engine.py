"""Jobs from their launch to their end, with agents that a test plays, over the reference store."""

import asyncio

import pytest

from pulzar.errors import Conflict, JobNotFound, OutcomeUnknown, Unavailable
from pulzar.jobs.ledger import Kept
from pulzar.jobs.messages import Before
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.states import Event, State
from pulzar.limits import (
    AGENT_LOST_S,
    JOB_DATA_WAIT_S,
    JOB_OUTPUT_INLINE_BYTES_MAX,
    JOB_RETRY_S,
    JOBS_AGE_LOOK_S,
)
from pulzar.varidb.entry import Put, Written
from tests.unit.job_players import DEADLINE_S, Player, opened


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.jobs.dispatch.JOBS_TICK_S", 0.005)
    monkeypatch.setattr("pulzar.jobs.system.JOBS_TICK_S", 0.005)


def test_a_job_goes_to_the_slot_that_asks_and_its_result_is_kept(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            asking = asyncio.ensure_future(player.order())
            number = await site.launch(b'{"arg1": 12}')
            order = await asking
            assert (order.job, order.attempt, order.script) == (number, 1, "s")
            assert order.arguments == '{"arg1": 12}'
            assert site.state(number) == State.DISPATCHED
            await player.speak(order, log=b"half")
            assert site.state(number) == State.RUNNING
            live = site.system.dispatcher.live(site.system.ledger.get(number))
            assert live is not None
            assert live.log == b"half"
            large = '"' + "x" * JOB_OUTPUT_INLINE_BYTES_MAX + '"'
            assert await player.ask(player.result(order, output=large), wait_s=0.0) is None
            for _ in range(2):
                stored = await site.system.ledger.stored(number)
                assert (stored.job.state, stored.output) == (State.READY, large)
                assert await site.system.ledger.log(number) == b"written\n"
                await site.restart()

    asyncio.run(life())


def test_ids_only_grow_and_a_token_gives_the_same_job(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            same = await asyncio.gather(*(site.launch(token="t") for _ in range(5)))
            assert set(same) == {1}
            assert await site.launch() == 2
            await site.restart()
            assert await site.launch(token="t") == 1
            assert await site.launch() == 3

    asyncio.run(life())


def test_a_question_that_is_asked_again_is_answered_with_the_same_order(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            first, _ = await site.launch(), await site.launch()
            order = await player.order()
            assert await player.ask(again=True) == order
            await site.restart()
            assert await player.ask(again=True) == order
            done = player.result(order)
            second = await player.order(done)
            assert (order.job, second.attempt) == (first, 1)
            assert await player.ask(done, again=True) == second  # recorded once, given once
            assert site.state(first) == State.READY

    asyncio.run(life())


def test_priority_goes_first_then_age(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            numbers = [await site.launch(b'{"pulzar_priority": %d}' % n) for n in (0, 5, 5, -1)]
            player = Player(site)
            given, result = [], None
            for _ in numbers:
                order = await player.order(result)
                given.append(order.job)
                result = player.result(order)
            assert given == [numbers[1], numbers[2], numbers[0], numbers[3]]

    asyncio.run(life())


def test_a_job_goes_where_its_data_is(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            site.where["here"] = ["one"]
            near, far = Player(site, "a", "one"), Player(site, "b", "two")
            await far.speak()
            must = await site.launch(b'{"pulzar_data": "here", "pulzar_data_policy": "require"}')
            assert await far.ask(wait_s=0.0) is None
            assert site.system.dispatcher.reason(site.system.ledger.get(must)) == "waiting-data"
            other = await site.launch()
            asking = [asyncio.ensure_future(one.order()) for one in (far, near)]
            assert [order.job for order in await asyncio.gather(*asking)] == [other, must]
            may = await site.launch(b'{"pulzar_data": "here"}')
            assert (await far.order()).job == may  # nobody else has a slot free

    asyncio.run(life())


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_agent(
    scripts: Scripts,
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            first, second = await site.launch(), await site.launch()
            order = await player.order()
            await site.system.cancel(second)
            assert site.state(second) == State.CANCELLED
            hearing = asyncio.ensure_future(player.speak(order, wait_s=DEADLINE_S))
            cancelling = asyncio.ensure_future(site.system.cancel(first))
            assert await hearing == [first]
            assert not cancelling.done()
            await player.ask(player.result(order, Event.CANCEL), wait_s=0.0)
            await cancelling
            assert site.state(first) == State.CANCELLED
            with pytest.raises(Conflict):
                await site.system.cancel(first)
            with pytest.raises(JobNotFound):
                await site.system.cancel(99)

    asyncio.run(life())


def test_a_job_that_ends_before_it_hears_of_it_is_not_cancelled(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            number = await site.launch()
            order = await player.order()
            cancelling = asyncio.ensure_future(site.system.cancel(number))
            agent = site.system.dispatcher._workforce.get("agent")
            assert agent is not None
            await site.until(lambda: agent.ending)
            await player.ask(player.result(order), wait_s=0.0)
            with pytest.raises(Conflict, match="ready"):
                await cancelling

    asyncio.run(life())


@pytest.mark.parametrize(("on_lost", "state"), [("fail", State.LOST), ("retry", State.PENDING)])
def test_what_an_agent_ran_that_has_gone_is_lost(
    scripts: Scripts, on_lost: str, state: State
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            number = await site.launch(b'{"pulzar_on_lost": "%b"}' % on_lost.encode())
            order = await player.order()
            await site.silence()
            await site.until(lambda: site.state(number) == state)
            if state == State.PENDING:
                again = await Player(site, "other", "other").order()
                assert (again.job, again.attempt) == (number, 2)
            await player.ask(player.result(order), wait_s=0.0)  # too late
            assert site.state(number) in (State.LOST, State.DISPATCHED)
            assert await player.speak(order) == [number]  # and it is to end

    asyncio.run(life())


def test_a_master_that_was_stopped_itself_loses_nothing(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            number = await site.launch()
            order = await player.order()
            dispatcher = site.system.dispatcher
            dispatcher._ticking.cancel()  # type: ignore[union-attr]
            site.clock.advance(3 * AGENT_LOST_S)  # SIGSTOP, SIGCONT
            await dispatcher._look_around()
            assert site.state(number) == State.DISPATCHED
            await player.ask(player.result(order), wait_s=0.0)
            assert site.state(number) == State.READY

    asyncio.run(life())


def test_another_agent_on_a_node_is_the_end_of_the_one_before(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            number = await site.launch()
            await Player(site, "old").order()
            await Player(site, "new").speak()
            await site.until(lambda: site.state(number) == State.LOST)

    asyncio.run(life())


def test_what_an_agent_had_not_begun_is_not_lost_with_it(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            begun, held = await site.launch(), await site.launch()
            old = Player(site, "old")
            first, second = await old.order(), await old.order()
            assert [first.job, second.job] == [begun, held]
            new = Player(site, "new")
            await new.speak(before=[Before("old", [(begun, 1), (99, 1)])])
            assert site.state(held) == State.PENDING
            await site.until(lambda: site.state(begun) == State.LOST)
            order = await new.order()
            assert (order.job, order.attempt) == (held, 2)
            await old.ask(old.result(second), wait_s=0.0)  # it lives after all: too late
            assert site.state(held) == State.DISPATCHED

    asyncio.run(life())


def test_a_job_that_is_given_back_goes_to_another_slot(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            number = await site.launch()
            player = Player(site)
            order = await player.order()
            await player.tell(player.result(order, Event.RETURN))
            assert site.state(number) == State.PENDING
            again = await Player(site, "other", "other").order()
            assert (again.job, again.attempt) == (number, 2)

    asyncio.run(life())


def test_a_restarted_master_attaches_to_what_runs(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            number = await site.launch()
            order = await player.order()
            await site.restart()
            site.clock.advance(AGENT_LOST_S / 2)
            assert await player.speak(order) == []
            site.clock.advance(AGENT_LOST_S / 2)
            assert await player.speak(order) == []
            await player.ask(player.result(order), wait_s=0.0)
            assert site.state(number) == State.READY

    asyncio.run(life())


def test_a_failed_job_waits_before_it_is_tried_again(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            number = await site.launch(b'{"pulzar_retries": 1}')
            order = await player.order()
            assert await player.ask(player.result(order, Event.FAIL), wait_s=0.02) is None
            job = site.system.ledger.get(number)
            assert (job.state, site.system.dispatcher.reason(job)) == (
                State.PENDING,
                "waiting-retry",
            )
            await site.restart()
            site.clock.advance(JOB_RETRY_S)
            again = await player.order()
            assert (again.job, again.attempt) == (number, 2)
            await player.ask(player.result(again, Event.FAIL), wait_s=0.0)
            assert site.state(number) == State.FAILED
            await site.system.retry(number)
            assert site.state(number) == State.PENDING
            assert (await player.order()).attempt == 3

    asyncio.run(life())


def test_an_agent_that_goes_while_it_waits_takes_no_job_with_it(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            asking = asyncio.ensure_future(Player(site, "gone").ask())
            await site.until(lambda: site.system.dispatcher._workforce.get("gone"))
            number = await site.launch()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            order = await Player(site, "there", "there").order()
            assert order.job == number

    asyncio.run(life())


def test_a_launch_of_which_nothing_is_known_happens_or_not_but_once(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            await site.launch()
            real = site.store.put

            async def lost(put: Put) -> Written:
                await real(put)
                raise OutcomeUnknown("the answer was lost")

            with monkeypatch.context() as patch:
                patch.setattr(site.store, "put", lost)
                with pytest.raises(OutcomeUnknown):
                    await site.launch(token="t")
            await site.until(lambda: len(site.system.ledger.in_states([State.PENDING])) == 2)
            assert await site.launch(token="t") == 2
            await site.restart()
            assert len(site.system.ledger.in_states([State.PENDING])) == 2

    asyncio.run(life())


def test_a_claim_that_cannot_be_written_leaves_the_job_waiting(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            number = await site.launch()

            async def refused(_: Put) -> Written:
                raise Unavailable("no volume")

            with monkeypatch.context() as patch:
                patch.setattr(site.store, "put", refused)
                with pytest.raises(Unavailable):
                    await player.ask()
            assert site.state(number) == State.PENDING
            order = await player.ask(again=True)
            assert order is not None
            assert order.job == number

    asyncio.run(life())


def test_the_oldest_jobs_are_forgotten_and_no_id_comes_twice(
    scripts: Scripts,
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            site.kept = Kept(3, 3600)
            await site.restart()
            player, result = Player(site), None
            for _ in range(6):
                await site.launch()
                order = await player.order(result)
                result = player.result(order)
            await player.ask(result, wait_s=0.0)
            ready = [State.READY]
            await site.until(lambda: len(site.system.ledger.in_states(ready)) == 3)
            newest = site.system.ledger.newest(ready, limit=10, after=None, name=None)
            assert [job.id for job in newest] == [6, 5, 4]
            with pytest.raises(JobNotFound):
                site.system.ledger.get(1)
            await site.restart()
            assert await site.launch() == 7
            keys = [key for key in site.store._entries if key.startswith(b"\0log")]
            assert len(keys) == 3

    asyncio.run(life())


def test_what_ended_long_ago_is_forgotten(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            site.kept = Kept(100, 3600)
            await site.restart()
            player = Player(site)
            await site.launch()
            await player.tell(player.result(await player.order()))
            site.clock.advance(3000)
            await site.launch()
            await player.tell(player.result(await player.order()))
            site.clock.advance(700)
            await site.launch()
            await site.until(lambda: site.jobs() == [2, 3])

    asyncio.run(life())


def test_a_job_that_must_have_its_data_does_not_wait_for_ever(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            player = Player(site)
            await player.speak()
            must = b'{"pulzar_data": "k", "pulzar_data_policy": "require"}'
            number = await site.launch(must)
            for _ in range(2):
                site.clock.advance(JOBS_AGE_LOOK_S)
                await site.system.dispatcher._look_around()
                assert site.state(number) == State.PENDING
            site.clock.advance(JOB_DATA_WAIT_S)
            await player.speak()
            await site.system.dispatcher._look_around()
            job = site.system.ledger.get(number)
            assert (job.state, job.error) == (State.FAILED, "no node had its data for 3600 s")

    asyncio.run(life())


def test_pages_of_jobs_are_newest_first(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            for _ in range(5):
                await site.launch()
            ledger = site.system.ledger
            page = ledger.newest([State.PENDING], limit=2, after=None, name=None)
            assert [job.id for job in page] == [5, 4]
            page = ledger.newest([State.PENDING], limit=9, after=4, name="s")
            assert [job.id for job in page] == [3, 2, 1]
            assert ledger.newest([State.PENDING], limit=9, after=None, name="other") == []

    asyncio.run(life())
