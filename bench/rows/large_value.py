"""One value of 1 GiB, up and down, and the memory that it takes meanwhile.

The client sends the file with sendfile and reads the answer into one buffer that it checksums,
so that it costs as little as it can, the same for both servers. nginx answers when the bytes
are in the page cache; what a durable answer of it would take (the same upload and an fsync of
the file that it made) is given as a note.
"""

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import google_crc32c

from bench.context import Context, Row, settle
from bench.figures import Figure, Result, Unit, median, ratios
from bench.memory import MemoryWatch
from bench.servers import BenchError, Server

BUFFER_BYTES = 1 << 20

UP = Figure(
    row="large",
    what="1 GiB value, up, fsynced, against nginx DAV, unsynced",
    unit=Unit.RATIO,
    floor=0.5,
    goal=0.8,
)
DOWN = Figure(
    row="large",
    what="1 GiB value, down, against nginx",
    unit=Unit.RATIO,
    floor=0.5,
    goal=0.8,
)
MEMORY = Figure(
    row="large",
    what="largest memory of the server while 1 GiB goes up and down",
    unit=Unit.MIB,
    floor=150,
    higher_is_better=False,
)


def make_source(path: Path, size: int) -> int:
    """A file of `size` random bytes; its CRC32C."""
    checksum = 0
    with path.open("wb") as out:
        for _ in range(size // BUFFER_BYTES):
            block = os.urandom(BUFFER_BYTES)
            checksum = google_crc32c.extend(checksum, block)
            out.write(block)
    return checksum


def connect(server: Server) -> http.client.HTTPConnection:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)


def upload_s(server: Server, source: Path, key: str) -> float:
    """Seconds from the first byte sent until the answer is read."""
    connection = connect(server)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        begun = time.monotonic()
        connection.putrequest("PUT", server.paths["put"] % key, skip_accept_encoding=True)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        connection.sock.sendfile(file)
        answer = connection.getresponse()
        answer.read()
        elapsed = time.monotonic() - begun
    connection.close()
    if answer.status not in (200, 201, 204):
        raise BenchError(f"{server.name} answered {answer.status} to a large PUT")
    return elapsed


def download_s(server: Server, key: str, *, checksum: int) -> float:
    """Seconds from the request until the last byte; every byte is checked."""
    connection = connect(server)
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    found = 0
    begun = time.monotonic()
    connection.request("GET", server.paths["get"] % key)
    answer = connection.getresponse()
    while got := answer.readinto(view):
        found = google_crc32c.extend(found, bytes(view[:got]))
    elapsed = time.monotonic() - begun
    connection.close()
    if answer.status != 200 or found != checksum:
        raise BenchError(f"{server.name} gave back something else than was stored")
    return elapsed


def large(context: Context) -> Iterator[Result]:
    source = context.directory / "source"
    checksum = make_source(source, context.scale.large_bytes)
    pulzar, peers = context.pulzar(), context.nginx()
    up: dict[str, list[float]] = {}
    down: dict[str, list[float]] = {}
    synced: list[float] = []
    peaks: list[float] = []
    with ExitStack() as running:
        for server in (pulzar, *peers):
            running.enter_context(server)
        for n in range(context.scale.rounds):
            for server in (pulzar, *peers):
                key = f"large-{n}"
                settle()
                with MemoryWatch(server) as memory:
                    up.setdefault(server.name, []).append(upload_s(server, source, key))
                    if server is not pulzar:
                        synced.append(up[server.name][-1] + sync_s(server, key))
                    seconds = download_s(server, key, checksum=checksum)
                    down.setdefault(server.name, []).append(seconds)
                if server is pulzar:
                    peaks.append(memory.peak_mib)
    size_mib = context.scale.large_bytes / 2**20
    note = f"nginx with an fsync after it {size_mib / median(synced):,.0f} MiB/s" if synced else ""
    yield _result(UP, up, size_mib, note)
    yield _result(DOWN, down, size_mib, "")
    yield Result(figure=MEMORY, rounds=tuple(peaks), detail=f"value of {size_mib:,.0f} MiB")


def sync_s(server: Server, key: str) -> float:
    """How long an fsync of the file that nginx made takes."""
    begun = time.monotonic()
    file = os.open(server.directory / "data" / key, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    return time.monotonic() - begun


def _result(figure: Figure, times: dict[str, list[float]], size_mib: float, note: str) -> Result:
    detail = "; ".join(
        f"{name} {size_mib / median(seconds):,.0f} MiB/s" for name, seconds in times.items()
    )
    notes = (note,) if note else ()
    if "nginx" not in times:
        return Result(figure=figure, rounds=(), detail=detail, notes=("nginx is not here",))
    rounds = ratios(times["nginx"], times["Pulzar"])
    return Result(figure=figure, rounds=rounds, detail=detail, notes=notes)


ROWS = (Row(name="large", measure=large),)
