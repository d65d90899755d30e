"""Clients that send or take their bytes slowly, or not at all, and what the others notice."""

import time
from contextlib import ExitStack

import pytest

from pulzar.client.process import Server
from pulzar.limits import MIB
from pulzar.testing.recorder import value_of
from tests.crash.wire import (
    PAUSE,
    Wire,
    chunked,
    exchange,
    get,
    open_requests,
    put,
    request,
    value,
    wait_until,
)

pytestmark = pytest.mark.slow

SETTINGS = {"client_timeout": "1s"}
TIMEOUT_S = 1.0
ENDED_S_MAX = 3.0  # of a timeout of one second; this machine may be busy

BIG = value_of("big.67108864")
MANY = 12
READER_BYTES_MAX = 6 * MIB
WRITER_BYTES_MAX = 4 * MIB


@pytest.fixture(scope="module", autouse=True)
def _stored(shared: Server) -> None:
    assert exchange(shared.url, put("big", BIG)).status == 201


def resident_bytes(server: Server) -> int:
    return int(server.processes()[0].memory_info().rss)


def is_held(server: Server, wire: Wire) -> bool:
    """Whether the server still has this connection. The kernel cuts it without telling us."""
    port = wire.socket.getsockname()[1]
    connections = server.processes()[0].net_connections("tcp")
    return port in [getattr(connection.raddr, "port", None) for connection in connections]


def begun_uploads() -> dict[str, bytes]:
    batch = request("POST", "/batch", "Content-Type: application/json", "Content-Length: 100")
    stream = request("PUT", "/add_key/stream", "Transfer-Encoding: chunked")
    return {
        "small": put("small", b"x" * 500, length=1000),
        "nothing": put("nothing", b"", length=1000),
        "segment": put("segment", b"x" * 300_000, length=600_000),
        "blob": put("blob", b"x" * 3 * MIB, length=6 * MIB),
        "stream": stream + chunked(b"x" * 3 * MIB, 70_000)[:-1000],
        "batch": batch + b'[["put",',
    }


def test_an_upload_that_stands_still_is_ended(shared: Server) -> None:
    with ExitStack() as stack:
        begun = time.monotonic()
        wires = {name: stack.enter_context(Wire(shared.url)) for name in begun_uploads()}
        for name, content in begun_uploads().items():
            wires[name].send(content)
        for wire in wires.values():
            answer = wire.answer()
            assert answer.status == 408
            assert b"nothing was stored" in answer.body
            assert answer.headers["connection"] == "close"
            assert wire.is_ended()
        assert TIMEOUT_S <= time.monotonic() - begun < ENDED_S_MAX
    assert [value(shared.url, name) for name in wires] == [None] * len(wires)
    wait_until(lambda: open_requests(shared.url) == 0, "all have ended")


def test_clients_that_are_slow_but_steady_are_served(shared: Server) -> None:
    """The bound is on the wait for the next byte, not on the whole."""
    word = b"steady"
    pieces = []
    with Wire(shared.url) as known, Wire(shared.url) as streamed, Wire(shared.url) as reader:
        known.send(put("known", b"", length=len(word)))
        streamed.send(request("PUT", "/add_key/streamed", "Transfer-Encoding: chunked"))
        reader.send(get("big"))
        assert reader.answer_head()[0] == 200
        for byte in word:
            PAUSE.wait(TIMEOUT_S / 3)
            known.send(b"%c" % byte)
            streamed.send(b"1\r\n%c\r\n" % byte)
            pieces.append(reader.read(len(BIG) // len(word)))
        streamed.send(b"0\r\n\r\n")
        pieces.append(reader.read(len(BIG) % len(word)))
        assert [known.answer().status, streamed.answer().status] == [201, 201]
    assert value(shared.url, "known") == word
    assert value(shared.url, "streamed") == word
    assert b"".join(pieces) == BIG


def test_readers_that_stand_still_hold_neither_memory_nor_others(shared: Server) -> None:
    before = resident_bytes(shared)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(shared.url)) for _ in range(MANY)]
        for wire in wires:
            wire.send(get("big"))
            assert wire.answer_head()[0] == 200
        asked = time.monotonic()
        for number in range(50):
            assert exchange(shared.url, put("other", b"%d" % number)).status in (200, 201)
            assert value(shared.url, "other") == b"%d" % number
        assert time.monotonic() - asked < ENDED_S_MAX
        assert resident_bytes(shared) - before < MANY * READER_BYTES_MAX
        wait_until(lambda: open_requests(shared.url) == 0, "they were given up")
        for wire in wires:
            assert len(wire.everything()) < len(BIG)


def test_a_reader_that_leaves_ends_the_answer(shared: Server) -> None:
    for end in (Wire.close, Wire.reset):
        wire = Wire(shared.url)
        wire.send(get("big"))
        assert wire.answer_head()[0] == 200
        wire.read(MIB)
        end(wire)
    wait_until(lambda: open_requests(shared.url) == 0, "the requests have ended")


@pytest.mark.parametrize("size", [1000, MIB])
def test_an_answer_that_nobody_takes_is_given_up(shared: Server, size: int) -> None:
    assert exchange(shared.url, put("untaken", b"x" * size)).status in (200, 201)
    with Wire(shared.url, receive_bytes=4096) as wire:
        wire.send_what_fits(get("untaken") * (2 * MIB // size))
        wait_until(lambda: is_held(shared, wire), "the connection was taken")
        wait_until(lambda: not is_held(shared, wire), "the connection was cut")


def test_large_values_go_through_little_memory(shared: Server) -> None:
    begun = put("copy", BIG[:-1], length=len(BIG))
    before = resident_bytes(shared)
    with ExitStack() as stack:
        for _ in range(MANY // 2):
            stack.enter_context(Wire(shared.url)).send(begun)
        assert resident_bytes(shared) - before < MANY // 2 * WRITER_BYTES_MAX
