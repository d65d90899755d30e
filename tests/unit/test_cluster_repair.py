"""Repair in one process: copies that move, that are made again, that are hidden."""

import asyncio
import contextlib
import errno
import random
import shutil
from pathlib import Path

import pytest

from pulzar.cluster.messages import Append, Appended, Fetch, Fetched
from pulzar.cluster.operations import Operations
from pulzar.cluster.placement import balance
from pulzar.errors import Conflict, LinkBroken, PulzarError
from pulzar.testing import ManualClock
from pulzar.testing.cluster import Gate, LocalCluster
from pulzar.varidb.entry import Delete, Put
from pulzar.varidb.log import Batch, Log
from pulzar.varidb.record import Type

COUNT = 120


@pytest.fixture(autouse=True)
def each_key_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are few keys here: they are to lie on all volumes."""
    monkeypatch.setattr("pulzar.cluster.placement.RUN_RECORDS", 1)


def value_of(number: int) -> bytes:
    """All of one size: volumes are balanced by bytes, and counted in keys here."""
    return b"%03d;" % number * 1000


async def fill(cluster: LocalCluster) -> None:
    puts = [Put(b"key-%d" % number, value_of(number)) for number in range(COUNT)]
    await asyncio.gather(*(cluster.store.put(put) for put in puts))


async def check(cluster: LocalCluster) -> None:
    for number in range(COUNT):
        key = b"key-%d" % number
        entry = cluster.store.lookup(key)
        assert entry is not None
        assert await cluster.store.read(key, entry) == value_of(number)


def held(cluster: LocalCluster) -> dict[str, int]:
    """How many keys each volume has, as the catalog says."""
    names = {number: m.entry.name for number, m in cluster.store.members.items()}
    counts = dict.fromkeys(names.values(), 0)
    for copies in cluster.store.copies():
        for number in copies.numbers:
            counts[names[number]] += copies.keys
    return counts


def live(cluster: LocalCluster, name: str) -> int:
    """How many keys a volume has, as its index says."""
    index = cluster.volumes[name].serving.volume.index
    keys, _ = index.columns(b"", 10_000)
    positions = [index.get(key) for key in keys if key.startswith(b"key-")]
    return sum(one is not None and one.type == Type.PUT for one in positions)


def test_copies_move_to_a_volume_that_has_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulzar.cluster.placement.BALANCE_FILL_MIN", 0.0)

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await fill(cluster)
            await cluster.start(2)
            repair = cluster.store.repair
            await cluster.until(lambda: held(cluster).get("v2", 0) >= COUNT // 4)
            await cluster.until(lambda: not repair.doing() and balance(repair.filled()) is None)
            await check(cluster)
            counts = held(cluster)
            assert sum(counts.values()) == COUNT
            assert {name: live(cluster, name) for name in counts} == counts

    asyncio.run(life())


def test_what_was_replaced_and_deleted_while_a_volume_was_away_is_hidden_there(
    tmp_path: Path,
) -> None:
    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=3, replicas=2) as cluster:
            await fill(cluster)
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            for number in range(0, COUNT, 2):
                await cluster.store.put(Put(b"key-%d" % number, value_of(number)))
            for number in range(1, COUNT, 4):
                await cluster.store.delete(Delete(b"key-%d" % number))
            await cluster.start(0)
            await cluster.until(lambda: cluster.is_online("v0"))
            await cluster.until(lambda: not cluster.store.repair.doing())
            await cluster.until(lambda: live(cluster, "v0") == held(cluster)["v0"])
            assert cluster.store.repair.redundancy().under == 0

    asyncio.run(life())


def test_a_volume_that_comes_back_as_an_older_copy_of_itself_is_made_good(
    tmp_path: Path,
) -> None:

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2, replicas=2) as cluster:
            await cluster.store.put(Put(b"old", b"x" * 3000))
            await cluster.stop(0)
            shutil.copytree(tmp_path / "v0", tmp_path / "copy")
            await cluster.start(0)
            await cluster.until(lambda: cluster.is_online("v0"))
            await fill(cluster)
            await cluster.stop(0)
            shutil.rmtree(tmp_path / "v0")
            shutil.copytree(tmp_path / "copy", tmp_path / "v0")
            await cluster.start(0)
            await cluster.until(lambda: cluster.is_online("v0"))
            await cluster.until(lambda: live(cluster, "v0") == COUNT)
            await cluster.until(lambda: cluster.store.repair.redundancy().under == 0)
            await cluster.stop(1)
            await check(cluster)

    asyncio.run(life())


def test_a_copy_is_hidden_when_those_that_stay_were_read(tmp_path: Path) -> None:
    clock = ManualClock()

    async def life() -> None:
        async with LocalCluster(str(tmp_path), clock, volumes=2, replicas=2) as cluster:
            await fill(cluster)
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            await cluster.start(2)
            await cluster.until(lambda: cluster.is_online("v2"))
            clock.advance(601)  # what is on v0 does not count any more
            await cluster.until(lambda: held(cluster).get("v2") == COUNT)
            await cluster.stop(1)
            await cluster.until(lambda: not cluster.is_online("v1"))
            flip_values(tmp_path / "v1")
            await cluster.start(1)
            await cluster.until(lambda: cluster.is_online("v1"))
            await cluster.start(0)
            await cluster.until(lambda: sum(held(cluster).values()) == 2 * COUNT)
            await cluster.until(lambda: not cluster.store.repair.doing())
            assert held(cluster)["v1"] == COUNT
            await cluster.stop(0)  # so what was damaged is read from v1
            await cluster.until(lambda: not cluster.is_online("v0"))
            await check(cluster)

    asyncio.run(life())


def flip_values(directory: Path) -> None:
    """Flip a bit in every tenth value of a volume."""
    segment = max(
        (directory / "volume" / "segments").iterdir(), key=lambda path: path.stat().st_blocks
    )
    content = bytearray(segment.read_bytes())
    for number in range(0, COUNT, 10):
        at = content.find(value_of(number))
        assert at >= 0
        content[at + 1000] ^= 1
    segment.write_bytes(content)


def test_an_older_copy_is_known_by_what_was_taken_in_ahead_of_the_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write waits for its second volume, so the cursor of the first stays before it; a later
    one is in the catalog. The first volume then comes back as it was before that."""
    held = asyncio.Event()

    async def append(gate: Gate, append: Append) -> Appended:
        if gate._name == "v1" and b"slow" in [record.key for record in append.records]:
            held.set()
            await asyncio.Event().wait()
        return await gate._volume().append(append)

    async def life() -> None:
        cluster = LocalCluster(str(tmp_path), ManualClock(), volumes=2, replicas=1)
        async with cluster:
            v0 = next(n for n, m in cluster.store.members.items() if m.entry.name == "v0")
            await cluster.store.put(Put(b"early", b"x" * 3000, replicas=2))
            monkeypatch.setattr(Gate, "append", append)
            slow = asyncio.create_task(cluster.store.put(Put(b"slow", b"x" * 3000, replicas=2)))
            await held.wait()
            index = cluster.volumes["v0"].serving.volume.index
            await cluster.until(lambda: index.get(b"slow") is not None)
            shutil.copytree(tmp_path / "v0", tmp_path / "copy")
            keys = [b"late-%d" % number for number in range(20)]
            puts = [cluster.store.put(Put(key, b"x" * 3000)) for key in keys]
            writing = [slow, *map(asyncio.create_task, puts)]  # those to v1 wait behind "slow"
            await cluster.until(lambda: any(map(cluster.store.lookup, keys)))
            late = next(key for key in keys if cluster.store.lookup(key) is not None)
            for task in writing:
                task.cancel()
            monkeypatch.undo()
            monkeypatch.setattr("pulzar.cluster.repair.Repair.returned", lambda *_: None)
            await cluster.stop_master()
            await cluster.stop(0)
            shutil.rmtree(tmp_path / "v0")
            shutil.copytree(tmp_path / "copy", tmp_path / "v0")
            await cluster.start_master()
            await cluster.store.served()
            entry = cluster.store.lookup(late)
            assert entry is not None
            assert entry.holders == (v0,)
            await cluster.start(0)
            await cluster.until(lambda: cluster.is_online("v0"))
            entry = cluster.store.lookup(late)
            assert entry is not None
            assert entry.holders == ()  # it is lost, and that is known before v0 is used

    asyncio.run(life())


def test_a_large_copy_is_hidden_when_those_that_stay_were_read(tmp_path: Path) -> None:
    clock = ManualClock()
    value = random.Random(7).randbytes(3_000_000)

    async def life() -> None:
        async with LocalCluster(str(tmp_path), clock, volumes=2, replicas=2) as cluster:
            await put_large(cluster, b"key-large", value)
            await cluster.stop(0)
            await cluster.until(lambda: not cluster.is_online("v0"))
            await cluster.start(2)
            await cluster.until(lambda: cluster.is_online("v2"))
            clock.advance(601)  # what is on v0 does not count any more
            await cluster.until(lambda: held(cluster).get("v2") == 1)
            await cluster.stop(1)
            await cluster.until(lambda: not cluster.is_online("v1"))
            flip_blob(tmp_path / "v1")
            await cluster.start(1)
            await cluster.until(lambda: cluster.is_online("v1"))
            await cluster.start(0)
            await cluster.until(lambda: cluster.store.repair.healed_total)
            await cluster.until(lambda: sum(held(cluster).values()) == 2)
            await cluster.stop(0)  # so what was damaged is read from v1
            await cluster.until(lambda: not cluster.is_online("v0"))
            assert held(cluster)["v1"] == 1
            entry = cluster.store.lookup(b"key-large")
            assert entry is not None
            chunks = cluster.store.chunks(b"key-large", entry, start=0, end=len(value))
            assert b"".join([chunk async for chunk in chunks]) == value

    asyncio.run(life())


def test_a_large_value_is_copied_from_a_source_that_is_whole(tmp_path: Path) -> None:
    clock = ManualClock()
    value = random.Random(8).randbytes(3_000_000)

    async def life() -> None:
        cluster = LocalCluster(str(tmp_path), clock, volumes=3, replicas=3)
        async with cluster:
            await put_large(cluster, b"key-large", value)
            await cluster.stop(0)
            flip_blob(tmp_path / "v0")
            await cluster.start(0)
            await cluster.stop(2)
            await cluster.until(lambda: cluster.is_online("v0") and not cluster.is_online("v2"))
            await cluster.start(3)
            await cluster.until(lambda: cluster.is_online("v3"))
            clock.advance(601)  # what is on v2 does not count any more
            await cluster.until(lambda: held(cluster).get("v3") == 1)
            await cluster.until(lambda: cluster.store.repair.healed_total == 1)

    asyncio.run(life())


async def put_large(cluster: LocalCluster, key: bytes, value: bytes) -> None:
    upload = await cluster.store.upload(size=len(value))
    await upload.write(value)
    await upload.finish()
    written = await cluster.store.put_upload(Put(key, b""), upload)
    assert written.copies == written.wanted


def flip_blob(directory: Path) -> None:
    """Flip a bit in the last chunk of the only blob of a volume."""
    (blob,) = [path for path in (directory / "volume" / "blobs").rglob("*") if path.is_file()]
    content = bytearray(blob.read_bytes())
    content[-10] ^= 1
    blob.write_bytes(content)


@pytest.mark.parametrize(("replicas", "of_key"), [(1, 3), (2, 1), (1, 2)])
def test_a_master_without_memory_knows_how_many_copies_a_key_wants(
    tmp_path: Path, replicas: int, of_key: int
) -> None:
    async def life() -> None:
        cluster = LocalCluster(str(tmp_path), ManualClock(), volumes=3, replicas=replicas)
        async with cluster:
            for number in range(COUNT):
                put = Put(b"key-%d" % number, value_of(number), "text/plain", replicas=of_key)
                assert (await cluster.store.put(put)).copies == of_key
            before = cluster.store.copies()
            assert {group.replicas for group in before} == {of_key}
            await cluster.stop_master()
            shutil.rmtree(tmp_path / "master" / "catalog.views")
            await cluster.start_master()
            await cluster.until(lambda: cluster.store.not_ready() is None)
            await cluster.until(lambda: all(cluster.is_online(f"v{n}") for n in range(3)))
            await cluster.until(lambda: not cluster.store.repair.doing())
            assert cluster.store.copies() == before
            assert cluster.store.repair.redundancy().under == 0
            await check(cluster)

    asyncio.run(life())


def test_a_volume_whose_disk_has_failed_is_read_from(tmp_path: Path) -> None:
    """It takes no writes until it is started again; what only it has can be read meanwhile."""

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=2) as cluster:
            await fill(cluster)
            before = held(cluster)
            cluster.volumes["v0"].serving.volume.log.fail("the disk failed")
            for number in range(COUNT, COUNT + 20):  # an append to it ends the session
                with contextlib.suppress(PulzarError):
                    await cluster.store.put(Put(b"more-%d" % number, value_of(number)))
            await cluster.until(lambda: cluster.is_online("v0"))
            (member,) = [m for m in cluster.store.members.values() if m.entry.name == "v0"]
            assert member.presence is not None
            assert member.presence.failed
            await check(cluster)
            for number in range(COUNT):
                await cluster.store.delete(Delete(b"key-%d" % number))
            assert cluster.is_online("v0")
            await cluster.stop_master()
            await cluster.start_master()
            await cluster.until(lambda: cluster.is_online("v0") and cluster.is_online("v1"))
            assert cluster.store.lookup(b"key-0") is None
            assert (await cluster.store.put(Put(b"last", b"x" * 3000))).copies == 1
            assert before["v0"]
            await cluster.stop(0)
            await cluster.start(0)
            await cluster.until(lambda: live(cluster, "v0") == 0)  # what it missed is hidden now

    asyncio.run(life())


def test_a_copy_on_a_volume_whose_disk_failed_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is one too many was written there last, and it is not known whether that is on the
    disk: so the copy is there now, and hidden when the volume is started again."""
    monkeypatch.setattr("pulzar.cluster.placement.BALANCE_FILL_MIN", 0.0)
    failed: list[bytes] = []
    write = Log.write

    def write_and_fail(log: Log, batch: Batch) -> None:
        write(log, batch)
        hidden = [record.key for record in batch.records if record.type == Type.MOVED]
        if hidden and not failed and "/v0/" in log._directory:
            failed.extend(hidden)
            log.fail("the disk failed")
            raise OSError(errno.EIO, "Input/output error")

    async def life() -> None:
        async with LocalCluster(str(tmp_path), ManualClock(), volumes=1) as cluster:
            await fill(cluster)
            monkeypatch.setattr(Log, "write", write_and_fail)
            await cluster.start(1)
            await cluster.until(lambda: failed)
            await cluster.until(lambda: cluster.is_online("v0") and cluster.is_online("v1"))
            await cluster.until(lambda: held(cluster)["v1"] == COUNT)  # as v0 is not to be trusted
            operations = Operations(cluster.store, clock=cluster.clock)
            with pytest.raises(Conflict):
                await operations.remove("v1", lost=False, dry_run=False)
            await cluster.stop(0)
            await cluster.start(0)
            await cluster.until(lambda: cluster.is_online("v0"))
            await cluster.until(lambda: not cluster.store.repair.doing())
            await check(cluster)

    asyncio.run(life())


def test_a_value_is_copied_from_the_next_source_where_one_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent: list[str] = []

    async def fetch(gate: Gate, fetch: Fetch) -> Fetched:
        if gate._name in silent:
            raise LinkBroken("it does not answer")
        return await gate._volume().fetch(fetch)

    async def life() -> None:
        cluster = LocalCluster(str(tmp_path), ManualClock(), volumes=3)
        async with cluster:
            await cluster.store.put(Put(b"key", b"x" * 3000, replicas=2))
            entry = cluster.store.lookup(b"key")
            assert entry is not None
            (target,) = cluster.store.members.keys() - set(entry.holders)
            silent.append(cluster.store.members[entry.holders[0]].entry.name)
            monkeypatch.setattr(Gate, "fetch", fetch)
            await cluster.store.repair._copying.copy(b"key", entry, entry.holders, target)
            now = cluster.store.lookup(b"key")
            assert now is not None
            assert target in now.holders

    asyncio.run(life())
