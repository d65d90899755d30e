"""What a serving store does beside requests, with its real background process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pulzar.disk import SystemDisk
from pulzar.limits import MIB
from pulzar.testing import ManualClock
from pulzar.varidb.entry import Delete, Put
from pulzar.varidb.following import blob_key
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import LocalStore, open_store, rebuild

OPTIONS = StoreOptions(segment_bytes=4 * MIB, reserve_bytes=0, grace_s=1)


@asynccontextmanager
async def opened(directory: Path, clock: ManualClock) -> AsyncIterator[LocalStore]:
    store = await open_store(str(directory), disk=SystemDisk(), clock=clock, options=OPTIONS)
    try:
        yield store
    finally:
        await store.close()


async def put_blob(store: LocalStore, key: bytes, value: bytes) -> None:
    upload = await store.upload(size=len(value))
    await upload.write(value)
    await upload.finish()
    await store.put_upload(Put(key, b""), upload)


def blobs(directory: Path) -> list[str]:
    return sorted(path.stem for path in (directory / "volume" / "blobs").rglob("*.blob"))


def test_the_room_of_replaced_blobs_comes_back(tmp_path: Path) -> None:
    async def life() -> None:
        clock = ManualClock()
        async with opened(tmp_path, clock) as store:
            for number in range(20):  # live data that is not worth a compaction
                await store.put(Put(b"small/%d" % number, b"x" * 100_000))
            for number in range(3):
                await put_blob(store, b"large", b"%d" % number * 2 * MIB)
            await store.put(Put(b"last", b"1"))
            assert len(blobs(tmp_path)) == 3
            await store.compact()
            clock.advance(seconds=2)
            await store.compact()
            (kept,) = blobs(tmp_path)
            position = store._volume.index.get(blob_key(kept))
            assert position is not None
            assert position.segment in store._volume.segments, "its name was left behind"
            entry = store.lookup(b"large")
            assert entry is not None
            chunks = [c async for c in store.chunks(b"large", entry, start=0, end=entry.size)]
            assert b"".join(chunks) == b"2" * 2 * MIB
        async with opened(tmp_path, clock):
            assert blobs(tmp_path) == [kept], "the opening swept a blob that is named"

    asyncio.run(life())
    assert rebuild(str(tmp_path), disk=SystemDisk(), clock=ManualClock()).keys == 22
    assert len(blobs(tmp_path)) == 1


def test_compacting_again_does_nothing_where_nothing_can_be_dropped(tmp_path: Path) -> None:
    async def life() -> None:
        clock = ManualClock()
        async with opened(tmp_path, clock) as store:
            for number in range(200):
                await store.put(Put(b"%d" % number, b"x" * 1000))
            for number in range(0, 200, 2):
                await store.delete(Delete(b"%d" % number))
            first = await store.compact()
            assert first["records_dropped"] >= 100
            for _ in range(3):  # the deletes must stay as long as the replaced file does
                again = await store.compact()
                assert again["segments"] == 0, again

    asyncio.run(life())
