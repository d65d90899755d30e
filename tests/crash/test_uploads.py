"""Uploads that break off, lie about their length or come in odd pieces: whole or not at all."""

from pathlib import Path

import pytest

from pulzar.client.process import Server
from pulzar.testing.recorder import value_of
from tests.crash.wire import (
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

MANY = 3 * 1024 * 1024  # a blob
BODIES = {
    "small": put("{key}", b"x" * 500, length=1000),
    "in a segment": put("{key}", b"x" * 300_000, length=600_000),
    "blob": put("{key}", b"x" * MANY, length=2 * MANY),
    "chunked": request("PUT", "/add_key/{key}", "Transfer-Encoding: chunked")
    + chunked(b"x" * 5000, 999)[:-700],
    "chunked blob": request("PUT", "/add_key/{key}", "Transfer-Encoding: chunked")
    + chunked(b"x" * MANY, 99_999)[:-70_000],
    "chunked without its last chunk": request("PUT", "/add_key/{key}", "Transfer-Encoding: chunked")
    + chunked(b"x" * 5000, 999).removesuffix(b"0\r\n\r\n"),
}


def blobs(data: str) -> list[str]:
    return [path.name for path in Path(data, "volume", "blobs").rglob("*.blob")]


def half(name: str, key: str) -> bytes:
    return BODIES[name].replace(b"{key}", key.encode())


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("end", ["closed", "reset", "no more"])
def test_an_upload_that_breaks_off_changes_nothing(
    shared: Server, module_data: str, name: str, end: str
) -> None:
    url, key = shared.url, f"{name} {end}".replace(" ", "-")
    assert exchange(url, put(key, b"before")).status == 201
    with Wire(url) as wire:
        wire.send(half(name, key))
        if end == "closed":
            wire.close()
        elif end == "reset":
            wire.reset()
        else:
            wire.finish()
            answer = wire.answer()
            assert answer.status == 400
            assert b"nothing was stored" in answer.body
            assert wire.is_ended()
    wait_until(lambda: open_requests(url) == 0, "the request has ended")
    assert value(url, key) == b"before"
    assert blobs(module_data) == []
    assert exchange(url, put(key, b"after", "If-Match: *")).status == 200
    assert value(url, key) == b"after"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blob", "chunked blob"])
def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_behind(
    server: Server, data: str, name: str
) -> None:
    assert exchange(server.url, put("key", b"before")).status == 201
    with Wire(server.url) as wire:
        wire.send(half(name, "key"))
        wait_until(lambda: len(blobs(data)) == 1, "the blob has begun")
        server.kill()
    assert len(blobs(data)) == 1
    server.start()
    assert value(server.url, "key") == b"before"
    assert blobs(data) == []


def test_what_broken_uploads_held_is_given_back(shared: Server) -> None:
    """More of them than the memory for bodies would hold at once."""
    url = shared.url
    for _ in range(5):
        wires = [Wire(url) for _ in range(30)]
        for wire in wires:
            wire.send(put("held", b"x" * 1000, length=1_000_000))
        wait_until(lambda: open_requests(url) >= 30, "all have begun")
        for wire in wires:
            wire.reset()
    wait_until(lambda: open_requests(url) == 0, "all have ended")
    assert exchange(url, put("held", b"x" * 1_000_000)).status == 201


def test_what_stands_behind_a_body_is_no_part_of_it(shared: Server) -> None:
    with Wire(shared.url) as wire:
        wire.send(put("longer", b"value and more", length=5))
        assert wire.answer().status == 201
        assert wire.answer().status == 400
        assert wire.is_ended()
    assert value(shared.url, "longer") == b"value"


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -1"],
        ["Content-Length: +5"],
        ["Content-Length: five"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5 5"],
        ["Content-Length: 99999999999999999999999999"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Transfer-Encoding: identity", "Content-Length: 5"],
    ],
)
def test_a_length_that_means_nothing_is_refused(shared: Server, headers: list[str]) -> None:
    with Wire(shared.url) as wire:
        wire.send(request("PUT", "/add_key/framed", *headers, body=b"value"))
        assert wire.answer().status == 400
        assert wire.is_ended()
    assert value(shared.url, "framed") is None


def test_of_a_length_and_chunks_the_chunks_count(shared: Server) -> None:
    """RFC 9112, 6.3: and the connection must not be used again."""
    both = request(
        "PUT", "/add_key/both", "Content-Length: 3", "Transfer-Encoding: chunked",
        body=chunked(b"value", 2),
    )  # fmt: skip
    with Wire(shared.url) as wire:
        wire.send(both + get("both"))
        assert wire.answer().status == 201
        assert wire.is_ended()
    assert value(shared.url, "both") == b"value"


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, [1]),
        (1, [1]),
        (1000, [1]),
        (MANY, [1, 77_777, 13, 8191]),
        (1024 * 1024, [4096]),
        (1024 * 1024 + 1, [65_536]),
    ],
)
def test_a_chunked_upload_is_stored_whole(shared: Server, size: int, sizes: list[int]) -> None:
    body = value_of(f"chunked.{size}")[:size]
    sent = request("PUT", f"/add_key/chunked-{size}", "Transfer-Encoding: chunked")
    with Wire(shared.url) as wire:
        wire.send(sent + chunked(body, *sizes) + request("GET", f"/get_key/chunked-{size}"))
        assert wire.answer().status == 201
        assert wire.answer().body == body


def test_chunks_may_have_extensions_and_trailers(shared: Server) -> None:
    with Wire(shared.url) as wire:
        wire.send(request("PUT", "/add_key/extended", "Transfer-Encoding: chunked"))
        wire.send(b"5;name=word\r\nvalue\r\n0\r\nIf-Match: *\r\n\r\n")
        assert wire.answer().status == 201
    assert value(shared.url, "extended") == b"value"


@pytest.mark.parametrize(
    "framing",
    [
        b"five\r\nvalue\r\n0\r\n\r\n",
        b"-5\r\nvalue\r\n0\r\n\r\n",
        b"5\r\nvalue0\r\n\r\n",
        b"3\r\nvalue\r\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\nvalue\r\n0\r\n\r\n",
        b"5\r\nvalue\r\n5" + b"0" * 70_000,
        b"5;" + b"x" * 70_000,
    ],
)
def test_broken_chunks_store_nothing(shared: Server, framing: bytes) -> None:
    with Wire(shared.url) as wire:
        wire.send(request("PUT", "/add_key/broken", "Transfer-Encoding: chunked"))
        wire.send_what_fits(framing)
        wire.finish()
        assert wire.everything()[:12] in (b"", b"HTTP/1.1 400")
    assert value(shared.url, "broken") is None


def test_an_empty_value_is_a_value(shared: Server) -> None:
    assert exchange(shared.url, put("empty", b"")).status == 201
    assert value(shared.url, "empty") == b""
    assert exchange(shared.url, request("PUT", "/add_key/lengthless")).status == 201
    assert value(shared.url, "lengthless") == b""
