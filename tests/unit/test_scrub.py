"""Scrub: what a slice finds, how a pass goes on, and what becomes of damage."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pulzar.disk import SystemDisk
from pulzar.limits import BLOB_CHUNK_BYTES, MIB, SCRUB_BYTES_PER_S_MIN, SCRUB_INTERVAL_S
from pulzar.testing import ManualClock
from pulzar.testing.cluster import LocalCluster
from pulzar.varidb.blob import blob_path, decode_blob
from pulzar.varidb.entry import Delete, Put
from pulzar.varidb.log import segment_path
from pulzar.varidb.position import Position
from pulzar.varidb.record import HEADER_BYTES, Type
from pulzar.varidb.scrub import (
    NAME,
    DamagedCopy,
    Progress,
    Slice,
    begun_at,
    behind,
    is_due,
    keep_progress,
    next_segment,
    pace,
    read_progress,
    read_slice,
)
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import LocalStore, open_store
from tests.model.engine import Engine

DIRECTORY = "/volume"
OPTIONS = StoreOptions(segment_bytes=4 * MIB, reserve_bytes=0)
DEADLINE_S = 20.0


# A slice.


def engine() -> Engine:
    """A sealed segment, one that waits for its footer, and an active one."""
    made = Engine(5)
    made.write([(b"old", b"1"), (b"kept", b"k" * 90), (b"gone", b"x")])
    made.write([(b"old", b"2"), (b"gone", None)])
    made.write([(b"large", b"in a file" * 50)], blob=True)
    made.volume.roll(now_ms=made.now_ms)
    made.seal()
    made.write([(b"late", b"later")])
    made.volume.roll(now_ms=made.now_ms)
    made.write([(b"active", b"last")])
    return made


def scrub(made: Engine, *, bytes_max: int = 1 << 30) -> tuple[list[DamagedCopy], list[Slice]]:
    """A whole pass; what it found, and its slices."""
    progress = Progress(began_ms=0, until=made.volume.active_segment().id)
    slices: list[Slice] = []
    while (number := next_segment(progress, made.volume.segments)) is not None:
        progress = begun_at(progress, number)
        read = read_slice(
            made.disk,
            DIRECTORY,
            made.index,
            made.volume.segments[number],
            offset=progress.offset,
            chunk=progress.chunk,
            bytes_max=bytes_max,
        )
        slices.append(read)
        progress = behind(progress, read)
    return [copy for read in slices for copy in read.damaged], slices


def flip(made: Engine, position: Position, byte: int, *bits: int) -> None:
    for bit in bits:
        made.disk.flip(segment_path(DIRECTORY, position.segment), position.offset + byte, bit)


def test_nothing_is_found_in_a_volume_that_is_whole() -> None:
    made = engine()
    found, slices = scrub(made)
    assert found == []
    assert all(read.ended and read.footer_holds for read in slices)
    files = sum(segment.size for segment in made.volume.segments.values())
    blob = made.disk.used_bytes(f"{DIRECTORY}/blobs")
    headers = len(slices) * 256
    assert files - headers <= sum(read.read_bytes for read in slices) <= files + blob


@pytest.mark.parametrize("bytes_max", [1, 100, 700, 5000])
def test_slices_of_any_size_read_the_same(bytes_max: int) -> None:
    whole, wholes = scrub(engine())
    found, slices = scrub(engine(), bytes_max=bytes_max)
    assert found == whole
    assert len(slices) >= len(wholes)
    assert sum(read.ended for read in slices) == len(wholes)


@pytest.mark.parametrize(
    ("key", "byte", "bits"),
    [
        (b"kept", HEADER_BYTES + 20, (0,)),  # its value
        (b"kept", 9, (3,)),  # one bit of its header: it can be mended, but not be read
        (b"kept", 9, (3, 4)),  # its header, for good: the index says whose it was
        (b"gone", 9, (3, 4)),
        (b"late", HEADER_BYTES + 5, (0,)),
    ],
)
def test_a_damaged_record_is_found(key: bytes, byte: int, bits: tuple[int, ...]) -> None:
    made = engine()
    position = made.index.entries[key]
    flip(made, position, byte, *bits)
    found, _ = scrub(made)
    assert [(one.key, one.type, one.version, one.seq) for one in found] == [
        (key, position.type, *position.order)
    ]
    assert found[0].place == f"segments/{position.segment:08d}.seg:{position.offset}"


def test_what_is_superseded_may_be_damaged() -> None:
    made = engine()
    old = made.index.entries[b"old"]
    made.write([(b"old", b"3")])
    flip(made, old, HEADER_BYTES + 3, 0)
    assert scrub(made)[0] == []


def test_a_damaged_or_missing_blob_is_found() -> None:
    made = engine()
    position = made.index.entries[b"large"]
    blob = decode_blob(made.volume.records.read(b"large", position).value)
    path = blob_path(DIRECTORY, blob.name)
    made.disk.flip(path, 7, 1)
    place = path.removeprefix(f"{DIRECTORY}/")
    expected = DamagedCopy(b"large", Type.BLOB, *position.order, f"{place}:0")
    assert scrub(made)[0] == [expected]
    assert scrub(made, bytes_max=10)[0] == [expected]
    made.disk.unlink(path)
    assert [copy.place for copy in scrub(made)[0]] == [place]


def test_a_damaged_footer_is_told_and_nothing_is_lost_by_it() -> None:
    made = engine()
    segment = next(one for one in made.volume.segments.values() if one.trailer is not None)
    made.disk.flip(segment_path(DIRECTORY, segment.id), segment.end + 3, 0)
    found, slices = scrub(made)
    assert found == []
    assert [read.footer_holds for read in slices].count(False) == 1


# A pass.


def test_a_pass_is_due_when_the_interval_is_over_or_the_clock_was_set_back() -> None:
    interval_ms = SCRUB_INTERVAL_S * 1000
    ended = Progress(began_ms=5000)
    assert not is_due(ended, 5000)
    assert not is_due(ended, 5000 + interval_ms - 1)
    assert is_due(ended, 5000 + interval_ms)
    assert is_due(ended, 4999)
    assert not is_due(Progress(began_ms=5000, until=3), 5000 + interval_ms)


def test_a_pass_goes_on_behind_a_segment_that_was_rewritten() -> None:
    progress = Progress(began_ms=0, until=9, segment=3, offset=100, chunk=2)
    assert next_segment(progress, [1, 2, 3, 5]) == 3
    assert begun_at(progress, 3) == progress
    assert next_segment(progress, [1, 2, 5, 12]) == 5
    assert begun_at(progress, 5) == Progress(began_ms=0, until=9, segment=5)
    assert next_segment(progress, [1, 2, 9, 12]) is None


def test_a_pass_takes_at_most_half_of_the_interval() -> None:
    slow, day_s = 100 * MIB, 24 * 3600
    assert pace(slow, 0) == slow / SCRUB_BYTES_PER_S_MIN
    kept = SCRUB_BYTES_PER_S_MIN * 100 * day_s
    assert pace(kept, kept) == pytest.approx(15 * day_s)


def test_progress_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    disk, directory = SystemDisk(), str(tmp_path)
    assert read_progress(disk, directory) is None
    progress = Progress(began_ms=7, until=3, segment=2, offset=64, chunk=1)
    keep_progress(disk, directory, progress)
    assert (tmp_path / NAME).read_bytes() == (
        b'{"format":1,"began_ms":7,"until":3,"segment":2,"offset":64,"chunk":1}\n'
    )
    assert read_progress(disk, directory) == progress
    for content in (b"", b"{", b'{"format":2,"began_ms":7}', b"[]"):
        (tmp_path / NAME).write_bytes(content)
        assert read_progress(disk, directory) is None


# A volume that serves.


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(0.005)


async def opened(directory: Path, clock: ManualClock) -> LocalStore:
    return await open_store(str(directory), disk=SystemDisk(), clock=clock, options=OPTIONS)


def flip_on_disk(directory: Path, content: bytes) -> None:
    """Flip a bit in the middle of some bytes that are in one segment."""
    for path in (directory / "volume" / "segments").iterdir():
        data = bytearray(path.read_bytes())
        at = data.find(content)
        if at >= 0:
            data[at + len(content) // 2] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError("these bytes are in no segment")


def flip_header(directory: Path, position: Position) -> None:
    """Flip two bits, which cannot be mended, in the header of a record."""
    segment = Path(segment_path(str(directory / "volume"), position.segment))
    data = bytearray(segment.read_bytes())
    data[position.offset + 9] ^= 0x18
    segment.write_bytes(data)


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.varidb.maintenance.MAINTENANCE_INTERVAL_S", 0.01)
    monkeypatch.setattr("pulzar.varidb.maintenance.pace", lambda *_: 0.0)


@pytest.mark.usefixtures("_often")
def test_damage_is_told_until_it_is_replaced(tmp_path: Path) -> None:
    async def life() -> None:
        clock = ManualClock()
        store = await opened(tmp_path, clock)
        values = {b"key-%d" % n: b"%d," % n * 2000 for n in range(20)}
        for key, value in values.items():
            await store.put(Put(key, value))
        await store.delete(Delete(b"key-9"))
        deleted = store.serving.volume.index.get(b"key-9")
        assert deleted is not None
        maintenance = store.serving.maintenance
        clock.advance(SCRUB_INTERVAL_S - 1)
        flip_on_disk(tmp_path, values[b"key-4"])
        flip_on_disk(tmp_path, values[b"key-7"])
        flip_header(tmp_path, deleted)
        assert maintenance.damaged() == []
        clock.advance(1)
        await until(lambda: len(maintenance.damaged()) == 2)
        assert {copy.key for copy in maintenance.damaged()} == {b"key-4", b"key-7"}
        await store.put(Put(b"key-4", b"again"))
        assert {copy.key for copy in maintenance.damaged()} == {b"key-7"}
        assert store.statistics()["damaged_copies"] == 1
        again = store.serving.volume.index
        await until(lambda: (now := again.get(b"key-9")) and now.seq > deleted.seq)
        await until(lambda: (read_progress(SystemDisk(), str(tmp_path)) or _unread()).until == 0)
        await store.delete(Delete(b"key-7"))
        assert maintenance.damaged() == []
        scrubbed = maintenance.scrubbed_bytes_total
        clock.advance(SCRUB_INTERVAL_S)
        await until(lambda: maintenance.scrubbed_bytes_total > scrubbed)
        await store.close()

    asyncio.run(life())


def _unread() -> Progress:
    return Progress(began_ms=0, until=1)


def test_a_pass_goes_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.varidb.maintenance.MAINTENANCE_INTERVAL_S", 0.01)
    monkeypatch.setattr("pulzar.varidb.maintenance.SCRUB_SLICE_BYTES", 100_000)
    paces: list[float] = []

    def slow(read_bytes: int, _kept: int) -> float:
        paces.append(read_bytes)
        return 0.0 if len(paces) % 5 else 3600.0

    monkeypatch.setattr("pulzar.varidb.maintenance.pace", slow)

    async def life() -> None:
        clock = ManualClock()
        store = await opened(tmp_path, clock)
        for number in range(60):
            await store.put(Put(b"key-%d" % number, b"%d," % number * 10_000))
        upload = await store.upload(size=3 * BLOB_CHUNK_BYTES)
        await upload.write(b"y" * 3 * BLOB_CHUNK_BYTES)
        await upload.finish()
        await store.put_upload(Put(b"large", b""), upload)
        clock.advance(SCRUB_INTERVAL_S)
        places: list[Progress] = []
        await until(lambda: paces)
        for stop in range(5, 100, 5):
            await until(partial(stopped_or_ended, paces, stop, tmp_path))
            progress = read_progress(SystemDisk(), str(tmp_path))
            assert progress is not None
            if not progress.until:
                break
            places.append(progress)
            await store.close()
            store = await opened(tmp_path, clock)
        assert ended(tmp_path)
        order = [(one.segment, one.offset, one.chunk) for one in places]
        assert order == sorted(set(order)), "it began again"
        assert len(order) > 1
        assert any(one.chunk for one in places) or len(order) > 2
        assert sum(paces) < 2 * (60 * 40_000 + 4 * MIB)
        await store.close()

    asyncio.run(life())


def stopped_or_ended(paces: list[float], stop: int, directory: Path) -> bool:
    return len(paces) >= stop or ended(directory)


def ended(directory: Path) -> bool:
    progress = read_progress(SystemDisk(), str(directory))
    return progress is not None and not progress.until


@pytest.mark.usefixtures("_often")
def test_a_damaged_copy_in_a_cluster_is_made_anew_although_nobody_reads_it(tmp_path: Path) -> None:
    async def life() -> None:
        clock = ManualClock()
        async with LocalCluster(str(tmp_path), clock, volumes=2, replicas=2) as cluster:
            values = {b"key-%d" % n: b"%d," % n * 2000 for n in range(20)}
            for key, value in values.items():
                await cluster.store.put(Put(key, value))
            for key in (b"key-3", b"key-11"):
                flip_on_disk(tmp_path / "v1", values[key])
            clock.advance(SCRUB_INTERVAL_S)
            await cluster.until(lambda: cluster.store.repair.healed_total >= 2)
            maintenance = cluster.volumes["v1"].serving.maintenance
            await cluster.until(lambda: not maintenance.damaged() and ended(tmp_path / "v1"))
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            for key, value in values.items():
                entry = cluster.store.lookup(key)
                assert entry is not None
                assert await cluster.store.read(key, entry) == value

    asyncio.run(life())


def test_a_copy_of_a_directory_takes_its_progress_along(tmp_path: Path) -> None:
    """It may: a pass is of files, and the copy has the same ones."""
    directory = tmp_path / "from"
    directory.mkdir()
    keep_progress(SystemDisk(), str(directory), Progress(began_ms=1, until=2))
    shutil.copytree(directory, tmp_path / "to")
    assert read_progress(SystemDisk(), str(tmp_path / "to")) == Progress(began_ms=1, until=2)
