"""Waiting and watching, on a real server that is killed and stopped meanwhile."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3

from pulzar.client.process import Server
from pulzar.client.sync import Client
from pulzar.client.watching import watch
from pulzar.clock import SystemClock
from pulzar.errors import PulzarError
from pulzar.testing.machines import Machine, free_port

pytestmark = pytest.mark.slow

DEADLINE_S = 40.0
EVENTS = 12_000


def until(holds: Callable[[], object]) -> None:
    clock = SystemClock()
    end_s = clock.monotonic_s() + DEADLINE_S
    while not holds():
        assert clock.monotonic_s() < end_s
        threading.Event().wait(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(str(tmp_path / "data")) as running:
        yield running


@pytest.fixture
def http() -> urllib3.PoolManager:
    return urllib3.PoolManager(retries=False, timeout=30, maxsize=64)


def metric(http: urllib3.PoolManager, server: Server, name: str) -> float:
    text = http.request("GET", f"{server.url}/metrics").data.decode()
    line = next(line for line in text.splitlines() if line.startswith(f"pulzar_{name} "))
    return float(line.split()[1])


class Stream:
    """GET /watch/ in a thread: the events that came so far."""

    def __init__(self, url: str, prefix: str = "", last: str = "", *, lines: bool = False) -> None:
        headers = {"Last-Event-ID": last} if last else {}
        if lines:
            headers["Accept"] = "application/x-ndjson"
        self.http = urllib3.PoolManager(retries=False)
        self.response = self.http.request(
            "GET", f"{url}/watch/{prefix}", headers=headers, preload_content=False, timeout=60
        )
        self.text = b""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for piece in self.response.stream(65536):
                self.text += piece
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            pass  # it was closed
        self.ended.set()

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(id, event, data) of those that came as a whole."""
        found = []
        for block in self.text.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if fields:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
        return found

    def close(self) -> None:
        self.response.close()
        self.http.clear()


def test_bytes_of_events_and_lines(server: Server) -> None:
    events, lines = Stream(server.url, "a/"), Stream(server.url, "a/", lines=True)
    until(events.events)
    until(lambda: lines.text)
    with Client(server.url) as client:
        written = client.put("a/é", b"12", content_type="text/plain", ttl="1h")
        client.put("b", b"")
        gone = client.delete("a/é")
    until(lambda: len(events.events()) == 3)
    until(lambda: lines.text.count(b"\n") == 3)
    (first, ready, _), (second, put, data), (third, deleted, data_of_delete) = events.events()
    version = written.etag.strip('"')
    assert (ready, put, deleted) == ("ready", "put", "delete")
    assert (second, third) == (version, gone.etag.strip('"'))
    assert int(first, 16) < int(second, 16)
    created, expires = data.pop("created"), data.pop("expires")
    assert created < expires
    assert data == {
        "key": "a/é",
        "version": version,
        "etag": written.etag,
        "size": 2,
        "content_type": "text/plain",
    }
    assert data_of_delete == {"key": "a/é", "version": third}
    block = events.text.split(b"\n\n")[0]
    assert block == b"id: %b\nevent: ready\ndata: {}" % first.encode()
    objects = [json.loads(line) for line in lines.text.splitlines()]
    assert [one["event"] for one in objects] == ["ready", "put", "delete"]
    assert objects[1]["id"] == version
    assert events.response.headers["content-type"] == "text/event-stream"
    assert lines.response.headers["content-type"] == "application/x-ndjson"
    events.close()
    lines.close()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/watch/a?after=x", "invalid_parameter"),
        ("/watch/a?since=1", "invalid_parameter"),
        ("/watch/%ff", "invalid_key"),
        ("/get_key/a?wait=601s", "invalid_parameter"),
        ("/get_key/a?wait=11m", "invalid_parameter"),
        ("/get_key/a?wait=soon", "invalid_parameter"),
        ("/get_key/a?wait=5", "invalid_parameter"),
        ("/list_keys/?values=yes", "invalid_parameter"),
    ],
)
def test_what_cannot_be_meant(
    server: Server, http: urllib3.PoolManager, path: str, code: str
) -> None:
    answer = http.request("GET", server.url + path)
    assert (answer.status, answer.json()["code"]) == (400, code)


def test_waiting_for_a_key(server: Server, http: urllib3.PoolManager) -> None:
    def get(path: str, etag: str | None = None) -> tuple[int, bytes]:
        headers = {} if etag is None else {"If-None-Match": etag}
        answer = http.request("GET", f"{server.url}/get_key/{path}", headers=headers)
        return answer.status, answer.data

    with Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        assert get("k?wait=1s")[0] == 404  # the time is up
        waiting = pool.submit(get, "k?wait=60s")
        until(lambda: metric(http, server, "watchers") == 1)
        first = client.put("k", b"1").etag
        assert waiting.result() == (200, b"1")
        assert get("k?wait=60s") == (200, b"1")
        assert get("k?wait=60s", '""') == (200, b"1")
        assert get("k?wait=60s", '"00000000000000ff"') == (200, b"1")
        assert get("k?wait=1s", first) == (304, b"")
        waiting = pool.submit(get, "k?wait=60s", first)
        until(lambda: metric(http, server, "watchers") == 1)
        client.put("another", b"")
        client.put("k", b"2")
        assert waiting.result() == (200, b"2")
        second = client.stat("k").etag
        waiting = pool.submit(get, "k?wait=60s", second)
        until(lambda: metric(http, server, "watchers") == 1)
        client.delete("k")
        assert waiting.result()[0] == 404
        assert get("k?wait=60s", second)[0] == 404  # it was deleted: that is news
        expiring = client.put("k", b"3", ttl=1).etag
        assert get("k?wait=60s", expiring)[0] == 404
        waiting = pool.submit(get, "missing?wait=60s", '""')
        until(lambda: metric(http, server, "watchers") == 1)
        client.put("missing", b"4")
        assert waiting.result() == (200, b"4")
        assert metric(http, server, "watchers") == 0


def test_who_goes_away_is_forgotten(server: Server, http: urllib3.PoolManager) -> None:
    address = urlsplit(server.url)
    assert address.hostname
    assert address.port
    sockets = []
    for path in ("/watch/a", "/get_key/none?wait=600s"):
        one = socket.create_connection((address.hostname, address.port))
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sockets.append(one)
    until(lambda: metric(http, server, "watchers") == 2)
    for one in sockets:
        one.close()
    until(lambda: metric(http, server, "watchers") == 0)


def test_a_stop_lets_everybody_go(server: Server, http: urllib3.PoolManager) -> None:
    streams = [Stream(server.url) for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        url = f"{server.url}/get_key/none?wait=600s"
        waiting = [pool.submit(http.request, "GET", url) for _ in range(20)]
        until(lambda: metric(http, server, "watchers") == 40)
        clock = SystemClock()
        began_s = clock.monotonic_s()
        assert server.terminate() == 0
        took_s = clock.monotonic_s() - began_s
        assert {one.result().status for one in waiting} == {503}
    until(lambda: all(stream.ended.is_set() for stream in streams))
    assert took_s < 8  # the grace for requests under way is ten seconds


def test_a_client_that_takes_nothing_holds_up_nobody(
    server: Server, http: urllib3.PoolManager
) -> None:
    address = urlsplit(server.url)
    assert address.hostname
    assert address.port
    deaf = socket.create_connection((address.hostname, address.port))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    deaf.sendall(b"GET /watch/ HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    until(lambda: metric(http, server, "watchers") == 1)
    stream = Stream(server.url, "k")
    until(stream.events)
    for start in range(0, EVENTS, 4000):
        puts = [["put", f"k/{n:06d}/{'x' * 100}", "dg=="] for n in range(start, start + 4000)]
        body = json.dumps(puts).encode()
        answer = http.request(
            "POST",
            f"{server.url}/batch",
            body=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status == 200, answer.data
    until(lambda: len(stream.events()) == EVENTS + 1)
    # Now the deaf one reads: what it missed comes, once each.
    deaf.settimeout(30)
    end = json.dumps(stream.events()[-1][0]).encode()
    text = b""
    while end not in text[-1000:]:
        text += deaf.recv(1 << 20)
    keys = [found[1].decode() for found in re.finditer(rb'"key":"([^"]+)"', text)]
    assert keys == sorted(set(keys))
    assert len(keys) == EVENTS
    deaf.close()
    stream.close()


def test_no_event_is_lost_doubled_or_out_of_order_over_kills(tmp_path: Path) -> None:
    """Writers write, a watcher watches, the server is killed again and again."""
    arguments = ["up", "--data", str(tmp_path / "data")]
    machine = Machine(
        "up", str(tmp_path / "data"), arguments, "127.0.0.1", port=free_port("127.0.0.1")
    )
    machine.start()
    told: list[dict[str, Any]] = []
    stop = threading.Event()

    def follow() -> None:
        with Client(machine.url) as client:
            for event in watch(client, "w/"):
                told.append(event)
                if stop.is_set():
                    return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    until(lambda: told)
    last: dict[str, str] = {}
    acknowledged = 0
    try:
        with Client(machine.url, patience_s=20) as client:
            for round_ in range(5):
                for number in range(60):
                    key = f"w/{number % 7}"
                    try:
                        if number % 11 == 5 and key in last:
                            last[key] = client.delete(key).etag.strip('"')
                        else:
                            last[key] = client.put(key, b"x").etag.strip('"')
                        acknowledged += 1
                    except PulzarError:
                        continue
                if round_ < 4:
                    machine.start()  # kill -9 first
            final = client.put("w/end", b"").etag.strip('"')
        until(lambda: told[-1].get("version") == final)
    finally:
        stop.set()
        machine.kill()
    changes = [event for event in told if event["event"] in ("put", "delete")]
    assert not [event for event in told if event["event"] == "reset"]
    assert len({(event["key"], event["version"]) for event in changes}) == len(changes)
    for key, version in last.items():
        versions = [event["version"] for event in changes if event["key"] == key]
        assert versions == sorted(versions)
        assert versions[-1] == version
    assert acknowledged > 250
    assert len(changes) > 50


def test_a_catalog_that_was_lost_makes_a_watcher_list_again(tmp_path: Path) -> None:
    with Server(str(tmp_path / "data")) as server:
        with Client(server.url) as client:
            place = client.put("a", b"").etag.strip('"')
        server.terminate()
        for name in ("volume.views", "catalog.views"):
            for file in (tmp_path / "data" / name).iterdir():
                file.unlink()
        server.start()
        stream = Stream(server.url, "a", last=place)
        until(lambda: len(stream.events()) == 2)
        assert [name for _, name, _ in stream.events()] == ["ready", "reset"]
        with Client(server.url) as again:
            again.put("a", b"2")
        until(lambda: len(stream.events()) == 3)
        stream.close()
