"""Extensions, searches, watchers, and the restore of a master with the specification's 600 files.

Extensions are called by connections that each wait for their answer, in one process of the
generator's own. A watcher is timed from the moment that a PUT is sent until its event is there, so
the write itself, with its fsync, is part of it.
"""

import asyncio
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from bench.context import Context, Row, say, settle
from bench.figures import Figure, Result, Unit, median, percentile
from bench.servers import BenchError, Pulzar, fetch
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk
from pulzar.testing import ManualClock
from pulzar.varidb.entry import Put
from pulzar.varidb.store import open_store

CALL = Figure(
    row="extensions",
    what="one extension call, warm, p50",
    unit=Unit.SECONDS,
    floor=0.003,
    goal=0.001,
    higher_is_better=False,
)
CALLS = Figure(
    row="extensions",
    what="extension calls, 16 at a time",
    unit=Unit.CALLS_PER_S,
    floor=1000,
    goal=3000,
)
SLOW = Figure(
    row="extensions",
    what="p99 of GET while 50 slow calls go on, against without",
    unit=Unit.RATIO,
    floor=2.0,
    higher_is_better=False,
)
PART = Figure(
    row="search",
    what="search by a part of the key with 20 matches, p50",
    unit=Unit.SECONDS,
    floor=0.1,
    goal=0.02,
    higher_is_better=False,
)
DAY = Figure(
    row="search",
    what="search in a window of one day with 1,000 keys, p50",
    unit=Unit.SECONDS,
    floor=0.1,
    goal=0.02,
    higher_is_better=False,
)
ONE = Figure(
    row="watch",
    what="a PUT is sent until one watcher has its event, p50",
    unit=Unit.SECONDS,
    floor=0.01,
    goal=0.003,
    higher_is_better=False,
)
MANY = Figure(
    row="watch",
    what="a PUT is sent until all of 500 watchers have its event, p50",
    unit=Unit.SECONDS,
    floor=0.5,
    goal=0.1,
    higher_is_better=False,
)
RESTORE = Figure(
    row="restore-600",
    what="a master with an empty disk, from POST /admin/restore until it serves 600 files of 1 KB",
    unit=Unit.SECONDS,
    floor=1.0,
    goal=0.3,
    higher_is_better=False,
)
CALLERS = 16
SEARCHES = 40
CHANGES = 200
WATCHERS = 500
OLD_DAY = datetime(2026, 1, 15, 12, tzinfo=UTC)
OLD_KEYS = 1000
SPECIFIED_FILES = 600


class Connection:
    """A connection that sends one request and reads its answer, as fast as asyncio can."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def ask(self, path: str, method: str = "GET", body: bytes = b"") -> int:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lower = answer.lower()
        length = int(lower.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await self._reader.readexactly(length)
        return int(answer[9:12])

    def close(self) -> None:
        self._writer.close()


async def calls(url: str, path: str, *, count: int, connections: int) -> list[float]:
    """The time of each of so many calls."""
    times: list[float] = []
    left = count

    async def one() -> None:
        nonlocal left
        connection = Connection(url)
        await connection.open()
        while left > 0:
            left -= 1
            begun = time.perf_counter()
            if await connection.ask(path) != 200:
                raise BenchError(f"{path} did not answer 200")
            times.append(time.perf_counter() - begun)
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return times


def extensions(context: Context) -> Iterator[Result]:
    """The example, and what a crowd of slow calls does to GET."""
    alone: list[float] = []
    rates: list[float] = []
    slow: list[float] = []
    path = "/third_party/example/hello"
    with context.pulzar() as pulzar:
        put(pulzar, "/add_key/k", b"v")
        asyncio.run(calls(pulzar.url, path, count=2000, connections=CALLERS))  # warm
        for _ in range(context.scale.rounds):
            times = asyncio.run(calls(pulzar.url, path, count=2000, connections=1))
            alone.append(median(times))
            begun = time.perf_counter()
            asyncio.run(calls(pulzar.url, path, count=10_000, connections=CALLERS))
            rates.append(10_000 / (time.perf_counter() - begun))
    site = context.empty("site")
    (site / "sleep.py").write_text("import time\ndef execute(arguments): time.sleep(0.5)\n")
    with SlowPulzar(context.empty("slow"), context.pulzar_program, site) as pulzar:
        put(pulzar, "/add_key/k", b"v")
        asyncio.run(calls(pulzar.url, "/third_party/sleep", count=50, connections=50))
        for _ in range(context.scale.rounds):
            calm = asyncio.run(calls(pulzar.url, "/get_key/k", count=20_000, connections=1))
            slow.append(asyncio.run(_crowded(pulzar.url)) / percentile(calm, 0.99))
    yield Result(figure=CALL, rounds=tuple(alone))
    yield Result(figure=CALLS, rounds=tuple(rates))
    yield Result(figure=SLOW, rounds=tuple(slow), detail="each slow call sleeps 0.5 s")


class SlowPulzar(Pulzar):
    """A Pulzar with extensions of its own."""

    def __init__(self, directory: Path, program: tuple[str, ...], site: Path) -> None:
        super().__init__(directory, program)
        self._site = site

    def command(self, port: int) -> list[str]:
        return [*super().command(port), "--third-party", str(self._site)]


async def _crowded(url: str) -> float:
    """p99 of GET while 50 clients call what is slow."""
    slow = asyncio.gather(
        *(calls(url, "/third_party/sleep", count=4, connections=1) for _ in range(50))
    )
    await asyncio.sleep(0.1)
    times = await calls(url, "/get_key/k", count=20_000, connections=1)
    await slow
    return percentile(times, 0.99)


def search(context: Context) -> Iterator[Result]:
    """A million keys, 20 of which have a rare part; and 1,000 that are older."""
    part: list[float] = []
    day: list[float] = []
    pulzar = context.pulzar()
    asyncio.run(_old_keys(str(pulzar.directory)))
    with pulzar:
        context.fill(pulzar, keys=context.scale.many_keys, size=10)
        for number in range(20):
            put(pulzar, f"/add_key/some/needle-{number}", b"v")
        begun = time.perf_counter()
        matches(pulzar, "needle-", 20)
        first_s = time.perf_counter() - begun
        window = OLD_DAY.strftime("?eq=%m-%d-%Y")
        for _ in range(context.scale.rounds):
            part.append(median([matches(pulzar, "needle-", 20) for _ in range(SEARCHES)]))
            day.append(median([matches(pulzar, window, OLD_KEYS) for _ in range(SEARCHES)]))
    detail = (
        f"{context.scale.many_keys:,} keys; the first search, which makes the file of names, "
        f"{first_s:.2f} s"
    )
    yield Result(figure=PART, rounds=tuple(part), detail=detail)
    yield Result(figure=DAY, rounds=tuple(day))


async def _old_keys(directory: str) -> None:
    """Keys of a day that has gone."""
    clock = ManualClock(now_ms=int(OLD_DAY.timestamp() * 1000))
    store = await open_store(directory, disk=SystemDisk(), clock=clock)
    for number in range(OLD_KEYS):
        await store.put(Put(b"old/%06d" % number, b"v"))
    await store.close()


def matches(pulzar: Pulzar, path: str, count: int) -> float:
    """The time of a search that must find so many."""
    begun = time.perf_counter()
    status, body = fetch(f"{pulzar.url}/third_party/search/{path}", timeout_s=60)
    took_s = time.perf_counter() - begun
    if status != 200 or len(json.loads(body)["results"]) != count:
        raise BenchError(f"a search for {path} answered {status}: {body[:200]!r}")
    return took_s


def put(pulzar: Pulzar, path: str, body: bytes) -> None:
    """A PUT that must be done."""
    connection = http.client.HTTPConnection(urlsplit(pulzar.url).netloc, timeout=30)
    connection.request("PUT", path, body=body)
    if connection.getresponse().status not in (200, 201):
        raise BenchError(f"PUT {path} was refused")
    connection.close()


def watch(context: Context) -> Iterator[Result]:
    """One watcher, and many."""
    one: list[float] = []
    many: list[float] = []
    with context.pulzar() as pulzar:
        for _ in range(context.scale.rounds):
            one.append(median(asyncio.run(_watched(pulzar.url, watchers=1))))
            many.append(median(asyncio.run(_watched(pulzar.url, watchers=WATCHERS))))
    yield Result(figure=ONE, rounds=tuple(one))
    yield Result(figure=MANY, rounds=tuple(many))


async def _watched(url: str, *, watchers: int) -> list[float]:
    """How long each of some changes takes until every watcher has it."""
    parts = urlsplit(url)
    streams = []
    for _ in range(watchers):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"GET /watch/w/ HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        streams.append((reader, writer))
    for reader, _ in streams:
        await reader.readuntil(b'"ready"')
        await reader.readuntil(b"\n")
    client = Connection(url)
    await client.open()
    times = []
    for number in range(CHANGES if watchers == 1 else CHANGES // 10):
        key = f"w/{number}"
        mark = b'"key":"%b"' % key.encode()
        waiting = asyncio.gather(*(reader.readuntil(mark) for reader, _ in streams))
        await asyncio.sleep(0)
        begun = time.perf_counter()
        if await client.ask(f"/add_key/{key}", "PUT", b"v") not in (200, 201):
            raise BenchError("a PUT was refused")
        await waiting
        times.append(time.perf_counter() - begun)
        await asyncio.sleep(0.01)
    for _, writer in streams:
        writer.close()
    client.close()
    return times


def restore(context: Context) -> Iterator[Result]:
    """The restore test of the specification."""
    took: list[float] = []
    clock = SystemClock()
    for _ in range(context.scale.rounds):
        with context.cluster(volumes=1, replicas=1) as cluster:
            context.fill(cluster, keys=SPECIFIED_FILES, size=1000)
            directory = Path(cluster.master.directory)
            key = (directory / "cluster.key").read_bytes()
            cluster.master.kill()
            shutil.rmtree(directory)
            directory.mkdir()
            (directory / "cluster.key").write_bytes(key)
            settle()
            cluster.start_master()
            begun = clock.monotonic_s()
            connection = http.client.HTTPConnection(urlsplit(cluster.url).netloc, timeout=30)
            body = json.dumps({"volume": cluster.volumes[0].url})
            connection.request("POST", "/admin/restore", body=body)
            answer = connection.getresponse()
            answer.read()
            while fetch(f"{cluster.url}/readyz", timeout_s=5)[0] != 200:
                time.sleep(0.002)
            took.append(clock.monotonic_s() - begun)
            content = fetch(f"{cluster.url}/admin/status", timeout_s=5)[1]
            if json.loads(content)["entries"] != SPECIFIED_FILES:
                raise BenchError(f"not all is there: {content!r}")
    say(f"restores took {took}")
    yield Result(figure=RESTORE, rounds=tuple(took), detail="the specification has 23.98 s")


ROWS = (
    Row(name="extensions", measure=extensions),
    Row(name="search", measure=search),
    Row(name="watch", measure=watch),
    Row(name="restore-600", measure=restore),
)
