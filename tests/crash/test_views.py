"""Copies of a live data directory, views and all, opened under the same kernel.

LMDB's files are not synced, and a copy of one that is being written may look whole and lack
records. So a view is trusted only where it was written. Here a server is copied again and again
while it works; whatever a copy's views say must be what its log says: a second copy of it, without
views, is opened beside it, and both must answer alike. What was acknowledged before the copying
began is there.
"""

import asyncio
import os
import random
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pulzar.client.process import Server
from pulzar.clock import SystemClock
from pulzar.disk import SystemDisk
from pulzar.errors import Damage
from pulzar.limits import MIB
from pulzar.varidb.entry import Entry
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import LocalStore, open_store
from tests.crash.conftest import MakeServer
from tests.crash.wire import Wire, exchange, put, request, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COPIES = 50
KEYS = 300
OPTIONS = StoreOptions(reserve_bytes=0, segment_bytes=MIB)
VIEWS = ("volume.views", "catalog.views")

Answers = dict[bytes, tuple[int, bytes | None]]


class Known(NamedTuple):
    """What was acknowledged at some moment: the version of each key, 0 where it was deleted; and
    how many deletes of each had been answered by then."""

    versions: dict[bytes, int]
    deletes: Counter[bytes]


class Writer:
    """Puts, replaces and deletes, as fast as one connection can; knows what was acknowledged."""

    def __init__(self, url: str) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self.begun: Counter[bytes] = Counter()  # deletes
        self.ended: Counter[bytes] = Counter()
        self.failure: BaseException | None = None
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def known(self) -> Known:
        ended = Counter(self.ended)
        return Known(dict(self.acknowledged), ended)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
        assert self.failure is None, self.failure

    def _run(self) -> None:
        rng = random.Random(1)
        try:
            with Wire(self._url) as wire:
                while not self._stop.is_set():
                    self._write(wire, rng)
        except BaseException as error:  # whatever it was, the test must hear of it
            self.failure = error

    def _write(self, wire: Wire, rng: random.Random) -> None:
        key = b"key-%d" % rng.randrange(KEYS)
        if rng.random() < 0.2:
            self.begun[key] += 1
            wire.send(request("DELETE", f"/delete_key/{key.decode()}"))
            answer = wire.answer()
            assert answer.status in (200, 404)
            self.ended[key] += 1
            version = 0
        else:
            size = rng.choice([0, 10, 1000, 4000, 4000])
            wire.send(put(key.decode(), rng.randbytes(size)))
            answer = wire.answer()
            assert answer.status in (200, 201)
            version = int(answer.headers["etag"].strip('"'), 16)
        self.acknowledged[key] = version


def by_python(source: str, target: str) -> None:
    """File by file, in the order of the directory; what vanishes meanwhile is left out."""

    def copy(one: str, other: str) -> str:
        try:
            return shutil.copyfile(one, other)
        except FileNotFoundError:
            return other

    shutil.copytree(source, target, copy_function=copy)


def by_cp(source: str, target: str) -> None:
    subprocess.run(["cp", "-a", source, target], check=False, capture_output=True)


def by_tar(source: str, target: str) -> None:
    os.makedirs(target)
    with subprocess.Popen(["tar", "-C", source, "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["tar", "-C", target, "-xf", "-"], stdin=tar.stdout, check=True)


WAYS: list[Callable[[str, str], None]] = [by_python, by_cp, by_tar]


def answers(directory: str) -> tuple[Answers, int]:
    """What a store says of every key, and how many keys it counts."""

    async def ask() -> tuple[Answers, int]:
        store = await open_store(directory, disk=SystemDisk(), clock=SystemClock(), options=OPTIONS)
        try:
            listing = store.list_keys(b"", after=None, limit=10_000, delimiter=None)
            said = {key: (e.version, await read(store, key, e)) for key, e in listing.entries}
            for number in range(KEYS):
                key = b"key-%d" % number
                entry = store.lookup(key)
                assert (entry is not None) == (key in said)
                assert entry is None or entry.version == said[key][0]
            return said, store.status().entries
        finally:
            await store.close()

    return asyncio.run(ask())


async def read(store: LocalStore, key: bytes, entry: Entry) -> bytes | None:
    try:
        return await store.read(key, entry)
    except Damage:
        return None


def without_views(directory: str) -> str:
    """The same log, in a place of its own, with nothing beside it."""
    other = f"{directory}-rebuilt"
    shutil.copytree(f"{directory}/volume", f"{other}/volume")
    return other


def check_copy(directory: str, before: Known, writer: Writer) -> None:
    rebuilt, entries = answers(without_views(directory))
    said, counted = answers(directory)
    assert counted == entries == len(rebuilt)
    assert said == rebuilt
    for key, version in before.versions.items():
        if key in said:
            assert said[key][0] >= version, key
            assert said[key][1] is not None, key
        else:
            assert not version or writer.begun[key] > before.deletes[key], key


@pytest.fixture
def busy(make_server: MakeServer, data: str) -> Iterator[tuple[Server, Writer]]:
    with make_server(data, segment="2MiB", retired_grace="1h") as server:
        writer = Writer(server.url)
        with writer.working():
            wait_until(lambda: len(writer.acknowledged) > KEYS * 0.8, "the keys are there")
            yield server, writer


def test_copies_of_a_live_directory_say_what_their_logs_say(
    busy: tuple[Server, Writer], data: str, tmp_path: Path
) -> None:
    _, writer = busy
    for number in range(COPIES):
        before = writer.known()
        target = str(tmp_path / f"{number}")
        WAYS[number % len(WAYS)](data, target)
        check_copy(target, before, writer)
        shutil.rmtree(target)
        shutil.rmtree(f"{target}-rebuilt")


def test_copies_made_while_segments_are_compacted(
    busy: tuple[Server, Writer], data: str, tmp_path: Path
) -> None:
    server, writer = busy
    compacting = threading.Event()

    def compact() -> None:
        while not compacting.is_set():
            assert exchange(server.url, request("POST", "/admin/compact")).status == 200

    thread = threading.Thread(target=compact)
    thread.start()
    try:
        for number in range(6):
            before = writer.known()
            target = str(tmp_path / f"{number}")
            WAYS[number % len(WAYS)](data, target)
            check_copy(target, before, writer)
    finally:
        compacting.set()
        thread.join()


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_a_copy_of_a_directory_at_rest(
    make_server: MakeServer, data: str, tmp_path: Path, *, clean: bool
) -> None:
    with make_server(data, segment="2MiB") as server:
        writer = Writer(server.url)
        with writer.working():
            wait_until(lambda: len(writer.acknowledged) > KEYS * 0.8, "the keys are there")
        if clean:
            assert server.terminate() == 0
        else:
            server.kill()
        by_cp(data, str(tmp_path / "copy"))
        check_copy(str(tmp_path / "copy"), writer.known(), writer)


@pytest.mark.parametrize("older", ["views", "log"])
def test_views_and_log_of_different_times_are_not_mixed(
    busy: tuple[Server, Writer], data: str, tmp_path: Path, older: str
) -> None:
    _, writer = busy
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    by_tar(data, first)
    count = sum(writer.acknowledged.values())
    wait_until(lambda: sum(writer.acknowledged.values()) != count, "time goes on")
    before = writer.known() if older == "views" else Known({}, Counter())
    by_tar(data, second)
    log, views = (second, first) if older == "views" else (first, second)
    mixed = tmp_path / "mixed"
    shutil.copytree(f"{log}/volume", mixed / "volume")
    for name in VIEWS:
        shutil.copytree(f"{views}/{name}", mixed / name)
    check_copy(str(mixed), before, writer)
