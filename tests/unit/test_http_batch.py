"""POST /batch over a store whose values change between the look at their sizes and the read."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.types import Message

from pulzar.http.app import build_app
from pulzar.limits import MIB
from pulzar.testing.clock import ManualClock
from pulzar.testing.memory_store import MemoryStore
from pulzar.varidb.entry import Delete, Get, Got, Put, Written


class Growing(MemoryStore):
    """Another client makes a value larger just before it is read."""

    async def batch(
        self, operations: Sequence[Put | Delete | Get]
    ) -> list[Written | Got | Exception]:
        await self.put(Put(b"grows", b"x" * MIB, "", 0, None))
        return await super().batch(operations)


def asked(store: MemoryStore, clock: ManualClock, operations: list[Any]) -> Any:
    """The results of a batch."""
    sent: list[Message] = []
    body = msgspec.msgpack.encode(operations)
    headers = [
        (b"content-type", b"application/msgpack"),
        (b"content-length", b"%d" % len(body)),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/batch",
        "raw_path": b"/batch",
        "query_string": b"",
        "headers": headers,
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(build_app(store, clock=clock)(scope, receive, send))
    assert sent[0]["status"] == 200
    return msgspec.msgpack.decode(b"".join(message.get("body", b"") for message in sent))


def test_a_value_that_grew_meanwhile_is_not_read_into_memory_that_was_not_counted() -> None:
    clock = ManualClock()
    store = Growing(clock)
    asyncio.run(store.put(Put(b"grows", b"small", "", 0, None)))
    asyncio.run(store.put(Put(b"stays", b"small", "", 0, None)))
    results = asked(store, clock, [["get", "grows"], ["get", "stays"], ["get", "grows"]])
    assert [result[0] for result in results] == [503, 200, 503]
    assert results[0][1] == "unavailable"
    assert results[1][2] == b"small"


def test_results_are_in_order_however_many_there_are() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    for count in (1, 15, 16, 17, 100, 10_000):
        operations = [["put", "a", b"%d" % n] if n % 3 else ["get", "a"] for n in range(count)]
        results = asked(store, clock, [["put", "a", b"first"], *operations[1:]])
        assert len(results) == count
        for number in range(3, count, 3):
            assert results[number][2] == b"%d" % (number - 1)
