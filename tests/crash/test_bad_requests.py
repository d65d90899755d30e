"""Every kind of bad input that a client can send: a 4xx with one sentence, and nothing changed."""

import json
import random
import re
from collections.abc import Iterator
from urllib.parse import quote

import msgspec
import pytest

from pulzar.client.process import Server
from pulzar.limits import BATCH_OPERATIONS_MAX, KEY_BYTES_MAX, LIST_LIMIT_MAX
from tests.crash.wire import Answer, Wire, exchange, get, put, request, value

pytestmark = pytest.mark.slow

ETAG = '"0000010000000001"'
LONG = "k" * (KEY_BYTES_MAX + 1)


@pytest.fixture(scope="module", autouse=True)
def stored(shared: Server) -> None:
    """What the bad requests are about: a key with a value."""
    assert exchange(shared.url, put("kept", b"value")).status == 201


def everything(server: Server) -> bytes:
    """All keys with their versions."""
    return exchange(server.url, request("GET", "/list_keys/")).body


@pytest.fixture(autouse=True)
def nothing_changes(shared: Server) -> Iterator[None]:
    before = everything(shared)
    yield
    assert everything(shared) == before


def assert_refused(answer: Answer, status: int, code: str, names: str) -> None:
    """A problem document with one readable sentence, which names what is wrong."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert names in problem["detail"], problem["detail"]
    assert len(problem["detail"]) < 400
    assert "\n" not in problem["detail"]


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("", "empty"),
        (LONG, f"{KEY_BYTES_MAX + 1} bytes"),
        (quote("é" * 241), "482 bytes"),
        ("%00", "U+0000"),
        ("a%0Ab", "U+000A"),
        ("%C2%85", "U+0085"),
        ("%7F", "U+007F"),
        ("%zz", "%zz"),
        ("a%4", "%4"),
        ("100%", "%25"),
        ("%FF", "UTF-8"),
        ("%C0%AF", "UTF-8"),
        ("%ED%A0%80", "UTF-8"),
    ],
)
def test_a_bad_key(shared: Server, method: str, key: str, names: str) -> None:
    path = {"PUT": "add_key", "GET": "get_key", "DELETE": "delete_key"}[method]
    body = b"value" if method == "PUT" else b""
    answer = exchange(
        shared.url, request(method, f"/{path}/{key}", f"Content-Length: {len(body)}", body=body)
    )
    assert_refused(answer, 400, "invalid_key", names)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("temporal=0", "temporal"),
        ("temporal=-1", "temporal"),
        ("temporal=1.5", "temporal"),
        ("temporal=week", "temporal"),
        ("temporal=", "temporal"),
        ("temporal=%D9%A3", "temporal"),
        ("temporal=2914000", "9999"),
        ("temporal=" + "9" * 400, "9999"),
        ("temporal=1&temporal=2", "twice"),
        ("temporal=1&ttl=1h", "one of them"),
        ("ttl=0s", "ttl"),
        ("ttl=5", "ttl"),
        ("ttl=-5m", "ttl"),
        ("ttl=5weeks", "ttl"),
        ("ttl=999999999999d", "9999"),
        ("tempral=1", "'temporal'"),
        ("replicas=0", "replicas"),
        ("replicas=32", "replicas"),
        ("replicas=two", "replicas"),
        ("copies=2", "unknown query parameter"),
        ("redirect=yes", "redirect"),
        ("ttl=%zz", "%25"),
        ("ttl=%FF", "UTF-8"),
    ],
)
def test_a_bad_query_of_a_put(shared: Server, query: str, names: str) -> None:
    answer = exchange(shared.url, put(f"kept?{query}", b"new"))
    assert_refused(answer, 400, "invalid_parameter", names)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("/get_key/kept?ttl=1h", "ttl"),
        ("/list_keys/?limit=0", "limit"),
        ("/list_keys/?limit=-1", "limit"),
        (f"/list_keys/?limit={LIST_LIMIT_MAX + 1}", str(LIST_LIMIT_MAX)),
        ("/list_keys/?limit=ten", "limit"),
        ("/list_keys/?delimiter=", "delimiter"),
        ("/list_keys/?aftr=a", "'after'"),
        ("/admin/status?verbose=1", "'verbose'"),
        ("/healthz?x", "there are none here"),
        ("/readyz?x", "unknown query parameter"),
        ("/metrics?name=a", "unknown query parameter"),
    ],
)
def test_a_bad_query_of_a_read(shared: Server, target: str, names: str) -> None:
    assert_refused(exchange(shared.url, request("GET", target)), 400, "invalid_parameter", names)


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("text", ["0000010000000001", '"unfinished', "", ", ,", f"{ETAG} x"])
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_a_bad_condition(shared: Server, method: str, name: str, text: str) -> None:
    path = {"PUT": "add_key", "GET": "get_key", "DELETE": "delete_key"}[method]
    asked = request(method, f"/{path}/kept", f"{name}: {text}", "Content-Length: 0")
    assert_refused(exchange(shared.url, asked), 400, "invalid_parameter", name)


def test_a_date_cannot_guard_a_write(shared: Server) -> None:
    date = "If-Unmodified-Since: Tue, 24 Nov 2026 04:39:54 GMT"
    answer = exchange(shared.url, request("DELETE", "/delete_key/kept", date))
    assert_refused(answer, 400, "invalid_parameter", "If-Match")


def test_a_part_of_a_value_cannot_be_written(shared: Server) -> None:
    asked = request(
        "PUT", "/add_key/kept", "Content-Range: bytes 0-0/5", "Content-Length: 1", body=b"x"
    )
    assert_refused(exchange(shared.url, asked), 400, "invalid_parameter", "Content-Range")


@pytest.mark.parametrize("text", ["bytes=9-", "bytes=-0", "bytes=5-9", f"bytes={'9' * 30}-"])
def test_a_range_that_no_byte_is_in(shared: Server, text: str) -> None:
    answer = exchange(shared.url, request("GET", "/get_key/kept", f"Range: {text}"))
    assert_refused(answer, 416, "range_not_satisfiable", "5 bytes")
    assert answer.headers["content-range"] == "bytes */5"


@pytest.mark.parametrize("text", ["bytes=x", "bytes=3-1", "lines=1-2", "bytes", "bytes=1-2,x"])
def test_a_malformed_range_is_refused_or_ignored(shared: Server, text: str) -> None:
    """RFC 9110, 14.2: a server may ignore a Range that it cannot read."""
    answer = exchange(shared.url, request("GET", "/get_key/kept", f"Range: {text}"))
    if answer.status == 200:
        assert answer.body == b"value"
    else:
        assert_refused(answer, 400, "invalid_parameter", "ange")


@pytest.mark.parametrize("text", ["text/plain\x80", "a/b;" + "x" * 300, "é/é"])
def test_a_bad_content_type(shared: Server, text: str) -> None:
    asked = request("PUT", "/add_key/kept", "Content-Length: 1", f"Content-Type: {text}", body=b"x")
    answer = exchange(shared.url, asked)
    assert answer.status == 400, answer.body
    assert_refused(answer, 400, json.loads(answer.body)["code"], "Content-Type")


@pytest.mark.parametrize(
    ("method", "target", "hint"),
    [
        ("GET", "/get_keys/kept", "/get_key/{key}"),
        ("PUT", "/addkey/kept", "/add_key/{key}"),
        ("GET", "/admin/stats", "/admin/status"),
        ("GET", "/metric", "/metrics"),
        ("GET", "/", "/get_key/{key}"),
        ("GET", "/GET_KEY/kept", "/get_key/{key}"),
        ("GET", "/get%5Fkey/kept", "/get_key/{key}"),
        ("PUT", "/add_key%2Fkept", "/add_key/{key}"),
        ("GET", "/list%5Fkeys/ke/", "/list_keys/{prefix}"),
        ("GET", "/list_keys%2Fke/", "/list_keys/{prefix}"),
        ("GET", "/admin%2Fstatus", "/admin/status"),
    ],
)
def test_an_unknown_path_is_told_the_nearest_real_one(
    shared: Server, method: str, target: str, hint: str
) -> None:
    answer = exchange(shared.url, request(method, target, "Content-Length: 0"))
    assert_refused(answer, 404, "unknown_path", hint)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/add_key/kept", "PUT"),
        ("PUT", "/get_key/kept", "GET, HEAD"),
        ("GET", "/delete_key/kept", "DELETE"),
        ("DELETE", "/list_keys/", "GET, HEAD"),
        ("GET", "/batch", "POST"),
        ("POST", "/admin/status", "GET, HEAD"),
        ("GET", "/admin/compact", "POST"),
        ("BREW", "/get_key/kept", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    shared: Server, method: str, target: str, allow: str
) -> None:
    answer = exchange(shared.url, request(method, target, "Content-Length: 0"))
    assert_refused(answer, 405, "method_not_allowed", allow.partition(",")[0])
    assert answer.headers["allow"] == allow


# Batches.


def batch(server: Server, body: bytes, content_type: str = "application/json") -> Answer:
    headers = [f"Content-Length: {len(body)}", f"Content-Type: {content_type}"]
    return exchange(server.url, request("POST", "/batch", *headers, body=body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b"[1]",
        b'["put"]',
        b"[[]]",
        b'[["move", "a"]]',
        b'[["put"]]',
        b'[["put", "a"]]',
        b'[["put", "a", "not base64!"]]',
        b'[["put", "", "aGk="]]',
        b'[["put", "a\\u0000", "aGk="]]',
        b'[["put", "a", "aGk=", "text/\\u00e9"]]',
        b'[["put", "a", "aGk=", null, "soon"]]',
        b'[["put", "a", "aGk=", null, null, "x"]]',
        b'[["put", "a", "aGk=", null, null, null, null, 1]]',
        b'[["get", 1]]',
        b'[["get", "a"], ["get"]]',
        b'[["delete", "' + LONG.encode() + b'"]]',
        b'[["get", "a"]] x',
        json.dumps([["get", "a"]] * (BATCH_OPERATIONS_MAX + 1)).encode(),
    ],
)
def test_a_malformed_batch_is_refused_as_a_whole(shared: Server, body: bytes) -> None:
    good = b'["put", "never", "aGk="], '
    for sent in (body, body.replace(b"[[", b"[" + good + b"[", 1)):
        answer = batch(shared, sent)
        assert 400 <= answer.status < 500, answer.body
        assert_refused(answer, answer.status, json.loads(answer.body)["code"], "")
    assert value(shared.url, "never") is None


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
def test_a_batch_of_lists_inside_lists(shared: Server, kind: str) -> None:
    for body in (b"[" * 2000, b"[" * 100_000, b"\x91" * 2000, b'[["get",' + b"[" * 2000):
        assert_refused(
            batch(shared, body, kind), 400, "invalid_parameter", "the batch is malformed"
        )


def test_a_batch_with_a_query_or_an_operation_that_is_too_long(shared: Server) -> None:
    body = b'[["get", "kept"]]'
    headers = [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    answer = exchange(shared.url, request("POST", "/batch?x", *headers, body=body))
    assert_refused(answer, 400, "invalid_parameter", "there are none here")
    long = b'[["put", "a", "YQ==", null, null, null, null, 1, 2]]'
    assert_refused(batch(shared, long), 400, "invalid_parameter", "at most length 7")


def test_a_batch_of_another_type(shared: Server) -> None:
    assert_refused(
        batch(shared, b"a,b", "text/csv"), 415, "unsupported_media_type", "application/json"
    )


def test_every_beginning_of_a_compact_batch(shared: Server) -> None:
    whole = msgspec.msgpack.encode([["put", "never", b"value"], ["get", "kept"]])
    for length in range(len(whole)):
        answer = batch(shared, whole[:length], "application/msgpack")
        assert_refused(answer, 400, json.loads(answer.body)["code"], "")
    for at in range(1, len(whole)):  # an operation is not what it was, or is still a batch
        changed = whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :]
        answer = batch(shared, changed.replace(b"put", b"get"), "application/msgpack")
        assert answer.status in (200, 400, 413), answer.body


# Anything at all.

WORDS = [
    "GET",
    "PUT",
    "DELETE",
    "HEAD",
    "POST",
    "/get_key/",
    "/add_key/",
    "/list_keys/",
    "/admin/",
    "kept",
    "%00",
    "%zz",
    "?",
    "temporal=",
    "&",
    "limit=1",
    "..",
    "/",
    "é",
]


@pytest.mark.parametrize("seed", range(3))
def test_nonsense_is_never_an_error_of_ours(shared: Server, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(80):
        method = rng.choice(["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "X"])
        target = "/" + "".join(rng.choice(WORDS) for _ in range(rng.randrange(6)))
        headers = [
            f"{rng.choice(['Range', 'If-Match', 'If-None-Match', 'Accept', 'If-Range'])}: "
            + "".join(rng.choice('bytes=0-1,"*W/ x') for _ in range(rng.randrange(12)))
            for _ in range(rng.randrange(3))
        ]
        if method == "DELETE" and re.search(r"/delete_key/kept$", target):
            continue
        asked = request(method, quote(target, safe="/%?&=.+"), *headers)
        with Wire(shared.url) as wire:
            wire.send(asked)
            answer = wire.answer(head=method == "HEAD")
        assert answer.status < 500, (asked, answer)
        if answer.status >= 400 and method != "HEAD":
            assert json.loads(answer.body)["detail"], asked


# Keys that are unusual, and good.


@pytest.mark.parametrize(
    "key",
    ["..", ".", "a/../b", "a//b", "/a", "a/", "%", "%2F", "a?b", "a#b", "a+b", "a b", "😀", '"\\'],
)
def test_an_unusual_key_is_a_key(shared: Server, key: str) -> None:
    target = quote(key, safe="")
    assert exchange(shared.url, put(target, b"1")).status == 201
    assert exchange(shared.url, get(target)).body == b"1"
    listed = json.loads(everything(shared))["keys"]
    assert key in {one["key"] for one in listed}
    assert exchange(shared.url, request("DELETE", f"/delete_key/{target}")).status == 200


def test_a_key_of_the_largest_length_is_a_key(shared: Server) -> None:
    for key in ("k" * KEY_BYTES_MAX, "é" * (KEY_BYTES_MAX // 2)):
        assert exchange(shared.url, put(quote(key), b"1")).status == 201
        assert value(shared.url, quote(key)) == b"1"
        assert exchange(shared.url, request("DELETE", f"/delete_key/{quote(key)}")).status == 200
