"""What many slow or greedy clients together make the server hold, and what the others notice."""

import json
import time
from contextlib import ExitStack

import msgspec
import pytest

from pulzar.client.process import Server
from pulzar.limits import (
    ANSWERS_BYTES_MAX,
    BATCH_ANSWER_BYTES_MAX,
    HEAD_BYTES_MAX,
    MIB,
    STREAM_BYTES,
    STREAMS_BYTES_MAX,
)
from pulzar.testing.recorder import value_of
from tests.crash.test_slow import resident_bytes
from tests.crash.wire import Wire, exchange, get, put, request, value

pytestmark = pytest.mark.slow

BIG = value_of("big.33554432")
ONE = value_of("one.1048576")
GETS = [["get", "one"]] * (BATCH_ANSWER_BYTES_MAX // MIB)
SLACK_BYTES = 100 * MIB
KINDS = ("application/json", "application/msgpack")


@pytest.fixture(scope="module", autouse=True)
def _stored(shared: Server) -> None:
    assert exchange(shared.url, put("big", BIG)).status == 201
    assert exchange(shared.url, put("one", ONE)).status == 201


def batch(kind: str, operations: list[list[str]]) -> bytes:
    encode = msgspec.json.encode if "json" in kind else msgspec.msgpack.encode
    body = encode(operations)
    headers = [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return request("POST", "/batch", *headers, body=body)


def assert_others_are_served(server: Server) -> None:
    asked = time.monotonic()
    for number in range(20):
        assert exchange(server.url, put("other", b"%d" % number)).status in (200, 201)
        assert value(server.url, "other") == b"%d" % number
    small = exchange(server.url, batch("application/json", [["get", "other"]]))
    assert json.loads(small.body)[0][0] == 200
    assert time.monotonic() - asked < 10


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_batches_that_nobody_takes_are_bounded(shared: Server, kind: str) -> None:
    before = resident_bytes(shared)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(shared.url, receive_bytes=4096)) for _ in range(12)]
        for wire in wires:
            wire.send(batch(kind, GETS))
        heads = wires[0].answer_head()
        assert_others_are_served(shared)
        assert resident_bytes(shared) - before < ANSWERS_BYTES_MAX + SLACK_BYTES
        wires[0].read(int(heads[1]["content-length"]))
    answer = exchange(shared.url, batch(kind, GETS))
    results = (
        msgspec.json.decode(answer.body) if "json" in kind else msgspec.msgpack.decode(answer.body)
    )
    assert [result[0] for result in results] == [200] * len(GETS)


def test_large_values_that_nobody_takes_are_bounded_and_come_whole_later(shared: Server) -> None:
    places = STREAMS_BYTES_MAX // STREAM_BYTES
    before = resident_bytes(shared)
    with ExitStack() as stack:
        slow = [
            stack.enter_context(Wire(shared.url, receive_bytes=4096)) for _ in range(3 * places)
        ]
        for wire in slow:
            wire.send(get("big"))
        assert exchange(shared.url, get("big")).body == BIG
        for wire in slow:
            assert wire.answer_head()[0] == 200  # each of them has begun
        assert_others_are_served(shared)
        assert resident_bytes(shared) - before < STREAMS_BYTES_MAX + SLACK_BYTES
        for wire in (slow[0], slow[-1]):
            assert wire.read(len(BIG)) == BIG


def test_unfinished_heads_are_bounded(shared: Server) -> None:
    before = resident_bytes(shared)
    head = b"GET /get_key/one HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * (HEAD_BYTES_MAX - 1000)
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(Wire(shared.url)).send_what_fits(head)
        assert_others_are_served(shared)
        assert resident_bytes(shared) - before < SLACK_BYTES


def test_a_batch_answers_what_finds_room_and_names_what_does_not(shared: Server) -> None:
    """The gets that fit are answered, also behind one that does not; each exactly as it is."""
    operations = [*GETS, ["get", "other"], ["get", "one"], ["get", "missing"]] * 2
    assert exchange(shared.url, put("other", b"small")).status in (200, 201)
    answer = exchange(shared.url, batch("application/msgpack", operations))
    results = msgspec.msgpack.decode(answer.body)
    count = len(GETS)
    statuses = [result[0] for result in results]
    assert statuses == [200] * count + [413, 413, 404] + [413] * (count + 2) + [404]
    assert all(result[2] == ONE for result in results[:count])


def test_many_reads_and_writes_of_one_batch_stay_in_order(shared: Server) -> None:
    operations = []
    for number in range(200):
        text = "AA==" if number % 2 else "AQ=="
        operations += [["put", "turns", text], ["get", "turns"], ["get", "turns"]]
    results = json.loads(exchange(shared.url, batch("application/json", operations)).body)
    assert len(results) == len(operations)
    for number in range(200):
        _, *got = results[3 * number : 3 * number + 3]
        assert [one[2] for one in got] == ["AA==" if number % 2 else "AQ=="] * 2
    assert json.loads(exchange(shared.url, batch("application/json", [])).body) == []
    empty = exchange(shared.url, batch("application/msgpack", []))
    assert msgspec.msgpack.decode(empty.body) == []
