"""Ranges of values in every kind of storage: exactly those bytes come over the socket."""

from email import message_from_bytes
from email.message import Message

import pytest

from pulzar.client.process import Server
from pulzar.limits import BLOB_CHUNK_BYTES, INLINE_BYTES_MAX, SEGMENT_VALUE_BYTES_MAX
from pulzar.testing.recorder import value_of
from tests.crash.wire import Wire, exchange, get, put, request

CHUNK = BLOB_CHUNK_BYTES
SIZES = {
    "inline": INLINE_BYTES_MAX,
    "segment": 70_001,
    "segment-full": SEGMENT_VALUE_BYTES_MAX,
    "blob-least": SEGMENT_VALUE_BYTES_MAX + 1,
    "blob": 3 * CHUNK + 500_000,
}
VALUES = {kind: value_of(f"{kind}.{size}") for kind, size in SIZES.items()}


@pytest.fixture(scope="module", autouse=True)
def etags(shared: Server) -> dict[str, str]:
    answers = {kind: exchange(shared.url, put(kind, VALUES[kind])) for kind in SIZES}
    assert {answer.status for answer in answers.values()} == {201}
    return {kind: answer.headers["etag"] for kind, answer in answers.items()}


def spans(size: int) -> list[tuple[int, int]]:
    """Starts and ends (exclusive) worth asking for."""
    edges = {0, 1, size // 2, size - 1, size, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK}
    inside = sorted(edge for edge in edges if edge <= size)
    return [(start, end) for start in inside for end in inside if start < end]


@pytest.mark.parametrize("kind", SIZES)
def test_a_range_is_exactly_those_bytes(shared: Server, kind: str) -> None:
    size = SIZES[kind]
    with Wire(shared.url) as wire:
        for start, end in spans(size):
            asked = [f"{start}-{end - 1}"]
            if end == size:
                asked += [f"{start}-", f"-{size - start}", f"{start}-{size + 1000}"]
            for text in asked:
                wire.send(get(kind, f"Range: bytes={text}"))
                answer = wire.answer()
                assert answer.status == 206, text
                assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}", text
                assert answer.body == VALUES[kind][start:end], text


@pytest.mark.parametrize("kind", SIZES)
def test_several_ranges_are_parts_of_one_answer(shared: Server, kind: str) -> None:
    value, size = VALUES[kind], SIZES[kind]
    wanted = [(size - 300, size - 200), (0, 100), (size // 2, size // 2 + 200)]
    asked = ",".join(f"{start}-{end - 1}" for start, end in wanted)
    answer = exchange(shared.url, get(kind, f"Range: bytes={asked}"))
    assert answer.status == 206
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + answer.body).get_payload()
    assert isinstance(parts, list)
    for part, (start, end) in zip(parts, wanted, strict=True):
        assert isinstance(part, Message)
        assert part["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.get_payload(decode=True) == value[start:end]


@pytest.mark.parametrize("kind", SIZES)
def test_a_range_counts_only_for_the_version_that_is_meant(
    shared: Server, kind: str, etags: dict[str, str]
) -> None:
    with Wire(shared.url) as wire:
        wire.send(get(kind, "Range: bytes=1-5", f"If-Range: {etags[kind]}"))
        assert wire.answer().body == VALUES[kind][1:6]
        wire.send(get(kind, "Range: bytes=1-5", 'If-Range: "0000000000000001"'))
        assert wire.answer().body == VALUES[kind]
        wire.send(get(kind))
        date = wire.answer().headers["last-modified"]  # a second may have had two values
        wire.send(get(kind, "Range: bytes=1-5", f"If-Range: {date}"))
        assert wire.answer().body == VALUES[kind]


@pytest.mark.parametrize("kind", SIZES)
def test_what_is_no_range_of_the_value(shared: Server, kind: str) -> None:
    size = SIZES[kind]
    with Wire(shared.url) as wire:
        for asked, status in [
            (f"bytes={size}-", 416),
            ("bytes=-0", 416),
            ("bytes=5-1", 400),
            ("bytes=", 400),
            ("bytes=" + "0-0," * 17, 400),
            ("lines=1-2", 200),
        ]:
            wire.send(get(kind, f"Range: {asked}"))
            answer = wire.answer()
            assert answer.status == status, asked
            if status == 416:
                assert answer.headers["content-range"] == f"bytes */{size}"
        wire.send(request("HEAD", f"/get_key/{kind}", "Range: bytes=0-0"))
        assert wire.answer(head=True).headers["content-length"] == str(size)
