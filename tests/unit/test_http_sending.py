"""Bounds on memory: who finds no room waits; a client that stands still keeps nobody waiting."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message

from pulzar.errors import Damage, NotReady, Unavailable
from pulzar.http.patience import Patience, Room
from pulzar.http.sending import PIECE_BYTES, AnswerBroken, Streams, send_whole
from pulzar.limits import STREAM_BYTES, STREAMS_BYTES_MAX

PLACES = STREAMS_BYTES_MAX // STREAM_BYTES
START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = PIECE_BYTES + 1000
VALUE = b"".join(bytes([n]) * CHUNK for n in range(5))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)


class Client:
    """What stands for the server and its client: takes pieces while it is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.got = b""
        self.messages = 0
        self.opened = asyncio.Event()
        self.gone = asyncio.Event()
        self.begun: list[int] = []  # where its value was read from
        self.closed = 0
        if is_open:
            self.opened.set()

    async def send(self, message: Message) -> None:
        if message.get("body"):
            self.messages += 1
            await self.opened.wait()
        self.got += message.get("body", b"")

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def body(self, skip: int) -> AsyncGenerator[bytes, None]:
        self.begun.append(skip)
        try:
            while skip < len(VALUE):
                end = min(len(VALUE), skip // CHUNK * CHUNK + CHUNK)
                yield VALUE[skip:end]
                skip = end
        finally:
            self.closed += 1

    def ask(self, streams: Streams) -> "asyncio.Task[None]":
        return asyncio.ensure_future(streams.send(self.receive, self.send, START, self.body))


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


def test_room_is_given_in_the_order_of_arrival() -> None:
    async def scenario() -> None:
        room = Room(10, Patience(60))
        order: list[int] = []

        async def take(number: int, count: int) -> None:
            async with room.taken(count):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(take(number, 4 + number % 7) for number in range(20)))
        assert order == sorted(order)
        assert room.free == 10
        assert not room.crowded

    run(scenario)


def test_who_waits_for_room_too_long_is_told_so() -> None:
    async def scenario() -> None:
        room = Room(10, Patience(0.01))
        async with room.taken(10):
            assert room.free == 0
            with pytest.raises(Unavailable, match="try again"):
                await room.take(1)
        await room.take(10)
        room.give(10)
        assert room.free == 10

    run(scenario)


def test_at_the_end_nobody_waits_for_room() -> None:
    async def scenario() -> None:
        patience = Patience(60)
        room = Room(10, patience)
        await room.take(10)
        waiting = asyncio.ensure_future(room.take(1))
        await settled()
        patience.end()
        with pytest.raises(NotReady):
            await waiting

    run(scenario)


def test_one_that_gives_up_keeps_no_room_from_those_behind_it() -> None:
    async def scenario() -> None:
        room = Room(10, Patience(60))
        await room.take(5)
        large = asyncio.ensure_future(room.take(10))
        small = asyncio.ensure_future(room.take(5))
        await settled()
        assert not small.done()
        large.cancel()
        await small
        with pytest.raises(asyncio.CancelledError):
            await large
        room.give(10)
        assert room.free == 10

    run(scenario)


def test_room_that_was_given_to_one_who_left_is_given_on() -> None:
    async def scenario() -> None:
        room = Room(10, Patience(60))
        await room.take(10)
        first = asyncio.ensure_future(room.take(10))
        second = asyncio.ensure_future(room.take(10))
        await settled()
        room.give(10)  # to the first, which does not hear of it any more
        first.cancel()
        await second
        assert room.free == 0

    run(scenario)


def test_a_stream_is_sent_whole_and_its_value_closed() -> None:
    async def scenario() -> None:
        client = Client()
        await client.ask(Streams(Patience(60)))
        assert client.got == VALUE
        assert (client.begun, client.closed) == ([0], 1)

    run(scenario)


def test_streams_that_stand_still_lose_their_places_and_go_on_later() -> None:
    async def scenario() -> None:
        streams = Streams(Patience(60))
        slow = [Client(is_open=False) for _ in range(PLACES + 5)]
        sending = [client.ask(streams) for client in slow]
        await until(lambda: sum(client.messages for client in slow) == PLACES)
        assert all(client.closed == 0 for client in slow)
        quick = Client()
        await quick.ask(streams)
        assert quick.got == VALUE
        assert all(client.closed for client in slow[:PLACES])
        for client in slow:
            client.opened.set()
        await asyncio.gather(*sending)
        for client in slow:
            assert client.got == VALUE
            assert client.closed == len(client.begun) >= 1
        assert slow[0].begun == [0, PIECE_BYTES]

    run(scenario)


def test_a_stream_that_nobody_waits_for_keeps_its_place() -> None:
    async def scenario() -> None:
        client = Client(is_open=False)
        sending = client.ask(Streams(Patience(60)))
        await until(lambda: client.messages == 1)
        await settled()
        client.opened.set()
        await sending
        assert client.begun == [0]

    run(scenario)


def test_a_stream_that_is_not_taken_is_broken_off() -> None:
    async def scenario() -> None:
        streams = Streams(Patience(0.01))
        client = Client(is_open=False)
        with pytest.raises(AnswerBroken, match="took no byte"):
            await client.ask(streams)
        assert client.closed == 1
        with pytest.raises(AnswerBroken, match="took no byte"):
            await send_whole(
                client.receive, client.send, "a/b", [b"x" * 2 * PIECE_BYTES], Patience(0.01)
            )

    run(scenario)


def test_a_stream_ends_when_its_client_goes() -> None:
    async def scenario() -> None:
        client = Client(is_open=False)
        sending = client.ask(Streams(Patience(60)))
        await until(lambda: client.messages == 1)
        client.gone.set()
        await settled()
        client.opened.set()
        await sending
        assert len(client.got) == PIECE_BYTES
        assert client.closed == 1

    run(scenario)


@pytest.mark.parametrize("good", [0, 1])
def test_damage_is_told_before_the_first_byte_and_cuts_the_answer_behind_it(good: int) -> None:
    async def body(skip: int) -> AsyncGenerator[bytes, None]:
        for _ in range(good):
            yield VALUE[skip:CHUNK]
        raise Damage("torn")

    async def scenario() -> None:
        client = Client()
        streams = Streams(Patience(60))
        with pytest.raises(AnswerBroken if good else Damage, match="torn"):
            await streams.send(client.receive, client.send, START, body)
        assert client.messages == 2 * good

    run(scenario)


@pytest.mark.parametrize("lengths", [[], [1], [PIECE_BYTES], [3, PIECE_BYTES * 3, 7, 0, 9] * 2])
def test_an_answer_in_memory_is_sent_as_it_is(lengths: list[int]) -> None:
    async def scenario() -> None:
        client = Client()
        parts = [bytes([number]) * length for number, length in enumerate(lengths)]
        whole = b"".join(parts)
        await send_whole(client.receive, client.send, "a/b", parts, Patience(60))
        assert client.got == whole

    run(scenario)
