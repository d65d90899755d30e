"""What a connection goes through: many requests, several at once, refusals, old and odd clients."""

import socket
import time
from collections.abc import Iterator

import pytest

from pulzar.client.process import Server
from pulzar.limits import DRAIN_BYTES_MAX, DRAIN_TIMEOUT_S, HEAD_BYTES_MAX, KEY_BYTES_MAX, MIB
from tests.crash.wire import Answer, Wire, chunked, exchange, get, put, request, value

SHORT, LONG = DRAIN_BYTES_MAX, 64 * MIB


@pytest.fixture(scope="module", autouse=True)
def _stored(shared: Server) -> None:
    assert exchange(shared.url, put("stored", b"value")).status == 201


@pytest.fixture
def wire(shared: Server) -> Iterator[Wire]:
    with Wire(shared.url) as connection:
        yield connection


def is_open(wire: Wire) -> bool:
    """Whether the connection still answers, and with what was asked."""
    wire.send(get("stored"))
    try:
        return wire.answer().body == b"value"
    except ConnectionError:
        return False


# Reuse.


def test_one_connection_serves_many_requests(wire: Wire) -> None:
    for number in range(100):
        wire.send(put("counter", b"%d" % number))
        assert wire.answer().status == (200 if number else 201)
        wire.send(get("counter"))
        assert wire.answer().body == b"%d" % number


def test_pipelined_requests_are_answered_in_their_order(wire: Wire) -> None:
    wire.send(b"".join(put("pipe", b"%d" % number) + get("pipe") for number in range(50)))
    answers = [wire.answer() for _ in range(100)]
    assert [answer.status for answer in answers] == [201] + [200] * 99
    assert [answer.body for answer in answers[1::2]] == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize(
    "target", ["/get_key/stored", "/get_key/missing", "/healthz", "/nowhere", "/list_keys/"]
)
def test_head_has_the_headers_of_get_and_no_body(wire: Wire, target: str) -> None:
    def lasting(answer: Answer) -> dict[str, str]:
        return {name: text for name, text in answer.headers.items() if name != "date"}

    wire.send(request("HEAD", target) + request("GET", target))
    head, whole = wire.answer(head=True), wire.answer()
    assert head.status == whole.status
    assert lasting(head) == lasting(whole)
    assert whole.body
    assert is_open(wire)


def test_a_connection_goes_on_after_answers_without_a_value(wire: Wire) -> None:
    for asked, status in [
        (get("missing"), 404),
        (get("stored", 'If-None-Match: "0000000000000001"', "If-Match: *"), 200),
        (get("stored", "If-None-Match: *"), 304),
        (get("stored", 'If-Match: "0000000000000001"'), 412),
        (get("stored", "Range: bytes=100-"), 416),
        (request("DELETE", "/delete_key/missing"), 404),
        (request("GET", "/nowhere"), 404),
        (request("BREW", "/get_key/stored"), 405),
        (get("k" * (KEY_BYTES_MAX + 1)), 400),
        (get("%zz"), 400),
    ]:
        wire.send(asked)
        assert wire.answer().status == status
    assert is_open(wire)


REFUSED = {
    404: "PUT /nowhere",
    405: "POST /get_key/stored",
    412: "PUT /add_key/stored",
    413: "POST /batch",
    415: "POST /batch",
    400: "PUT /add_key/stored?ttl=never",
}


def refused(status: int, length: int) -> bytes:
    """The head of a request that is answered so before its body is read."""
    method, target = REFUSED[status].split()
    kind = "text/plain" if status == 415 else "application/json"
    headers = [f"Content-Length: {length}", f"Content-Type: {kind}", "If-None-Match: *"]
    return request(method, target, *headers)


@pytest.mark.parametrize("status", sorted(set(REFUSED) - {413}))
def test_a_refused_short_body_is_passed_over(wire: Wire, status: int) -> None:
    for _ in range(3):
        wire.send(refused(status, SHORT) + b"x" * SHORT)
        assert wire.answer().status == status
    assert is_open(wire)


@pytest.mark.parametrize("framing", [f"Content-Length: {LONG}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("target", ["/nowhere", "/add_key/stored"])
def test_a_client_that_sends_a_long_body_first_sees_the_refusal(
    wire: Wire, framing: str, target: str
) -> None:
    body = chunked(b"x" * LONG, MIB) if "chunked" in framing else b"x" * LONG
    wire.send(request("PUT", target, framing, "If-None-Match: *"))
    wire.send(body)
    answer = wire.answer()
    assert answer.status in (404, 412)
    assert answer.headers["connection"] == "close"
    assert wire.is_ended()


@pytest.mark.parametrize("status", REFUSED)
def test_a_refused_body_without_an_end_is_read_for_a_bounded_time(wire: Wire, status: int) -> None:
    wire.send(refused(status, 1 << 37))
    assert wire.answer().status == status
    deadline = time.monotonic() + 5 * DRAIN_TIMEOUT_S
    while wire.send_what_fits(b"x" * MIB) == MIB:
        assert time.monotonic() < deadline, "the server goes on reading"


@pytest.mark.parametrize("length", [SHORT, SHORT + 1, 4 * SHORT, MIB])
def test_behind_a_refusal_no_request_is_sent_in_vain(shared: Server, length: int) -> None:
    """Either the answer says that the connection ends, or the next request is served."""
    for status in [404, 412] * 10:
        with Wire(shared.url) as wire:
            wire.send_what_fits(refused(status, length) + b"x" * length)
            answer = wire.answer()
            assert answer.status == status
            assert answer.headers.get("connection") == "close" or is_open(wire)


@pytest.mark.parametrize("status", REFUSED)
def test_a_refusal_does_not_wait_for_the_body(wire: Wire, status: int) -> None:
    wire.socket.settimeout(1.5)  # DRAIN_TIMEOUT_S is longer
    wire.send(refused(status, 2 * LONG) + b"a few bytes")
    assert wire.answer().status == status


def test_a_body_where_none_belongs_is_no_request(wire: Wire) -> None:
    hidden = get("missing")
    wire.send(request("GET", "/get_key/stored", f"Content-Length: {len(hidden)}", body=hidden))
    assert wire.answer().body == b"value"
    assert is_open(wire)


# Expect: 100-continue.


def expecting(target: str, length: int, *headers: str) -> bytes:
    names = [f"Content-Length: {length}", "Expect: 100-continue", *headers]
    return request("POST" if target == "/batch" else "PUT", target, *names)


@pytest.mark.parametrize("size", [5, 100_000, 3 * MIB])
def test_a_body_is_asked_for_and_stored(wire: Wire, size: int) -> None:
    wire.send(expecting(f"/add_key/expected-{size}", size))
    assert wire.answer().status == 100
    wire.send(b"x" * size)
    assert wire.answer().status == 201
    wire.send(get(f"expected-{size}"))
    assert wire.answer().body == b"x" * size


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (412, expecting("/add_key/stored", 5, "If-None-Match: *")),
        (412, expecting("/add_key/stored", 3 * MIB, 'If-Match: "0000000000000001"')),
        (412, expecting("/add_key/missing", 100_000, "If-Match: *")),
        (400, expecting("/add_key/stored?temporal=0", 5)),
        (400, expecting("/add_key/", 5)),
        (400, expecting("/add_key/stored", 5, "Content-Range: bytes 0-4/10")),
        (404, expecting("/nowhere", 3 * MIB)),
        (413, expecting("/add_key/stored", 1 << 50)),
        (413, expecting("/batch", LONG + 1, "Content-Type: application/json")),
        (415, expecting("/batch", 1000, "Content-Type: text/plain")),
    ],
)
def test_a_body_that_would_be_refused_is_not_asked_for(
    wire: Wire, status: int, asked: bytes
) -> None:
    wire.send(asked)
    answer = wire.answer()
    assert answer.status == status
    assert b'"detail":"' in answer.body
    assert answer.headers["connection"] == "close"
    assert wire.is_ended()


def test_a_client_may_send_before_it_was_asked(wire: Wire) -> None:
    wire.send(expecting("/add_key/eager", 5) + b"value")
    answer = wire.answer()
    assert answer.status in (100, 201)
    if answer.status == 100:
        assert wire.answer().status == 201
    wire.send(get("eager"))
    assert wire.answer().body == b"value"


# Old, odd and hostile clients.


def test_http_1_0_has_one_request_per_connection(wire: Wire) -> None:
    wire.send(request("PUT", "/add_key/old", "Content-Length: 5", body=b"value", version="1.0"))
    assert wire.answer().status == 201
    assert wire.is_ended()


@pytest.mark.parametrize("target", ["/get_key/stored", "/list_keys/", "/admin/status", "/metrics"])
def test_http_1_0_is_answered_without_chunks(wire: Wire, target: str) -> None:
    wire.send(request("GET", target, version="1.0"))
    answer = wire.answer()
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert answer.body
    assert wire.is_ended()


def test_http_1_0_may_ask_for_more_requests(wire: Wire) -> None:
    for _ in range(3):
        wire.send(request("GET", "/get_key/stored", "Connection: keep-alive", version="1.0"))
        assert wire.answer().body == b"value"


def test_a_client_that_wants_to_close_is_let_go(wire: Wire) -> None:
    wire.send(get("stored", "Connection: close"))
    assert wire.answer().body == b"value"
    assert wire.is_ended()


def test_the_empty_etag_matches_nothing(wire: Wire) -> None:
    """curl sends it with the first --etag-compare, when it has no ETag yet."""
    wire.send(get("stored", 'If-None-Match: ""'))
    assert wire.answer().status == 200
    wire.send(put("stored", b"value", 'If-None-Match: ""'))
    assert wire.answer().status == 200
    wire.send(put("stored", b"other", 'If-Match: ""'))
    assert wire.answer().status == 412
    assert is_open(wire)


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Filler: 1"] * 101,
        ["X-Filler: 1"] * 10_000,
        ["X-Filler: " + "x" * 2 * HEAD_BYTES_MAX],
        ["X-Filler: " + "x" * HEAD_BYTES_MAX] * 2,
        ["X-Filler: " + "x" * MIB],
        ["X-" + "x" * MIB + ": 1"],
    ],
    ids=["101 headers", "10,000 headers", "too long", "together too long", "value", "name"],
)
def test_a_head_that_is_too_large_is_refused(shared: Server, headers: list[str]) -> None:
    with Wire(shared.url) as wire:
        wire.send_what_fits(put("headed", b"value", *headers))
        assert wire.answer().status in (400, 431)
        assert wire.is_ended()
    assert value(shared.url, "headed") is None


def test_a_large_head_is_taken(wire: Wire) -> None:
    for headers in (["X-Filler: 1"] * 90, ["X-Filler: " + "x" * (HEAD_BYTES_MAX - 2000)]):
        wire.send(get("stored", *headers))
        assert wire.answer().body == b"value"


def test_a_request_without_a_host_or_with_its_length_twice_is_taken(wire: Wire) -> None:
    """What the server below us takes; docs/http-api.md says so."""
    wire.send(b"GET /get_key/stored HTTP/1.1\r\n\r\n")
    assert wire.answer().body == b"value"
    wire.send(put("twice", b"value", "Content-Length: 5"))
    assert wire.answer().status == 201
    wire.send(put("twice", b"value", "Content-Length: 6"))
    assert wire.answer().status == 400
    assert wire.is_ended()


def test_a_fragment_is_no_part_of_a_key(wire: Wire) -> None:
    """The server below us cuts it off before we see it; docs/http-api.md says so."""
    wire.send(get("stored#part"))
    assert wire.answer().body == b"value"
    wire.send(get("stored%23part"))
    assert wire.answer().status == 404


@pytest.mark.parametrize("length", [KEY_BYTES_MAX + 1, 60_000, 70_000, MIB])
@pytest.mark.parametrize("kind", ["key", "query"])
def test_a_target_that_is_too_long_is_refused(wire: Wire, length: int, kind: str) -> None:
    target = "k" * length if kind == "key" else f"stored?{'k' * length}"
    wire.send_what_fits(get(target))
    assert wire.answer().status in (400, 414, 431)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET /get_key/stored\r\n\r\n",
        b"GET /get_key/stored HTTP/9.9\r\n\r\n",
        b"GET /get_key/stored HTTP/1.1\r\nName : space\r\n\r\n",
        b"GET /get_key/stored HTTP/1.1\r\nName: null\x00\r\n\r\n",
        b"GET /get_key/stored HTTP/1.1\r\nName: folded\r\n line\r\n\r\n",
        b"GET /get_key/a key HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    ],
)
def test_what_is_no_request_is_refused(wire: Wire, garbage: bytes) -> None:
    wire.send(garbage)
    assert wire.answer().status == 400
    assert wire.is_ended()


@pytest.mark.parametrize(
    "headers",
    [
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
        ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
    ],
    ids=["h2c", "websocket"],
)  # fmt: skip
def test_an_upgrade_is_not_taken(wire: Wire, headers: list[str]) -> None:
    wire.send(get("stored", *headers))
    assert wire.answer().body == b"value"
    assert is_open(wire)


def test_a_request_may_come_byte_by_byte(wire: Wire) -> None:
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in put("bytes", b"value") + get("bytes"):
        wire.send(bytes([byte]))
    assert wire.answer().status == 201
    assert wire.answer().body == b"value"
