"""Many jobs in one call, from their launch to their results, over the reference store."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.errors import InvalidParameter, OutOfSpace
from pulzar.jobs.maps import Map, decode_map, encode_map, map_key, parse_map, state_of
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.states import FINISHED, Event, State
from pulzar.varidb.entry import Delete, Get, Got, Put, Written
from tests.unit.job_players import Player, Site, opened


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.jobs.dispatch.JOBS_TICK_S", 0.005)
    monkeypatch.setattr("pulzar.jobs.system.JOBS_TICK_S", 0.005)


async def launched(site: Site, value: Any) -> Map:
    return await site.system.launch_many("d", "s", json.dumps(value).encode())


def state(site: Site, one: Map) -> State:
    return state_of(site.system.maps.counts(one.id))


def test_each_job_has_its_arguments_and_the_map_counts_them(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            one = await launched(site, [{"n": 0}, {"n": 1, "pulzar_priority": 5}, {"n": 2}])
            assert (one.id, one.first, one.count) == (1, 2, 3)
            assert [job.arguments for job in site.system.maps.jobs(one)] == [
                '{"n": 0}',
                '{"n": 1}',
                '{"n": 2}',
            ]
            assert state(site, one) == State.PENDING
            player = Player(site)
            order = await player.order()
            assert order.job == 3  # the one with a priority
            await site.restart()
            assert state(site, one) == State.RUNNING
            assert site.system.maps.counts(1) == {State.DISPATCHED: 1, State.PENDING: 2}
            for _ in range(2):
                order = await player.order(player.result(order))
            await player.ask(player.result(order, Event.FAIL), wait_s=0.0)
            assert state(site, one) == State.FAILED
            await site.system.retry(one.id)
            assert site.system.maps.counts(1) == {State.READY: 2, State.PENDING: 1}
            assert site.system.ledger.newest(State, limit=9, after=None, name=None) == []

    asyncio.run(life())


def test_a_job_for_each_key_runs_where_the_key_is(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            for key in ("in/b", "in/a", "out/c"):
                await site.store.put(Put(key.encode(), b"value"))
            one = await launched(site, {"pulzar_keys": "in/", "word": "x", "pulzar_retries": 2})
            found = [(job.arguments, job.policy) for job in site.system.maps.jobs(one)]
            assert [json.loads(arguments) for arguments, _ in found] == [
                {"word": "x", "key": "in/a"},
                {"word": "x", "key": "in/b"},
            ]
            assert [(policy.data, policy.retries) for _, policy in found] == [
                ("in/a", 2),
                ("in/b", 2),
            ]
            with pytest.raises(InvalidParameter, match="not 0"):
                await launched(site, {"pulzar_keys": "none/"})

    asyncio.run(life())


def test_a_map_that_was_not_written_whole_was_never_accepted(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            real = site.store.put

            async def full(put: Put) -> Written:
                if put.key.startswith(b"\0maps"):
                    raise OutOfSpace("the disk is full")
                return await real(put)

            with monkeypatch.context() as patch:
                patch.setattr(site.store, "put", full)
                with pytest.raises(OutOfSpace):
                    await launched(site, [{}, {}])
            assert site.jobs() == []
            left = [key for key in site.store._entries if key.startswith(b"\0jobs")]
            await site.restart()
            assert site.jobs() == []
            await site.until(lambda: not any(key in site.store._entries for key in left))
            assert len(left) == 2
            assert await site.launch() == 4  # no id comes twice

    asyncio.run(life())


def test_jobs_that_cannot_all_be_written_are_not_accepted(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        async with opened(scripts) as site:

            async def batch(
                operations: list[Put | Delete | Get],
            ) -> list[Written | Got | Exception]:
                return [OutOfSpace("the disk is full") for _ in operations]

            with monkeypatch.context() as patch:
                patch.setattr(site.store, "batch", batch)
                with pytest.raises(OutOfSpace):
                    await launched(site, [{}, {}])
            assert site.jobs() == []
            assert site.system.maps.newest(after=None, name=None) == []

    asyncio.run(life())


def test_a_map_is_cancelled_as_a_whole(scripts: Scripts) -> None:
    async def life() -> None:
        async with opened(scripts) as site:
            one = await launched(site, [{}] * 600)
            player = Player(site)
            order = await player.order()
            cancelling = asyncio.ensure_future(site.system.cancel(one.id))
            await site.until(lambda: site.system.dispatcher._workforce._agents["agent"].ending)
            await player.ask(player.result(order, Event.CANCEL), wait_s=0.0)
            await cancelling
            assert site.system.maps.counts(one.id) == {State.CANCELLED: 600}
            assert state(site, one) == State.CANCELLED

    asyncio.run(life())


def test_the_oldest_maps_are_forgotten_with_their_jobs(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulzar.jobs.maps.MAPS_MAX", 1)

    async def life() -> None:
        async with opened(scripts) as site:
            first, second = [await launched(site, [{}, {}]) for _ in range(2)]
            for one in (first, second):
                await site.system.cancel(one.id)
            await site.until(lambda: site.system.maps.get(first.id) is None)
            assert site.jobs() == [5, 6]
            await site.restart()
            assert site.jobs() == [5, 6]
            assert [one.id for one in site.system.maps.newest(after=None, name=None)] == [4]

    asyncio.run(life())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "no JSON"),
        (b"{}", "a list"),
        (b"5", "a list"),
        (b"[]", "not 0"),
        (b"[5]", "JSON object"),
        (b'[{"pulzar_retry": 1}]', "did you mean"),
        (b'[{"scheduled": {"cron": "* * * * *"}}]', "no schedule"),
        (b'{"pulzar_keys": 5}', "a prefix"),
        (b"[" + b"{}," * 10_000 + b"{}]", "not 10001"),
    ],
)
def test_what_cannot_be_meant_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        parse_map(body)


@given(counts=st.dictionaries(st.sampled_from(State), st.integers(0, 3)))
def test_a_map_has_ended_when_all_of_its_jobs_have(counts: dict[State, int]) -> None:
    left = sum(count for state, count in counts.items() if state not in FINISHED)
    assert (state_of(counts) in FINISHED) == (left == 0)
    if state_of(counts) == State.READY:
        assert all(not count for state, count in counts.items() if state != State.READY)


def test_the_bytes_of_a_map() -> None:
    one = Map(id=1, directory="d", script="s", created_ms=2, first=2, count=3, parameters="p")
    content = (
        b'{"id":1,"directory":"d","script":"s","created_ms":2,"first":2,"count":3,"parameters":"p"}'
    )
    assert encode_map(one) == content
    assert decode_map(content) == one
    assert map_key(255) == b"\0maps/00000000000000ff"
