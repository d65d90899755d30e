"""Schedules launch their jobs, over restarts and crashes, over the reference store."""

import asyncio
from pathlib import Path

import pytest

from pulzar.errors import InvalidParameter, JobNotFound, ScriptNotFound, Unavailable
from pulzar.jobs.schedule import Schedule
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.states import State
from pulzar.varidb.entry import Put, Written
from tests.unit.job_players import Player, Site, opened

MINUTE = {"interval": "minutes", "time_unit": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.jobs.dispatch.JOBS_TICK_S", 0.005)
    monkeypatch.setattr("pulzar.jobs.system.JOBS_TICK_S", 0.005)


async def looked(site: Site) -> None:
    """Let the timetable be looked at."""
    await site.system.timetable.look()


def schedule_of(site: Site, number: int) -> Schedule:
    schedule = site.system.timetable.get(number)
    assert schedule is not None
    return schedule


async def run_one(site: Site, player: Player) -> None:
    order = await player.order()
    await player.ask(player.result(order), wait_s=0.0)


def test_a_schedule_launches_its_job_again_and_again(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            number = await site.schedule(**MINUTE)
            assert (number, site.jobs()) == (1, [])
            player = Player(site)
            for count in range(1, 4):
                site.clock.advance(59)
                await looked(site)
                assert len(site.jobs()) == count - 1
                site.clock.advance(1)
                await looked(site)
                assert len(site.jobs()) == count
                await run_one(site, player)
                await site.restart()
            job = site.system.ledger.get(site.jobs()[0])
            assert job.arguments == '{"n": 1}'
            schedule = schedule_of(site, number)
            assert (schedule.runs, schedule.last) == (3, site.jobs()[-1])

    asyncio.run(life())


def test_a_crash_between_job_and_next_run_doubles_nothing(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            number = await site.schedule(**MINUTE)
            real = site.store.put

            async def breaks(put: Put) -> Written:
                if put.key.startswith(b"\0schedules"):
                    raise Unavailable("no volume")
                return await real(put)

            site.clock.advance(60)
            with monkeypatch.context() as patch:
                patch.setattr(site.store, "put", breaks)
                with pytest.raises(Unavailable):
                    await looked(site)
                assert len(site.jobs()) == 1
                await site.system.close()
            site.system = site._made()
            await site.start()
            await looked(site)
            assert len(site.jobs()) == 1
            assert schedule_of(site, number).runs == 1

    asyncio.run(life())


def test_it_does_not_overlap_and_makes_up_for_what_was_missed_once(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            number = await site.schedule(**MINUTE)
            player = Player(site)
            site.clock.advance(60)
            await looked(site)
            order = await player.order()
            site.clock.advance(120)
            await player.speak(order)
            await looked(site)
            assert len(site.jobs()) == 1
            assert "had not ended" in schedule_of(site, number).error
            await player.ask(player.result(order), wait_s=0.0)
            await site.system.close()
            site.clock.advance(10 * 60)
            site.system = site._made()
            await site.start()
            await looked(site)
            assert len(site.jobs()) == 2
            await run_one(site, player)
            site.clock.step_wall(-3600)
            await looked(site)
            assert len(site.jobs()) == 2

    asyncio.run(life())


def test_a_schedule_ends_when_it_is_cancelled_or_was_for_once(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            once = await site.schedule(**MINUTE, repeat=0)
            often = await site.schedule(**MINUTE)
            site.clock.advance(60)
            await looked(site)
            assert len(site.jobs()) == 2
            assert site.system.timetable.get(once) is None
            await site.system.cancel(often)
            with pytest.raises(JobNotFound):
                await site.system.cancel(often)
            site.clock.advance(600)
            await site.restart()
            await looked(site)
            assert len(site.jobs()) == 2
            last = await site.schedule(**MINUTE)
            await site.system.cancel(last)
            await site.restart()
            assert await site.launch() == last + 1  # no id comes twice

    asyncio.run(life())


def test_a_script_that_has_gone_leaves_a_run_out_and_no_more(
    scripts: Scripts, tmp_path: Path
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            number = await site.schedule(**MINUTE)
            path = tmp_path / "jobs" / "d" / "s.py"
            content = path.read_text()
            path.unlink()
            site.clock.advance(60)
            await looked(site)
            assert "no script" in schedule_of(site, number).error
            path.write_text(content)
            site.clock.advance(60)
            await looked(site)
            assert len(site.jobs()) == 1
            assert site.state(site.jobs()[0]) == State.PENDING

    asyncio.run(life())


def test_what_cannot_be_scheduled_is_refused_at_once(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            with pytest.raises(InvalidParameter):
                await site.schedule(interval="minutes")
            with pytest.raises(InvalidParameter, match="Idempotency-Key"):
                await site.launch(b'{"scheduled": {"cron": "* * * * *"}}', token="t")
            with pytest.raises(ScriptNotFound):
                await site.system.launch("d", "x", b'{"scheduled": {"cron": "* * * * *"}}', "")
            assert site.system.timetable.newest(limit=9, after=None, name=None) == []

    asyncio.run(life())
