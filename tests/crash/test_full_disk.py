"""A disk that fills up: by values, by one upload, by a batch, by another program.

Each test has a small file system of its own, which needs root.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pulzar.client.process import Server
from pulzar.errors import NotReady
from pulzar.limits import KIB, MIB
from pulzar.testing.linearizability import Outcome, check
from pulzar.testing.recorder import Recorder, value_of
from tests.crash.conftest import DISK_BYTES, MakeServer
from tests.crash.wire import Wire, chunked, exchange, get, put, request, value, wait_until

pytestmark = pytest.mark.slow

SETTINGS = {"segment": "2MiB", "reserve": "16MiB", "retired_grace": "0s"}
VALUE_BYTES = 40 * KIB  # small: the reserve is checked every 0.1 s


@pytest.fixture
def disk(small_disk: Path) -> str:
    return str(small_disk)


@pytest.fixture
def server(make_server: MakeServer, disk: str) -> Iterator[Server]:
    with make_server(f"{disk}/data", **SETTINGS) as running:
        yield running


def free_bytes(disk: str) -> int:
    stat = os.statvfs(disk)
    return stat.f_bavail * stat.f_frsize


def fill(server: Server) -> dict[str, bytes]:
    """PUT until the disk is full; what was acknowledged."""
    kept: dict[str, bytes] = {}
    with Wire(server.url) as wire:
        while True:
            key = f"key-{len(kept)}"
            content = value_of(f"{key}.{VALUE_BYTES}")
            wire.send(put(key, content))
            answer = wire.answer()
            if answer.status == 507:
                assert b'"out_of_space"' in answer.body
                assert b"delete something, or add room" in answer.body
                return kept
            assert answer.status == 201
            kept[key] = content


def assert_has(server: Server, kept: dict[str, bytes]) -> None:
    with Wire(server.url) as wire:
        for key, content in kept.items():
            wire.send(get(key))
            assert wire.answer().body == content, key


def wait_until_answered(server: Server, asked: bytes, status: int) -> None:
    """The server looks at the disk a few times a second, not at every write."""
    wait_until(lambda: exchange(server.url, asked).status == status, f"answered {status}")


def test_a_full_disk_keeps_everything_and_is_emptied_again(server: Server) -> None:
    kept = fill(server)
    assert len(kept) * VALUE_BYTES > DISK_BYTES / 2
    assert exchange(server.url, put("tiny", b"x")).status == 507
    assert_has(server, kept)
    server.kill()
    server.start()
    assert_has(server, kept)
    assert exchange(server.url, put("key-0", b"x")).status == 507
    deleted = [key for number, key in enumerate(kept) if number % 20]
    for key in deleted:
        assert exchange(server.url, request("DELETE", f"/delete_key/{key}")).status == 200
        del kept[key]
    assert exchange(server.url, request("POST", "/admin/compact")).status == 200
    assert server.terminate() == 0
    server.start()  # removes the files that compaction has replaced
    wait_until_answered(server, put("new", b"x"), 201)
    assert_has(server, kept)
    assert {value(server.url, key) for key in deleted} == {None}


def test_compaction_leaves_the_reserve_to_the_next_start(
    make_server: MakeServer, disk: str
) -> None:
    settings = {**SETTINGS, "reserve": "8MiB", "retired_grace": "1d"}  # replaced files stay
    with make_server(f"{disk}/data", **settings) as server:
        kept = fill(server)
        for key in list(kept)[::2]:
            assert exchange(server.url, request("DELETE", f"/delete_key/{key}")).status == 200
            del kept[key]
        answer = exchange(server.url, request("POST", "/admin/compact"))
        assert answer.status == 507
        assert b"compaction needs" in answer.body
        server.kill()
        server.start()
        assert_has(server, kept)


@pytest.mark.parametrize("framing", ["known length", "chunked"])
def test_an_upload_that_fills_the_disk_is_refused_and_removed(
    server: Server, disk: str, framing: str
) -> None:
    body = b"x" * 100 * MIB
    assert exchange(server.url, put("large", b"before")).status == 201
    before = free_bytes(disk)
    if framing == "chunked":
        head = request("PUT", "/add_key/large", "Transfer-Encoding: chunked")
        answer = exchange(server.url, head + chunked(body, MIB))
    else:
        answer = exchange(server.url, put("large", body))
    assert answer.status == 507
    assert b"add room" in answer.body
    wait_until(lambda: free_bytes(disk) == before, "its bytes are gone")
    assert value(server.url, "large") == b"before"
    wait_until_answered(server, put("large", b"after"), 200)


def test_a_batch_that_fills_the_disk_tells_the_truth_of_each_value(
    server: Server, disk: str
) -> None:
    ballast = Path(disk, "ballast")
    ballast.write_bytes(bytes(8 * MIB))
    values = {f"batch-{number}": value_of(f"{number}.{MIB}") for number in range(60)}
    body = msgspec.msgpack.encode([["put", key, content] for key, content in values.items()])
    headers = [f"Content-Length: {len(body)}", "Content-Type: application/msgpack"]
    answer = exchange(server.url, request("POST", "/batch", *headers, body=body))
    assert answer.status == 200
    statuses = [result[0] for result in msgspec.msgpack.decode(answer.body)]
    assert set(statuses) == {201, 507}
    for _ in range(2):
        for (key, content), status in zip(values.items(), statuses, strict=True):
            assert value(server.url, key) == (content if status == 201 else None)
        server.kill()
        ballast.unlink(missing_ok=True)  # a start needs room for a segment
        server.start()


def test_the_history_is_linearizable_while_the_disk_fills(server: Server) -> None:
    recorder = Recorder(server.url, keys=["a", "b"], value_bytes=(16, 400_000))
    with recorder:
        wait_until(
            lambda: any(one.outcome is Outcome.FAILED for one in list(recorder.history)),
            "a write was refused",
        )
        server.kill()
        server.start()
        recorder.url = server.url
        recorded = len(recorder.history)
        wait_until(lambda: len(recorder.history) > recorded + 100, "the clients go on")
    assert recorder.surprises == []
    check(recorder.history)


def test_another_program_takes_the_last_byte(server: Server, disk: str) -> None:
    kept = {f"key-{number}": value_of(f"{number}.{VALUE_BYTES}") for number in range(20)}
    for key, content in kept.items():
        assert exchange(server.url, put(key, content)).status == 201
    filler = Path(disk, "filler")
    with filler.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(disk))
    assert free_bytes(disk) < MIB
    wait_until_answered(server, put("one-more", b"x"), 507)
    assert_has(server, kept)
    for key in list(kept)[:5]:
        assert exchange(server.url, request("DELETE", f"/delete_key/{key}")).status == 200
        del kept[key]
    assert server.terminate() == 0
    with pytest.raises(NotReady) as refused:
        server.start()
    said = str(refused.value)
    assert re.search(r"ended with 4 at its start: .*the disk is full", said, re.DOTALL)
    assert "Traceback" not in said
    filler.unlink()
    server.start()
    assert_has(server, kept)
    assert value(server.url, "key-0") is None
    assert exchange(server.url, put("more", b"x")).status == 201
